"""MiniCPM-V 4.5 whole: pictures and frames become tokens, take their places among the words, and are decoded.

Parameter names equal the released ones (`vpm.*`, `resampler.*`, `llm.*`). Build it under `torch.device("meta")` and
let `weights` fill it; nothing is computed or stored at construction.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import MessageError
from ..kernels.fused import usable
from .cache import CacheSpec, ContiguousCache, KVCache
from .config import ModelConfig, ModelInputs
from .encoding import ImageEncoder
from .language import LanguageModel, positions_of
from .resampler import Resampler
from .vision import VisionTower


class MiniCPMV(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vpm = VisionTower(config.vision, config.image.norm_mean, config.image.norm_std)
        self.resampler = Resampler(config.resampler)
        self.llm = LanguageModel(config.language)
        self._encoder: ImageEncoder | None = None

    @property
    def device(self) -> torch.device:
        return self.llm.model.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype activations run in. Stored weights may differ (memory-mapped or quantised)."""
        return self.llm.model.norm.weight.dtype

    def new_cache(self, batch: int, max_len: int) -> ContiguousCache:
        return ContiguousCache(self.config.language, batch, max_len, self.device, self.dtype)

    def cache_spec(self) -> CacheSpec:
        """What must be kept for every token, by which an engine sizes its cache."""
        c = self.config.language
        return CacheSpec(c.num_hidden_layers, c.num_key_value_heads, c.head_dim, self.dtype)

    def encode_images(
        self,
        patches: Tensor,
        tgt_sizes: Tensor | Sequence[Sequence[int]],
        temporal_ids: Sequence[Sequence[int]],
        *,
        steady: bool = False,
    ) -> Tensor:
        """Turn pixels into tokens.

        patches: uint8 or normalised float [P, C, p, p]; tgt_sizes: [N, 2] rows and columns; temporal_ids: G lists
        with one id a slice, -1 for a picture. Returns [G, Q, E]. Groups are encoded a bounded number of slices at a
        time, so a long video costs no more memory than its longest part. steady: to the bit, whatever came before.
        """
        sizes = [(int(h), int(w)) for h, w in torch.as_tensor(tgt_sizes).tolist()]
        num_slices = sum(len(ids) for ids in temporal_ids)
        assert num_slices == len(sizes), f"{len(sizes)} slices but {num_slices} temporal ids"
        if usable(self.vpm.post_layernorm.weight):
            fast = self._encode_fast(patches, sizes, temporal_ids, steady)
            if fast is not None:
                return fast
        out: list[Tensor] = []
        group = slice_ = patch = 0
        while group < len(temporal_ids):
            # Enough groups to fill the tower's batch, at least one.
            end, count = group, 0
            while end < len(temporal_ids) and (count == 0 or count + len(temporal_ids[end]) <= self._slices_at_once):
                count += len(temporal_ids[end])
                end += 1
            part = sizes[slice_ : slice_ + count]
            num_patches = sum(h * w for h, w in part)
            features = self.vpm(patches[patch : patch + num_patches], part)
            out.append(self.resampler(features, part, temporal_ids[group:end]))
            group, slice_, patch = end, slice_ + count, patch + num_patches
        return torch.cat(out)

    def _encode_fast(
        self, patches: Tensor, sizes: list[tuple[int, int]], temporal_ids: Sequence[Sequence[int]], steady: bool
    ) -> Tensor | None:
        """By the folded tower and resampler, made at first use and again when weights have changed."""
        if self._encoder is not None:
            out = self._encoder.encode(patches, sizes, temporal_ids, steady=steady)
            # Asked afterwards, while the device computes; the answer is nearly always yes.
            if self._encoder.current():
                return out
        self._encoder = ImageEncoder.of(self.vpm, self.resampler)
        return None if self._encoder is None else self._encoder.encode(patches, sizes, temporal_ids, steady=steady)

    @property
    def _slices_at_once(self) -> int:
        # Slices of one image have two shapes at most, so a few tower batches keep every shape's batch full.
        return 4 * max(1, self.config.vision.batch_size)

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Return the embeddings [..., E] of token ids [...], in the dtype the model runs in."""
        x = self.llm.model.embed_tokens.rows(ids, self.dtype)
        scale = self.config.language.scale_emb
        return x if scale == 1.0 else x * scale

    def embed(self, inputs: ModelInputs) -> Tensor:
        """Return the prompt's embeddings [S, E], pictures in their places."""
        x = self.embed_tokens(inputs.input_ids.to(self.device))
        bounds = inputs.image_bounds.tolist()
        if len(bounds) != len(inputs.temporal_ids):
            raise MessageError(
                f"the text has {len(bounds)} places for pictures but {len(inputs.temporal_ids)} groups of slices came"
            )
        if not bounds:
            return x
        features = self.encode_images(inputs.patches, inputs.tgt_sizes, inputs.temporal_ids)
        rows = torch.cat([torch.arange(start, end) for start, end in bounds]).to(self.device)
        # Out of place, so that training can differentiate through both sides.
        return x.index_copy(0, rows, features.flatten(0, 1).to(x.dtype))

    def forward(
        self,
        inputs_embeds: Tensor,
        *,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: KVCache | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Decode embeddings to logits.

        inputs_embeds: [B, S, E]; position_ids: int64 [B, S], by default counted from the mask, or onward from the
        cache; attention_mask: bool [B, cached + S], false where a token is padding; last_only: head on the last
        position alone. Returns logits [B, S or 1, V] in the model's dtype.
        """
        num_new = inputs_embeds.shape[1]
        if position_ids is None:
            if attention_mask is not None:
                position_ids = positions_of(attention_mask)[:, -num_new:]
            else:
                past = cache.length if cache is not None else 0
                position_ids = torch.arange(past, past + num_new, device=inputs_embeds.device)[None]
        rows = torch.full((1,), num_new - 1, device=inputs_embeds.device) if last_only else None
        return self.llm.head(self.llm.model(inputs_embeds, position_ids, attention_mask, cache, rows))

    @torch.inference_mode()
    def logits(self, inputs: ModelInputs, attention_mask: Tensor | None = None) -> Tensor:
        """Return float32 logits [S, V] of every position of one prompt.

        attention_mask: bool [S], false where a token is not attended; by default all are.
        """
        mask = None if attention_mask is None else attention_mask.to(self.device)[None]
        return self.forward(self.embed(inputs)[None], attention_mask=mask)[0].float()
