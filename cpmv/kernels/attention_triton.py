"""Triton kernel behind `attention.decode_attention`: one new token a row, over keys and values in blocks of a pool.

A program takes one row, one key-value head (with all the query heads that share it) and a part of the row's past. It
norms and rotates the queries itself; one program a head also norms, rotates and stores the new key and stores the new
value. Parts are joined by whichever program of a head arrives last, in order, so that no second launch is needed. The
first keys and values of a part are asked for before the queries are there: they are of earlier steps.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def _turned(base, cos_at, sin_at, norm_ptr, halves, mask, eps, D: tl.constexpr, DTYPE: tl.constexpr):
    """Norm and rotate heads [R, D] at `base`; return the halves [R, D/2], rounded as the plain path rounds."""
    first = tl.load(base + halves, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(base + D // 2 + halves, mask=mask, other=0.0).to(tl.float32)
    factor = 1 / tl.sqrt((tl.sum(first * first, 1) + tl.sum(second * second, 1)) / D + eps)
    first = (first * factor[:, None]).to(DTYPE).to(tl.float32)
    second = (second * factor[:, None]).to(DTYPE).to(tl.float32)
    first = (first * tl.load(norm_ptr + halves).to(tl.float32)).to(DTYPE).to(tl.float32)
    second = (second * tl.load(norm_ptr + D // 2 + halves).to(tl.float32)).to(DTYPE).to(tl.float32)
    cos = tl.load(cos_at + halves).to(tl.float32)
    sin = tl.load(sin_at + halves).to(tl.float32)
    low = (first * cos).to(DTYPE).to(tl.float32) - (second * sin).to(DTYPE).to(tl.float32)
    high = (second * cos).to(DTYPE).to(tl.float32) + (first * sin).to(DTYPE).to(tl.float32)
    return low.to(DTYPE), high.to(DTYPE)


@triton.jit
def _attend(q1, q2, k1, k2, v, seen, scale, top, total, acc):
    """One step of the online softmax: scores of keys [BT, D/2] x 2 with queries [R, D/2] x 2; base 2."""
    scores = tl.dot(q1, tl.trans(k1), input_precision="ieee")
    scores = tl.dot(q2, tl.trans(k2), scores, input_precision="ieee") * scale
    scores = tl.where(seen[None, :], scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, 1))
    weights = tl.exp2(scores - new_top[:, None])
    shrink = tl.exp2(top - new_top)
    total = total * shrink + tl.sum(weights, 1)
    acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
    return new_top, total, acc


@triton.jit
def decode(
    qkv_ptr,
    k_ptr,
    v_ptr,
    table_ptr,
    position_ptr,
    q_norm_ptr,
    k_norm_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    part_ptr,
    count_ptr,
    table_width,
    eps,
    scale,
    GROUP: tl.constexpr,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    R: tl.constexpr,
    BT: tl.constexpr,
    SPLIT: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    """out [M, HEADS * GROUP * D] of qkv [M, (HEADS * (GROUP + 2)) * D]; grid (SPLIT, HEADS, M).

    Pools [blocks, BLOCK, HEADS, D]; table [M, table_width]; position [M], where the new token goes; cos, sin
    [positions, D/2]; scale includes log2(e). part: float32 [M, HEADS, SPLIT, GROUP, D + 2]; count: int32 [M * HEADS],
    zeros, left as zeros. R: GROUP padded for tensor cores.
    """
    DTYPE: tl.constexpr = qkv_ptr.dtype.element_ty
    HALF: tl.constexpr = D // 2
    split, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    past = tl.load(position_ptr + row).to(tl.int32)
    tiles = tl.cdiv(past, BT)
    per = tl.cdiv(tiles, SPLIT)
    used = tl.maximum(tl.cdiv(tiles, tl.maximum(per, 1)), 1)
    if PDL and split >= used:
        gdc_wait()
        gdc_launch_dependents()
    if split < used:
        table = table_ptr + row.to(tl.int64) * table_width
        begin = split * per * BT
        end = tl.minimum(past, begin + per * BT)
        halves = tl.arange(0, HALF)[None, :]
        whole = tl.arange(0, D)[None, :]
        places = tl.arange(0, BT)
        heads = tl.arange(0, R)

        at = begin + places
        seen = at < end
        block = tl.load(table + at // BLOCK, mask=seen, other=0).to(tl.int64)
        place = ((block * BLOCK + at % BLOCK) * HEADS + head) * D
        k1 = tl.load(k_ptr + place[:, None] + halves, mask=seen[:, None], other=0.0)
        k2 = tl.load(k_ptr + place[:, None] + HALF + halves, mask=seen[:, None], other=0.0)
        v = tl.load(v_ptr + place[:, None] + whole, mask=seen[:, None], other=0.0)
        cos_at = cos_ptr + past.to(tl.int64) * HALF
        sin_at = sin_ptr + past.to(tl.int64) * HALF
        if PDL:
            gdc_wait()
            gdc_launch_dependents()

        row_at = qkv_ptr + row.to(tl.int64) * (HEADS * (GROUP + 2) * D)
        q_at = row_at + (head * GROUP + heads[:, None]) * D
        q1, q2 = _turned(q_at, cos_at, sin_at, q_norm_ptr, halves, heads[:, None] < GROUP, eps, D, DTYPE)
        top = tl.full([R], float("-inf"), tl.float32)
        total = tl.zeros([R], tl.float32)
        acc = tl.zeros([R, D], tl.float32)
        if split == 0:
            one = tl.arange(0, 1)[:, None]
            k_at = row_at + ((HEADS * GROUP + head) + one) * D
            n1, n2 = _turned(k_at, cos_at, sin_at, k_norm_ptr, halves, one < 1, eps, D, DTYPE)
            new_v = tl.load(row_at + (HEADS * (GROUP + 1) + head) * D + whole)
            own = tl.load(table + past // BLOCK).to(tl.int64) * BLOCK + past % BLOCK
            slot = (own * HEADS + head) * D
            tl.store(k_ptr + slot + halves, n1)
            tl.store(k_ptr + slot + HALF + halves, n2)
            tl.store(v_ptr + slot + whole, new_v)
            top = tl.sum(q1.to(tl.float32) * n1.to(tl.float32), 1) + tl.sum(q2.to(tl.float32) * n2.to(tl.float32), 1)
            top *= scale
            total += 1.0
            acc += new_v.to(tl.float32)
        if begin < end:
            top, total, acc = _attend(q1, q2, k1, k2, v, seen, scale, top, total, acc)
            # Tables are read a step ahead, so that keys and values can be asked for without waiting for them.
            next_block = tl.load(table + (begin + BT + places) // BLOCK, mask=begin + BT + places < end, other=0)
            for start in tl.range(begin + BT, end, BT, num_stages=STAGES):
                at = start + places
                seen = at < end
                block = next_block.to(tl.int64)
                next_block = tl.load(table + (at + BT) // BLOCK, mask=at + BT < end, other=0)
                place = ((block * BLOCK + at % BLOCK) * HEADS + head) * D
                k1 = tl.load(k_ptr + place[:, None] + halves, mask=seen[:, None], other=0.0)
                k2 = tl.load(k_ptr + place[:, None] + HALF + halves, mask=seen[:, None], other=0.0)
                v = tl.load(v_ptr + place[:, None] + whole, mask=seen[:, None], other=0.0)
                top, total, acc = _attend(q1, q2, k1, k2, v, seen, scale, top, total, acc)

        real = heads[:, None] < GROUP
        out_at = out_ptr + (row.to(tl.int64) * HEADS + head) * (GROUP * D) + heads[:, None] * D + whole
        if used == 1:
            tl.store(out_at, (acc / total[:, None]).to(DTYPE), mask=real)
        else:
            pair = row * HEADS + head
            base = part_ptr + pair.to(tl.int64) * (SPLIT * GROUP * (D + 2))
            mine = base + split * (GROUP * (D + 2))
            tl.store(mine + heads[:, None] * D + whole, acc, mask=real)
            tl.store(mine + GROUP * D + heads, top, mask=heads < GROUP)
            tl.store(mine + GROUP * (D + 1) + heads, total, mask=heads < GROUP)
            tl.debug_barrier()
            arrived = tl.atomic_add(count_ptr + pair, 1, sem="acq_rel", scope="gpu")
            if arrived == used - 1:
                parts = tl.arange(0, SPLIT)
                there = parts < used
                for one_head in tl.static_range(GROUP):
                    part_at = base + parts * (GROUP * (D + 2))
                    tops = tl.load(
                        part_at + GROUP * D + one_head, mask=there, other=float("-inf"), cache_modifier=".cg"
                    )
                    totals = tl.load(part_at + GROUP * (D + 1) + one_head, mask=there, other=0.0, cache_modifier=".cg")
                    sums = tl.load(
                        part_at[:, None] + one_head * D + whole, mask=there[:, None], other=0.0, cache_modifier=".cg"
                    )
                    weights = tl.exp2(tops - tl.max(tops, 0))
                    joined = tl.sum(sums * weights[:, None], 0) / tl.sum(totals * weights, 0)
                    joined_at = out_ptr + ((row.to(tl.int64) * HEADS + head) * GROUP + one_head) * D
                    tl.store(joined_at + tl.arange(0, D), joined.to(DTYPE))
                tl.store(count_ptr + pair, 0)
