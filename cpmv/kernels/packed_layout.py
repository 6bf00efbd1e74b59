"""Codes and scales of a quantised weight in the order tensor cores take them, and back, exactly.

A tile is 16 rows, a chunk 64 inputs: four products of 16 rows by 16 inputs. Lane 4g + t of a warp holds the codes of
rows g and g + 8 that `mma.m16n8k16` wants from it: four words, one a product. So a warp reads a tile's chunk as 512
consecutive bytes (4-bit codes), 16 a lane, and no number moves between lanes. Which of the 64 inputs a product takes
is free as long as x follows: lane t takes 8 neighbours of each 32 (`runs` 8), or 4 of each 16 (`runs` 4, for scales
that change every 16 inputs). Every function here has an inverse beside it; rows come and go in multiples of 16.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 16
CHUNK = 64

# Sizes of the parts of a code's place, and the axis each takes: half h, product jj of the half, lane t, pair e2 of the
# lane's four inputs, member el. Rows: r8 (0: g, 1: g + 8) and g.
_SPLIT = {8: (2, 4, 2, 2, 2), 4: (2, 2, 4, 2, 2)}  # h t jj e2 el; h jj t e2 el


def padded(rows: Tensor) -> Tensor:
    """Append zero rows up to a multiple of 16."""
    missing = -rows.shape[0] % TILE
    return F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, missing)) if missing else rows


def _places(codes: Tensor, runs: int) -> Tensor:
    """[rows, K] to [T, C, h, jj, g, t, e2, el, r8]."""
    rows, inputs = codes.shape
    parts = codes.view(rows // TILE, 2, 8, inputs // CHUNK, *_SPLIT[runs])
    # T r8 g C | h t jj e2 el  or  h jj t e2 el
    return parts.permute(0, 3, 4, 6, 2, 5, 7, 8, 1) if runs == 8 else parts.permute(0, 3, 4, 5, 2, 6, 7, 8, 1)


def _codes(places: Tensor, runs: int) -> Tensor:
    """Undo `_places`."""
    tiles, chunks = places.shape[:2]
    order = (0, 8, 4, 1, 2, 5, 3, 6, 7) if runs == 8 else (0, 8, 4, 1, 2, 3, 5, 6, 7)
    return places.permute(order).reshape(tiles * TILE, chunks * CHUNK)


def pack_nibbles(codes: Tensor, runs: int = 8, paired: bool = False) -> Tensor:
    """uint8 [rows, K] of 0..15 to int32 [T, C, 32, 4].

    Nibble p + 4 el of a word is fragment register p = r8 + 2 e2, member el. paired: nibble 2 p + el, so that the two
    members share a byte, and the word is turned left by 7 bits: shifted, a byte is an offset into a table.
    """
    places = _places(codes, runs)  # T C h jj g t e2 el r8
    if paired:
        words = places.permute(0, 1, 4, 5, 2, 3, 6, 8, 7).contiguous()  # .. e2 r8 el
    else:
        words = places.permute(0, 1, 4, 5, 2, 3, 7, 6, 8).contiguous()  # .. el e2 r8
    octets = words[..., 0] | words[..., 1] << 4
    packed = octets.reshape(*octets.shape[:2], 32, 16).view(torch.int32)
    return packed << 7 | packed >> 25 & 127 if paired else packed


def unpack_nibbles(packed: Tensor, runs: int = 8, paired: bool = False) -> Tensor:
    if paired:
        packed = packed >> 7 & 0x1FFFFFF | packed << 25
    octets = packed.view(torch.uint8).view(*packed.shape[:2], 8, 4, 2, 2, 2, 2)
    words = torch.stack((octets & 15, octets >> 4), dim=-1)  # T C g t h jj a b c
    order = (0, 1, 4, 5, 2, 3, 6, 8, 7) if paired else (0, 1, 4, 5, 2, 3, 7, 6, 8)
    return _codes(words.permute(order), runs)


def pack_bytes(codes: Tensor) -> Tensor:
    """uint8 or int8 [rows, K] to int32 [T, C, 2, 32, 4]: half h, lane, words (jj, e2); bytes (el, r8)."""
    places = _places(codes.view(torch.uint8), 8)
    octets = places.permute(0, 1, 2, 4, 5, 3, 6, 7, 8).contiguous()  # T C h g t jj e2 el r8
    return octets.reshape(*octets.shape[:3], 32, 16).view(torch.int32)


def unpack_bytes(packed: Tensor) -> Tensor:
    octets = packed.view(torch.uint8).view(*packed.shape[:3], 8, 4, 2, 2, 2, 2)
    return _codes(octets.permute(0, 1, 2, 5, 3, 4, 6, 7, 8), 8)


def pack_crumbs(codes: Tensor, runs: int = 4) -> Tensor:
    """uint8 [rows, K] of 0..3 to int32 [T, C, 32, 2]: a word a half; bytes (el, jj), crumbs (e2, r8)."""
    places = _places(codes, runs).permute(0, 1, 4, 5, 2, 7, 3, 6, 8)  # T C g t h el jj e2 r8
    crumbs = places.reshape(*places.shape[:2], 32, 8, 4)
    octets = crumbs[..., 0] | crumbs[..., 1] << 2 | crumbs[..., 2] << 4 | crumbs[..., 3] << 6
    return octets.contiguous().view(torch.int32)


def unpack_crumbs(packed: Tensor, runs: int = 4) -> Tensor:
    octets = packed.view(torch.uint8)
    crumbs = torch.stack([octets >> shift & 3 for shift in (0, 2, 4, 6)], dim=-1)
    places = crumbs.view(*packed.shape[:2], 8, 4, 2, 2, 2, 2, 2)  # T C g t h el jj e2 r8
    return _codes(places.permute(0, 1, 4, 6, 2, 3, 7, 5, 8), runs)


def by_lane(values: Tensor) -> Tensor:
    """Numbers of rows [rows, G] to [T, G, 8, 2]: what lanes of group g want, rows g and g + 8 together."""
    return values.view(-1, 2, 8, values.shape[1]).permute(0, 3, 2, 1).contiguous()


def by_row(values: Tensor) -> Tensor:
    """Undo `by_lane`."""
    return values.permute(0, 3, 2, 1).reshape(-1, values.shape[1])
