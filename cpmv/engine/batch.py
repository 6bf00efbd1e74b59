"""The model's side of a batch: prompts of unequal length, left-padded, with their mask, positions and KV cache.

`prefill` reads the prompts, `step` one more token a row, `select` drops, repeats or reorders rows. Whether rows are
conversations or beams is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..model.config import ModelInputs
from ..model.language import positions_of
from ..model.minicpmv import MiniCPMV

# Room for answers that is reserved at once, in tokens; the cache grows by itself when they are longer.
_RESERVED_TOKENS = 2048


class Batch:
    """Rows that decode together.

    new_tokens: the most tokens any row will add. masked_id: a token id that, in prompts, is neither attended nor
    counted in positions (the reference's mistake with id 0); None masks nothing but padding.
    """

    def __init__(
        self, model: MiniCPMV, inputs: Sequence[ModelInputs], new_tokens: int, *, masked_id: int | None = None
    ) -> None:
        self._model, self._inputs = model, inputs
        self._longest = max(len(prompt) for prompt in inputs)
        mask = torch.zeros(len(inputs), self._longest + new_tokens, dtype=torch.bool)
        for row, prompt in enumerate(inputs):
            start = self._longest - len(prompt)
            mask[row, start:] = True
            if masked_id is not None:
                mask[row, start : self._longest] = prompt.input_ids.cpu() != masked_id
        # Without a mask attention takes its fastest path.
        self._mask = None if bool(mask.all()) else mask.to(model.device)
        next_positions = mask[:, : self._longest].sum(1, keepdim=True)
        self._next_positions = next_positions.to(model.device)
        self._cache = model.new_cache(len(inputs), self._longest + min(new_tokens, _RESERVED_TOKENS))

    @property
    def num_rows(self) -> int:
        return self._next_positions.shape[0]

    @torch.inference_mode()
    def prefill(self, chunk: int | None = None) -> Tensor:
        """Read the prompts, `chunk` positions at a time (all at once by default); return float32 logits [B, V]."""
        x = self._embed_prompts()
        mask = None if self._mask is None else self._mask[:, : self._longest]
        positions = torch.arange(self._longest, device=x.device)[None] if mask is None else positions_of(mask)
        logits = None
        for start in range(0, self._longest, chunk or self._longest):
            end = min(self._longest, start + (chunk or self._longest))
            logits = self._model.forward(
                x[:, start:end],
                position_ids=positions[:, start:end],
                attention_mask=None if mask is None else mask[:, :end],
                cache=self._cache,
                last_only=True,
            )
        assert logits is not None
        return logits[:, -1].float()

    def _embed_prompts(self) -> Tensor:
        """Return [B, S, E] with zeros on padding. One prompt at a time, so that pictures need bounded memory."""
        if len(self._inputs) == 1:
            return self._model.embed(self._inputs[0])[None]
        rows = [self._model.embed(prompt) for prompt in self._inputs]
        x = rows[0].new_zeros(len(rows), self._longest, rows[0].shape[-1])
        for row, embeds in enumerate(rows):
            x[row, self._longest - embeds.shape[0] :] = embeds
        return x

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Read one more token a row (int64 [B]); return float32 logits [B, V]."""
        logits = self._model.forward(
            self._model.embed_tokens(tokens[:, None]),
            position_ids=self._next_positions,
            attention_mask=None if self._mask is None else self._mask[:, : self._cache.length + 1],
            cache=self._cache,
            last_only=True,
        )
        self._next_positions = self._next_positions + 1
        return logits[:, -1].float()

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        """Let row i continue what row rows[i] was; rows may be left out or repeated."""
        if list(rows) == list(range(self.num_rows)):
            return
        indices = torch.tensor(rows, dtype=torch.int64, device=self._model.device)
        self._cache.reorder(indices)
        self._next_positions = self._next_positions[indices]
        if self._mask is not None:
            self._mask = self._mask[indices]
