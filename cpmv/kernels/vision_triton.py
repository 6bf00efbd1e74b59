"""Triton kernels of the vision side: pixels to patches, and the resampler's softmax over keys."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def normalise_patches(
    x_ptr,
    mean_ptr,
    std_ptr,
    y_ptr,
    num_rows,
    size,
    padded,
    per_channel,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """uint8 patches [P, size] to (x / 255 - mean) / std in 16 bits, [P, padded] with zeros behind."""
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    cols = tl.arange(0, BLOCK)
    here = cols < size
    x = tl.load(x_ptr + rows * size + cols[None, :], (rows < num_rows) & here[None, :], 0).to(tl.float32)
    channel = cols // per_channel
    mean = tl.load(mean_ptr + channel, here, 0.0)[None, :]
    std = tl.load(std_ptr + channel, here, 1.0)[None, :]
    y = tl.where(here[None, :], tl.div_rn(tl.div_rn(x, 255.0) - mean, std), 0.0)
    inside = (rows < num_rows) & (cols < padded)[None, :]
    tl.store(y_ptr + rows * padded + cols[None, :], y.to(y_ptr.dtype.element_ty), inside)


@triton.jit
def _scores(
    scores_ptr, x_ptr, y_ptr, time_ptr, x_table_ptr, y_table_ptr, time_table_ptr, row, valid, size, cols, inside
):
    """Scores of some keys with what their positions add."""
    x = tl.load(x_ptr + row, valid, 0)
    y = tl.load(y_ptr + row, valid, 0)
    t = tl.load(time_ptr + row, valid, 0)
    s = tl.load(scores_ptr + row[:, None] * size + cols, inside, float("-inf"))
    s += tl.load(x_table_ptr + x[:, None] * size + cols, inside, 0.0)
    s += tl.load(y_table_ptr + y[:, None] * size + cols, inside, 0.0)
    return s + tl.load(time_table_ptr + t[:, None] * size + cols, inside, 0.0)


@triton.jit
def softmax_over_keys(
    scores_ptr,
    x_ptr,
    y_ptr,
    time_ptr,
    x_table_ptr,
    y_table_ptr,
    time_table_ptr,
    out_ptr,
    num_keys,
    size,
    KEYS: tl.constexpr,
    COLS: tl.constexpr,
):
    """softmax over the keys of one group, for COLS queries a program, which reads its scores twice."""
    group = tl.program_id(0).to(tl.int64)
    cols = (tl.program_id(1) * COLS + tl.arange(0, COLS))[None, :]
    highest = tl.full([COLS], float("-inf"), tl.float32)
    total = tl.zeros([COLS], tl.float32)
    for start in range(0, num_keys, KEYS):
        key = start + tl.arange(0, KEYS)
        valid = key < num_keys
        inside = valid[:, None] & (cols < size)
        row = group * num_keys + key
        s = _scores(
            scores_ptr, x_ptr, y_ptr, time_ptr, x_table_ptr, y_table_ptr, time_table_ptr, row, valid, size, cols, inside
        )
        best = tl.maximum(highest, tl.max(s, 0))
        total = total * tl.exp(highest - best) + tl.sum(tl.exp(s - best[None, :]), 0)
        highest = best
    for start in range(0, num_keys, KEYS):
        key = start + tl.arange(0, KEYS)
        valid = key < num_keys
        inside = valid[:, None] & (cols < size)
        row = group * num_keys + key
        s = _scores(
            scores_ptr, x_ptr, y_ptr, time_ptr, x_table_ptr, y_table_ptr, time_table_ptr, row, valid, size, cols, inside
        )
        p = tl.exp(s - highest[None, :]) / total[None, :]
        tl.store(out_ptr + row[:, None] * size + cols, p.to(out_ptr.dtype.element_ty), inside)
