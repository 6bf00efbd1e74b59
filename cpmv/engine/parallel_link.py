"""What ranks say to each other: plans as integers over gloo, sums and shares of activations over NCCL or gloo.

The modules that make a decoder of parts whole are here too: each is a plain layer with one collective behind it.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CpmvError
from ..model.config import ModelConfig
from ..model.language import DecoderLayer, LanguageModel
from ..model.minicpmv import MiniCPMV
from .parallel_split import words_each, words_of

# Words of a plan that go out at once: a decoding step of 32 rows with 1000 tokens each fits.
_FRAME = 4096
# An idle engine says nothing for as long as nobody asks; a peer that dies closes its connection, which is noticed.
_PATIENCE = timedelta(days=365)


class ParallelError(CpmvError):
    """The processes of several GPUs do not work together any more; the model must be loaded again."""


class Link:
    """This process among its peers, after `connect`."""

    def __init__(self, rank: int, size: int, device: torch.device, control: dist.ProcessGroup | None) -> None:
        self.rank, self.size, self.device = rank, size, device
        self._control = control

    @classmethod
    def connect(cls, store: dist.Store, rank: int, size: int, device: torch.device) -> Link:
        """Enter the process group. Raises ParallelError where the process is in one already."""
        if dist.is_initialized():
            raise ParallelError("this process is in a torch.distributed group already; load the model outside of it")
        if sys.platform.startswith("linux"):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on this host, whatever its name means
        if device.type == "cuda":
            torch.cuda.set_device(device)
            dist.init_process_group("nccl", store=store, rank=rank, world_size=size, device_id=device)
            return cls(rank, size, device, dist.new_group(backend="gloo", timeout=_PATIENCE))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=_PATIENCE)
        return cls(rank, size, device, None)

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    def tell(self, words: list[int]) -> None:
        """Give the others integers: one broadcast, two when there are many."""
        frame = torch.zeros(_FRAME, dtype=torch.int64)
        values = torch.tensor([len(words), *words], dtype=torch.int64)
        frame[: len(values)] = values[:_FRAME]
        dist.broadcast(frame, 0, group=self._control)
        if len(values) > _FRAME:
            dist.broadcast(values[_FRAME:].contiguous(), 0, group=self._control)

    def hear(self) -> list[int]:
        """Wait for what rank 0 tells."""
        frame = torch.empty(_FRAME, dtype=torch.int64)
        dist.broadcast(frame, 0, group=self._control)
        count = int(frame[0]) + 1
        if count > _FRAME:
            rest = torch.empty(count - _FRAME, dtype=torch.int64)
            dist.broadcast(rest, 0, group=self._control)
            frame = torch.cat([frame, rest])
        words: list[int] = frame[1:count].tolist()
        return words

    def give(self, tensor: Tensor) -> None:
        """Give every rank rank 0's contiguous tensor, in place."""
        dist.broadcast(tensor, 0)

    def add(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all ranks."""
        tensor = tensor.contiguous()
        dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """Put the ranks' [..., n] side by side: [..., ranks * n]."""
        out = tensor.new_empty(self.size, *tensor.shape)
        dist.all_gather(list(out.unbind()), tensor.contiguous())
        return out.movedim(0, -2).flatten(-2)


class Summed(nn.Module):
    """A linear map whose columns are shared out: the products are summed."""

    def __init__(self, link: Link, part: nn.Module) -> None:
        super().__init__()
        self._link, self.part = link, part

    def forward(self, x: Tensor) -> Tensor:
        return self._link.add(self.part(x))


class Words(nn.Module):
    """A head, or an embedding table that is one too, whose rows are shared out: scores are put side by side."""

    def __init__(self, link: Link, part: nn.Module, vocab_size: int) -> None:
        super().__init__()
        self._link, self.part, self._vocab_size = link, part, vocab_size

    def _whole(self, scores: Tensor) -> Tensor:
        spare = words_each(self._vocab_size, self._link.size) - scores.shape[-1]
        return self._link.gather(F.pad(scores, (0, spare)))[..., : self._vocab_size]

    def forward(self, x: Tensor) -> Tensor:
        return self._whole(self.part(x))

    def project(self, x: Tensor) -> Tensor:
        """Score x [..., E] against every row of a table."""
        return self._whole(self.part.project(x))  # type: ignore[operator]


def leave(decoder: LanguageModel) -> None:
    """Undo `join`: plain layers again, as whoever reads weights expects them."""
    for name, module in list(decoder.named_modules()):
        if isinstance(module, (Summed, Words)):
            parent, _, leaf = name.rpartition(".")
            setattr(decoder.get_submodule(parent), leaf, module.part)


def join(decoder: LanguageModel, link: Link) -> None:
    """Put the collectives behind a decoder's parts; its weights stay where they are."""
    for layer in decoder.model.layers:
        one = cast(DecoderLayer, layer)
        setattr(one.self_attn, "o_proj", Summed(link, one.self_attn.o_proj))  # noqa: B010
        setattr(one.mlp, "down_proj", Summed(link, one.mlp.down_proj))  # noqa: B010
    if decoder.config.tie_word_embeddings:
        table = Words(link, decoder.model.embed_tokens, decoder.config.vocab_size)
        setattr(decoder.model, "embed_tokens", table)  # noqa: B010
    else:
        setattr(decoder, "lm_head", Words(link, decoder.lm_head, decoder.config.vocab_size))  # noqa: B010


class SplitMiniCPMV(MiniCPMV):
    """One rank's part of a network. config: as `split_config` gives it; `link` is set before it computes."""

    link: Link

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Return the embeddings [..., E]: every rank looks up its own words, the others' are zeros."""
        held: nn.Module = self.llm.model.embed_tokens
        table = held.part if isinstance(held, Words) else held
        first, last = words_of(self.config.language, self.link.rank, self.link.size)
        own = (ids >= first) & (ids < last)
        rows = table.rows(torch.where(own, ids - first, 0), self.dtype)  # type: ignore[operator]
        x = self.link.add(rows * own[..., None])
        scale = self.config.language.scale_emb
        return x if scale == 1.0 else x * scale

    def forward(self, *args: object, **options: object) -> Tensor:
        raise CpmvError(
            "beam search, compat='reference' and logits run in one process; load the model without gpus for them"
        )

    new_cache = forward  # type: ignore[assignment]
    embed = forward
