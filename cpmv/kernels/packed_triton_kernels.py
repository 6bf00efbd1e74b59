"""Triton's side of packed_triton.py: imported only when it is used, since it needs Triton.

Axis 0 of every block of weights is lane groups g (rows g and g + 8 of a tile), axis 1 words (chunk, t, j) as they lie
in memory. A word's eight numbers are told apart by r8 (which of the two rows), e2 and el (which of a lane's four
inputs).
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

_AWQ, _NF4, _Q4_0, _Q8_0, _Q4_K, _Q6_K, _INT8 = (tl.constexpr(i) for i in range(7))


@triton.jit
def _input(chunk, t, j, e, FMT: tl.constexpr):
    """The input that number e of word (chunk, t, j) belongs to."""
    if FMT == _Q6_K:
        return chunk * 64 + j * 16 + t * 4 + e
    return chunk * 64 + (j // 2) * 32 + t * 8 + (j % 2) * 4 + e


@triton.jit
def _code(codes, high, at, lane, j, r8, e2, el, mask, FMT: tl.constexpr):
    """The number a code stands for before scaling, float32. at: tile * chunks + chunk."""
    h, jj = j // 2, j % 2
    if FMT == _Q8_0 or FMT == _INT8:
        word = tl.load(codes + (at * 2 + h) * 128 + lane * 4 + jj * 2 + e2, mask=mask, other=0)
        return ((word << (24 - 8 * (r8 + 2 * el))) >> 24).to(tl.float32)
    word = tl.load(codes + at * 128 + lane * 4 + j, mask=mask, other=0)
    if FMT == _NF4:
        word = ((word >> 7) & 0x1FFFFFF) | (word << 25)
        return tl.load(high + ((word >> (4 * (2 * (r8 + 2 * e2) + el))) & 15))
    q = (word >> (4 * (r8 + 2 * e2 + 4 * el))) & 15
    if FMT == _Q6_K:
        top = tl.load(high + at * 64 + lane * 2 + h, mask=mask, other=0)
        return ((q | (((top >> (16 * el + 2 * (jj * 4 + r8 + 2 * e2))) & 3) << 4)) - 32).to(tl.float32)
    if FMT == _Q4_0:
        q -= 8
    return q.to(tl.float32)


@triton.jit
def _weights(
    codes,
    scales,
    extra,
    high,
    scale,
    tile,
    chunk,
    g,
    t,
    j,
    r8,
    e2,
    el,
    chunks,
    mask,
    FMT: tl.constexpr,
    GROUP: tl.constexpr,
):
    """The weights of rows g + 8 r8 of the tiles and inputs 2 e2 + el of the words, float32."""
    at = tile * chunks + chunk
    value = _code(codes, high, at, g * 4 + t, j, r8, e2, el, mask, FMT)
    h = j // 2
    if FMT == _AWQ:
        if GROUP == 32:
            place = (at * 8 + g) * 2 + h
        else:
            place = (tile * (chunks * 64 // GROUP) + chunk * 64 // GROUP) * 8 + g
        zero = (tl.load(extra + place, mask=mask, other=0).to(tl.int32) >> (4 * r8)) & 15
        s = tl.load(scales + place * 2 + r8, mask=mask, other=0).to(tl.float32)
        return ((value - zero.to(tl.float32)) * s).to(tl.float16).to(tl.float32)
    if FMT == _NF4:
        return value * (tl.load(scales + (at * 8 + g) * 2 + r8, mask=mask, other=0).to(tl.float32) * scale)
    if FMT == _Q4_0 or FMT == _Q8_0:
        return value * tl.load(scales + ((at * 8 + g) * 2 + h) * 2 + r8, mask=mask, other=0).to(tl.float32)
    if FMT == _Q4_K:
        small = scales + (((at * 8 + g) * 2 + h) * 2 + r8) * 2
        large = extra + ((tile * (chunks // 4) + chunk // 4) * 8 + g) * 4 + r8
        s = tl.load(small, mask=mask, other=0).to(tl.float32) * tl.load(large, mask=mask, other=0).to(tl.float32)
        m = tl.load(small + 1, mask=mask, other=0).to(tl.float32)
        return value * s - m * tl.load(large + 2, mask=mask, other=0).to(tl.float32)
    if FMT == _Q6_K:
        s = tl.load(scales + ((at * 8 + g) * 4 + j) * 2 + r8, mask=mask, other=0).to(tl.float32)
        d = extra + ((tile * (chunks // 4) + chunk // 4) * 8 + g) * 2 + r8
        return value * (s * tl.load(d, mask=mask, other=0).to(tl.float32))
    return value * tl.load(scales + tile * 16 + r8 * 8 + g, mask=mask, other=0)


@triton.jit
def dequantize(
    codes,
    scales,
    extra,
    high,
    out,
    rows,
    inputs,
    scale,
    FMT: tl.constexpr,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
):
    tile, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lanes = tl.arange(0, 128)
    g, t, j = lanes // 16, lanes // 4 % 4, lanes % 4
    mask = g >= 0
    for r8 in tl.static_range(2):
        v0 = _weights(
            codes,
            scales,
            extra,
            high,
            scale,
            tile,
            chunk,
            g,
            t,
            j,
            r8,
            0,
            0,
            inputs // 64,
            mask,
            FMT,
            GROUP,
        )
        v1 = _weights(
            codes,
            scales,
            extra,
            high,
            scale,
            tile,
            chunk,
            g,
            t,
            j,
            r8,
            0,
            1,
            inputs // 64,
            mask,
            FMT,
            GROUP,
        )
        v2 = _weights(
            codes,
            scales,
            extra,
            high,
            scale,
            tile,
            chunk,
            g,
            t,
            j,
            r8,
            1,
            0,
            inputs // 64,
            mask,
            FMT,
            GROUP,
        )
        v3 = _weights(
            codes,
            scales,
            extra,
            high,
            scale,
            tile,
            chunk,
            g,
            t,
            j,
            r8,
            1,
            1,
            inputs // 64,
            mask,
            FMT,
            GROUP,
        )
        four = tl.reshape(tl.join(tl.join(v0, v2), tl.join(v1, v3)), (128, 4))
        row = tile * TILE + r8 * 8 + g
        at = row * inputs + _input(chunk, t, j, 0, FMT)
        to = out + at[:, None] + tl.arange(0, 4)[None, :]
        tl.store(
            to,
            four.to(out.dtype.element_ty),
            mask=(row < rows)[:, None] & (tl.arange(0, 4) >= 0)[None, :],
        )


@triton.jit
def _finish(
    out,
    bias,
    value,
    token,
    row,
    width,
    mask,
    RESIDUAL: tl.constexpr,
    HALF: tl.constexpr,
):
    """Store value [.., ..] at (token, row), added to what is there if asked for."""
    to = out + token * width + row
    if RESIDUAL:
        value += tl.load(to, mask=mask, other=0).to(tl.float32)
        if HALF:
            value = tl.minimum(tl.maximum(value, -65504.0), 65504.0)
    tl.store(to, value.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _product(
    x,
    codes,
    scales,
    extra,
    high,
    scale,
    tile,
    g,
    tiles,
    num_tokens,
    inputs,
    r8: tl.constexpr,
    FMT: tl.constexpr,
    GROUP: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
    DIRECT: tl.constexpr,
):
    """x times rows g + 8 r8 of the tiles, float32 [LANES, ROWS]."""
    acc = tl.zeros((LANES, ROWS), dtype=tl.float32)
    words = tl.arange(0, 64)[None, :]
    t, j = words // 4 % 4, words % 4
    token = tl.arange(0, ROWS) if not DIRECT else tl.arange(0, 1)
    for start in range(0, inputs, 256):
        chunk = start // 64 + words // 16
        inside = chunk * 64 < inputs
        mask = inside & (tile < tiles)
        for e in tl.static_range(4):
            w = _weights(
                *(
                    codes,
                    scales,
                    extra,
                    high,
                    scale,
                    tile,
                    chunk,
                    g,
                    t,
                    j,
                    r8,
                    e // 2,
                    e % 2,
                    inputs // 64,
                    mask,
                ),
                *(FMT, GROUP),
            ).to(x.dtype.element_ty)
            k = _input(chunk, t, j, e, FMT)
            if DIRECT:
                for m in tl.static_range(ROWS):
                    xm = tl.load(x + m * inputs + k, mask=inside & (m < num_tokens), other=0).to(tl.float32)
                    part = tl.sum(tl.where(mask, w.to(tl.float32), 0.0) * xm, axis=1)
                    acc += tl.where(tl.arange(0, ROWS)[None, :] == m, part[:, None], 0.0)
            else:
                at = x + token[None, :] * inputs + tl.trans(k)
                xs = tl.load(at, mask=tl.trans(inside) & (token < num_tokens)[None, :], other=0)
                acc = tl.dot(tl.where(mask, w, 0.0), xs, acc)
    return acc


@triton.jit
def multiply(
    x,
    codes,
    scales,
    extra,
    high,
    bias,
    out,
    num_tokens,
    num_rows,
    inputs,
    tiles,
    scale,
    FMT: tl.constexpr,
    GROUP: tl.constexpr,
    TILES: tl.constexpr,
    ROWS: tl.constexpr,
    DIRECT: tl.constexpr,
    GATED: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    HALF: tl.constexpr,
):
    """tiles: of the result, so those of the gate when gated."""
    lanes = tl.arange(0, TILES * 8)[:, None]
    tile = (tl.program_id(0) * TILES + lanes // 8).to(tl.int64)
    g = lanes % 8
    token = tl.arange(0, ROWS)[None, :]
    width = num_rows // 2 if GATED else num_rows
    for r8 in tl.static_range(2):
        row = tile * 16 + r8 * 8 + g
        mask = (row < width) & (token < num_tokens) & (tile < tiles)
        value = _product(
            *(
                x,
                codes,
                scales,
                extra,
                high,
                scale,
                tile,
                g,
                tiles,
                num_tokens,
                inputs,
                r8,
            ),
            *(FMT, GROUP, TILES * 8, ROWS, DIRECT),
        )
        if BIAS:
            value += tl.load(bias + row, mask=row < width, other=0).to(tl.float32)
        if GATED:
            up = _product(
                *(
                    x,
                    codes,
                    scales,
                    extra,
                    high,
                    scale,
                    tile + tiles,
                    g,
                    tiles * 2,
                    num_tokens,
                    inputs,
                    r8,
                ),
                *(FMT, GROUP, TILES * 8, ROWS, DIRECT),
            )
            if BIAS:
                up += tl.load(bias + width + row, mask=row < width, other=0).to(tl.float32)
            value = value / (1.0 + tl.exp(-value)) * up
        _finish(out, bias, value, token, row, width, mask, RESIDUAL, HALF)
