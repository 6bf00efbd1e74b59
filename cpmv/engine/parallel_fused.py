"""The fused decoding step of one rank's part: `fused`'s kernels, with a sum after every attention and every MLP.

Rank 0 adds its products to the residual, the others to zeros, so that one sum over the ranks gives the new residual
and no kernel is left out. Inside a recorded step the sums are recorded as well.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels import attention as paged
from ..kernels import launch, linear
from ..model.cache import PagedPool
from ..model.language import LanguageModel
from ..model.layers import clamp_half
from .fused import FusedDecoder, Unsupported
from .parallel_link import Link
from .parallel_split import words_each, words_of

log = logging.getLogger("cpmv")


class FusedPart(FusedDecoder):
    """decoder: a rank's part, before `join`. Arguments and results of `step` are the whole decoder's."""

    def __init__(self, decoder: LanguageModel, pool: PagedPool, link: Link) -> None:
        super().__init__(decoder, pool)
        self._link = link
        self._first, self._last = words_of(decoder.config, link.rank, link.size)

    def step(
        self, ids: Tensor, position: Tensor, table: Tensor, logits: Tensor, likeliest: Tensor, config: Any = None
    ) -> None:
        c, sums = self._config, not launch.only_compiles()
        paging = paged.Paging(position, table)
        max_keys = table.shape[1] * self._pool.keys[0].shape[1]
        split = config or paged.choose_split(ids.shape[0], c.num_key_value_heads, max_keys, self._processors)
        x = self._embed(ids, likeliest)
        layers = self._layers if sums else self._layers[:1]
        for layer, keys, values in zip(layers, self._pool.keys, self._pool.values, strict=False):
            qkv = linear.multiply(x, layer.qkv, norm=layer.norm, bias=layer.qkv_bias)
            attended = paged.decode_attention(qkv, (keys, values), paging, layer.heads, self._rotary, split)
            held = self._residual(x)
            linear.multiply(attended, layer.output, residual=held, bias=layer.output_bias, idle=True)
            x = self._sum(held)
            inner = linear.multiply(x, layer.gate_up, norm=layer.mlp_norm, gated=True)
            held = self._residual(x)
            linear.multiply(inner, layer.down, residual=held)
            x = self._sum(held)
        self._score(x, logits)
        linear.argmax(logits, likeliest)

    def _score(self, x: Tensor, logits: Tensor) -> None:
        """Every rank scores its own words; all get all."""
        sums, vocab_size = not launch.only_compiles(), self._config.vocab_size
        if self._head is None:
            if sums:  # by now the decoder's head puts the ranks' scores together itself
                logits.copy_(self._decoder.head(self._decoder.model.norm(x)))
            return
        own = logits.new_empty(len(x), self._last - self._first)
        linear.multiply(x, self._head, norm=self._norm, bias=self._head_bias, out=own)
        if sums:
            spare = words_each(vocab_size, self._link.size) - own.shape[1]
            logits.copy_(self._link.gather(F.pad(own, (0, spare)))[:, :vocab_size])

    def _residual(self, x: Tensor) -> Tensor:
        return x if self._link.rank == 0 else torch.zeros_like(x)

    def _sum(self, x: Tensor) -> Tensor:
        return x if launch.only_compiles() else clamp_half(self._link.add(x))

    def _embed(self, ids: Tensor, chosen: Tensor) -> Tensor:
        ids = torch.where(ids < 0, chosen, ids)
        own = (ids >= self._first) & (ids < self._last)
        rows = self._table.rows(torch.where(own, ids - self._first, 0), self.dtype) * own[:, None]
        x = self._sum(rows)
        scale = self._config.scale_emb
        return x if scale == 1.0 else x * scale


def fuse_part(decoder: LanguageModel, pool: PagedPool, link: Link) -> FusedPart | None:
    """As `fused.fuse`, for a rank's part."""
    if not launch.available(decoder.model.norm.weight.device):
        return None
    try:
        return FusedPart(decoder, pool, link)
    except Unsupported as reason:
        log.warning("decoding uses plain torch, slower: %s", reason)
        return None
