"""Sequences that share a row: attention by segment is attention under a mask, gradients included."""

from __future__ import annotations

import torch

from cpmv.model.attention import Segments, attention, segment_mask


def test_segments_give_what_their_mask_gives() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, heads, 40, 8, generator=generator, dtype=torch.float64, requires_grad=True)
        for heads in (4, 2, 2)
    )
    segments = Segments(torch.tensor([0, 7, 8, 8, 30, 40], dtype=torch.int32), 22)
    by_segment = attention(q, k, v, scale=0.3, mask=segments)
    masked = attention(q, k, v, scale=0.3, mask=segment_mask(segments, 40))
    torch.testing.assert_close(by_segment, masked)
    weights = torch.randn(masked.shape, generator=generator, dtype=torch.float64)
    for mine, theirs in zip(
        torch.autograd.grad((by_segment * weights).sum(), (q, k, v)),
        torch.autograd.grad((masked * weights).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)
