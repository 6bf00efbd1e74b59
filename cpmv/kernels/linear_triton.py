"""Triton kernels behind `linear.multiply`: x [M, K] times a dense weight [N, K], for M small enough to wait for memory.

`gemv` is for one row: a program owns a few rows of the weight and streams them through registers. `tile` is for up to
64: the weight is the tall operand of a tensor-core product, so padding the rows of x to 16 costs no bandwidth. Both
normalise x on the way in (the norm's factor is one number a row and is applied to the result) and fold what follows.
With programmatic dependent launch a kernel asks for its weights while the one before it still computes.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def _prefetch(base, first, N, K: tl.constexpr, BN: tl.constexpr, BYTES: tl.constexpr, THREADS: tl.constexpr):
    """Ask L2 for the first BYTES of each of BN rows, every thread for its own piece."""
    PIECES: tl.constexpr = THREADS // BN
    SIZE: tl.constexpr = BYTES // PIECES
    thread = tl.arange(0, THREADS)
    rows = tl.minimum(first + thread // PIECES, N - 1)
    address = (base + rows.to(tl.int64) * K).to(tl.int64) + (thread % PIECES) * SIZE
    tl.inline_asm_elementwise(
        "cp.async.bulk.prefetch.L2.global [$1], $2; // $0",
        "=r,l,r",
        [address, tl.full([THREADS], SIZE, tl.int32)],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def _silu_times(gate, up, DTYPE: tl.constexpr):
    """silu(gate) * up with the roundings of the plain path: product, activation and result in 16 bits."""
    gate = gate.to(DTYPE).to(tl.float32)
    up = up.to(DTYPE).to(tl.float32)
    activated = (gate / (1 + tl.exp(-gate))).to(DTYPE).to(tl.float32)
    return activated * up


@triton.jit
def _add(value, at, mask, DTYPE: tl.constexpr):
    """Return residual + value, each rounded as the plain path rounds; float16 saturates."""
    total = tl.load(at, mask=mask, other=0.0).to(tl.float32) + value.to(DTYPE).to(tl.float32)
    if DTYPE == tl.float16:
        total = tl.minimum(tl.maximum(total, -65504.0), 65504.0)
    return total


@triton.jit
def gemv(
    x_ptr,
    w_ptr,
    out_ptr,
    norm_ptr,
    bias_ptr,
    N,
    eps,
    K: tl.constexpr,
    NORM: tl.constexpr,
    GATED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BIAS: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PREFETCH: tl.constexpr,
    EARLY: tl.constexpr,
    THREADS: tl.constexpr,
    PDL: tl.constexpr,
):
    """out [N] = norm(x) [K] @ w [N, K]^T, then bias, gate or residual. K is a multiple of BK. GATED: w is [2N, K]."""
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    first = tl.program_id(0) * BN
    rows = first + tl.arange(0, BN)
    cols = tl.arange(0, BK)
    held = tl.minimum(rows, N - 1).to(tl.int64)
    w_at = w_ptr + held[:, None] * K + cols[None, :]
    u_at = w_at + N.to(tl.int64) * K
    w = tl.load(w_at, eviction_policy="evict_first")
    if GATED:
        u = tl.load(u_at, eviction_policy="evict_first")
    if PDL:
        if PREFETCH > 0:
            # Only those that run beside the kernel before: later ones would ask for everything twice.
            if tl.program_id(0) < EARLY:
                _prefetch(w_ptr, first, N, K, BN, PREFETCH, THREADS)
                if GATED:
                    _prefetch(w_ptr + N.to(tl.int64) * K, first, N, K, BN, PREFETCH, THREADS)
        gdc_wait()
        gdc_launch_dependents()
    acc = tl.zeros([BN, BK], tl.float32)
    acc_u = tl.zeros([BN, BK], tl.float32)
    squares = tl.zeros([BK], tl.float32)
    for k in tl.static_range(0, K, BK):
        if k > 0:
            w = tl.load(w_at + k, eviction_policy="evict_first")
            if GATED:
                u = tl.load(u_at + k, eviction_policy="evict_first")
        x = tl.load(x_ptr + k + cols).to(tl.float32)
        if NORM:
            squares += x * x
            x *= tl.load(norm_ptr + k + cols).to(tl.float32)
        acc += w.to(tl.float32) * x[None, :]
        if GATED:
            acc_u += u.to(tl.float32) * x[None, :]
    value = tl.sum(acc, 1)
    up = tl.sum(acc_u, 1)
    if NORM:
        factor = 1 / tl.sqrt(tl.sum(squares, 0) / K + eps)
        value *= factor
        up *= factor
    live = rows < N
    if BIAS:
        value += tl.load(bias_ptr + rows, mask=live, other=0.0).to(tl.float32)
    if GATED:
        value = _silu_times(value, up, DTYPE)
    if RESIDUAL:
        value = _add(value, out_ptr + rows, live, DTYPE)
    tl.store(out_ptr + rows, value.to(DTYPE).to(out_ptr.dtype.element_ty), mask=live)


@triton.jit(do_not_specialize=["M"])
def tile(
    x_ptr,
    w_ptr,
    out_ptr,
    norm_ptr,
    bias_ptr,
    part_ptr,
    count_ptr,
    M,
    N,
    eps,
    K: tl.constexpr,
    NORM: tl.constexpr,
    GATED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BIAS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    SPLIT: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    """The same for M <= BM rows. SPLIT programs share a tile's K; the last to arrive adds their sums, in order.

    part: float32 [tiles, SPLIT, BN, BM], and [tiles, SPLIT, BM] after it; count: int32 [tiles], zeros, left as zeros.
    NORM 2 computes the norm before the product, as float16's range asks.
    """
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    PART: tl.constexpr = K // SPLIT
    pid, split = tl.program_id(0), tl.program_id(1)
    first = pid * BN
    rows = first + tl.arange(0, BN)
    cols = tl.arange(0, BK)
    ms = tl.arange(0, BM)
    alive = ms < M
    held = tl.minimum(rows, N - 1).to(tl.int64)
    w_at = w_ptr + held[:, None] * K + split * PART + cols[None, :]
    u_at = w_at + N.to(tl.int64) * K
    x_at = x_ptr + ms[:, None] * K + split * PART + cols[None, :]
    if NORM > 0:
        gain_at = norm_ptr + split * PART + cols
        next_gain = tl.load(gain_at)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    factor = tl.full([BM], 1.0, tl.float32)
    squares = tl.zeros([BM, BK], tl.float32)
    if NORM == 2:
        for k in tl.range(0, K, BK):
            x = tl.load(x_ptr + ms[:, None] * K + k + cols[None, :], mask=alive[:, None], other=0.0).to(tl.float32)
            squares += x * x
        factor = 1 / tl.sqrt(tl.sum(squares, 1) / K + eps)
    acc = tl.zeros([BN, BM], tl.float32)
    acc_u = tl.zeros([BN, BM], tl.float32)
    for k in tl.range(0, PART, BK, num_stages=STAGES):
        w = tl.load(w_at + k, eviction_policy="evict_first")
        x = tl.load(x_at + k, mask=alive[:, None], other=0.0)
        if NORM > 0:
            scaled = x.to(tl.float32)
            # A step ahead, or every step would wait for it.
            gain = next_gain.to(tl.float32)
            next_gain = tl.load(gain_at + k + BK, mask=cols + k + BK < PART, other=0.0)
            if NORM == 1:
                squares += scaled * scaled
            else:
                scaled = (scaled * factor[:, None]).to(DTYPE).to(tl.float32)
            x = (scaled * gain[None, :]).to(DTYPE)
        acc = tl.dot(w, tl.trans(x), acc, input_precision="ieee")
        if GATED:
            u = tl.load(u_at + k, eviction_policy="evict_first")
            acc_u = tl.dot(u, tl.trans(x), acc_u, input_precision="ieee")
    total = tl.sum(squares, 1)
    if SPLIT == 1:
        _finish(acc, acc_u, total, out_ptr, bias_ptr, rows, ms, N, M, eps, K, NORM, GATED, RESIDUAL, BIAS, DTYPE)
    else:
        tiles = tl.num_programs(0)
        at = part_ptr + (pid.to(tl.int64) * SPLIT) * BN * BM + tl.arange(0, BN)[:, None] * BM + ms[None, :]
        squares_at = part_ptr + tiles.to(tl.int64) * SPLIT * BN * BM + pid * SPLIT * BM + ms
        tl.store(at + split * BN * BM, acc)
        if NORM == 1:
            tl.store(squares_at + split * BM, total)
        tl.debug_barrier()
        arrived = tl.atomic_add(count_ptr + pid, 1, sem="acq_rel", scope="gpu")
        if arrived == SPLIT - 1:
            whole = tl.zeros([BN, BM], tl.float32)
            square = tl.zeros([BM], tl.float32)
            for s in tl.static_range(SPLIT):
                whole += tl.load(at + s * BN * BM, cache_modifier=".cg")
                if NORM == 1:
                    square += tl.load(squares_at + s * BM, cache_modifier=".cg")
            _finish(whole, whole, square, out_ptr, bias_ptr, rows, ms, N, M, eps, K, NORM, False, RESIDUAL, BIAS, DTYPE)
            tl.store(count_ptr + pid, 0)


@triton.jit
def _finish(
    value,
    up,
    squares,
    out_ptr,
    bias_ptr,
    rows,
    ms,
    N,
    M,
    eps,
    K: tl.constexpr,
    NORM: tl.constexpr,
    GATED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BIAS: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Write a tile [BN, BM] of sums as out [M, N], with what is folded in."""
    if NORM == 1:
        factor = 1 / tl.sqrt(squares / K + eps)
        value *= factor[None, :]
        if GATED:
            up *= factor[None, :]
    live = (rows < N)[:, None] & (ms < M)[None, :]
    if BIAS:
        value += tl.load(bias_ptr + rows, mask=rows < N, other=0.0).to(tl.float32)[:, None]
    if GATED:
        value = _silu_times(value, up, DTYPE)
    at = out_ptr + ms.to(tl.int64)[None, :] * N + rows[:, None]
    if RESIDUAL:
        value = _add(value, at, live, DTYPE)
    tl.store(at, value.to(DTYPE).to(out_ptr.dtype.element_ty), mask=live)


@triton.jit
def argmax(
    scores_ptr,
    out_ptr,
    value_ptr,
    place_ptr,
    count_ptr,
    V,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNKS: tl.constexpr,
    PDL: tl.constexpr,
):
    """out int64 [M] = place of the first maximum of each row of float32 scores [M, V]; CHUNKS programs share a row."""
    chunk, row = tl.program_id(0), tl.program_id(1)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    base = scores_ptr + row.to(tl.int64) * V
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    place = tl.zeros([BLOCK], tl.int32) + chunk * CHUNK + tl.arange(0, BLOCK)
    for start in tl.range(0, CHUNK, BLOCK):
        at = chunk * CHUNK + start + tl.arange(0, BLOCK)
        score = tl.load(base + at, mask=(at < V) & (start + tl.arange(0, BLOCK) < CHUNK), other=float("-inf"))
        place = tl.where(score > best, at, place)
        best = tl.maximum(score, best)
    top = tl.max(best, 0)
    first = tl.min(tl.where(best == top, place, 2147483647), 0)
    tl.store(value_ptr + row * CHUNKS + chunk, top)
    tl.store(place_ptr + row * CHUNKS + chunk, first)
    tl.debug_barrier()
    arrived = tl.atomic_add(count_ptr + row, 1, sem="acq_rel", scope="gpu")
    if arrived == CHUNKS - 1:
        chunks = tl.arange(0, CHUNKS)
        values = tl.load(value_ptr + row * CHUNKS + chunks, cache_modifier=".cg")
        places = tl.load(place_ptr + row * CHUNKS + chunks, cache_modifier=".cg")
        winner = tl.min(tl.where(values == tl.max(values, 0), places, 2147483647), 0)
        tl.store(out_ptr + row, winner.to(tl.int64))
        tl.store(count_ptr + row, 0)


@triton.jit
def embed(ids_ptr, chosen_ptr, table_ptr, out_ptr, scale, K: tl.constexpr, BLOCK: tl.constexpr, SCALED: tl.constexpr):
    """out [M, K] = rows of table [V, K], times scale where SCALED; an id below 0 stands for chosen[row]."""
    row = tl.program_id(0)
    token = tl.load(ids_ptr + row)
    if token < 0:
        token = tl.load(chosen_ptr + row)
    cols = tl.arange(0, BLOCK)
    value = tl.load(table_ptr + token * K + cols, mask=cols < K, other=0.0)
    if SCALED:
        value = (value.to(tl.float32) * scale).to(value.dtype)
    tl.store(out_ptr + row * K + cols, value, mask=cols < K)
