"""The vision side's kernels against their truths, interpreted, and the absorbed resampler against attention itself."""

from __future__ import annotations

import torch
from interpret import interpreted
from test_fused import close, normal

from cpmv.kernels import vision


@interpreted
def test_patches_are_normalised_and_padded() -> None:
    mean, std = torch.tensor([0.5, 0.4, 0.1]), torch.tensor([0.5, 0.3, 0.2])
    patches = torch.randint(0, 256, (6, 3 * 14 * 14), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    truth = (patches.view(6, 3, -1).float() / 255 - mean[:, None]) / std[:, None]
    for dtype in (torch.float32, torch.bfloat16):
        found = vision.normalise_patches(patches, mean, std, dtype, 640)
        close(found[:, :588], truth.flatten(1), dtype, 1)
        assert not found[:, 588:].any()


def resampler(num_heads: int, width: int, num_queries: int) -> tuple[torch.Tensor, vision.Absorbed, dict]:
    e = num_heads * width
    query, weight, bias = normal(num_queries, e), normal(3 * e, e, seed=1, scale=e**-0.5), normal(3 * e, seed=2)
    axis = normal(9, e, seed=3)
    folded = vision.absorb(query, weight, bias, num_heads)
    tables = vision.position_scores(axis, folded[0]), vision.position_scores(axis.flip(0), folded[0])
    return query, vision.Absorbed(*folded, *tables), {"weight": weight, "bias": bias, "x": axis, "y": axis.flip(0)}


def check_absorbed() -> None:
    generator = torch.Generator().manual_seed(5)
    query, absorbed, plain = resampler(3, 8, 5)
    lengths = [7, 7, 4]
    values = normal(sum(lengths), 24, seed=6)
    x, y = (torch.randint(0, 9, (len(values),), generator=generator, dtype=torch.int32) for _ in range(2))
    time = torch.randint(0, 3, (len(values),), generator=generator, dtype=torch.int32)
    moments = normal(3, 24, seed=7)
    keys = vision.Keys(x, y, time, vision.position_scores(moments, absorbed.queries))
    found = vision.absorbed_attention(values, keys, absorbed, lengths)
    wq, wk, wv = plain["weight"].chunk(3)
    bq, bk, bv = plain["bias"].chunk(3)
    placed = values + plain["x"][x] + plain["y"][y] + moments[time]
    q, k, v = query @ wq.T + bq, placed @ wk.T + bk, values @ wv.T + bv
    start = 0
    for group, length in enumerate(lengths):
        end = start + length
        heads = (t.unflatten(-1, (3, 8)).transpose(0, 1) for t in (q, k[start:end], v[start:end]))
        truth = torch.nn.functional.scaled_dot_product_attention(*heads).transpose(0, 1).flatten(1)
        close(found[group], truth, torch.float32, 32)
        start = end


def test_absorbed_queries_attend_as_the_plain_ones() -> None:
    check_absorbed()


@interpreted
def test_absorbed_queries_attend_so_by_kernel() -> None:
    check_absorbed()


@interpreted
def test_softmax_over_keys_in_many_steps() -> None:
    _, absorbed, _ = resampler(2, 8, 20)
    num_keys, groups = 300, 2
    scores = normal(groups * num_keys, 40, seed=8, scale=6)
    place = [torch.randint(0, n, (len(scores),), dtype=torch.int32) for n in (9, 9, 1)]
    keys = vision.Keys(*place, torch.zeros(1, 40))
    truth = scores + absorbed.x_table[keys.x] + absorbed.y_table[keys.y]
    truth = truth.view(groups, num_keys, 40).double().softmax(1)
    found = vision.softmax_over_keys(scores.clone(), keys, absorbed, num_keys, torch.float32)
    close(found.view(groups, num_keys, 40), truth, torch.float32, 32)


def test_blocks_without_their_biases_are_the_blocks() -> None:
    width, heads, hidden = 24, 3, 40
    weights = [normal(n, m, seed=i, scale=0.3) for i, (n, m) in enumerate(((72, 24), (24, 24), (40, 24), (24, 40)))]
    biases = [normal(n, seed=10 + i) for i, n in enumerate((72, 24, hidden, 24))]
    gains = [normal(width, seed=20 + i) for i in range(4)]

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, span: object = None) -> torch.Tensor:
        parts = (x.transpose(1, 2) for x in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)

    spans = [vision.Span(0, 2, 3), vision.Span(6, 1, 5)]
    blocks, shift = [], None
    for _ in range(2):
        between = biases[1] if shift is None else shift + biases[1]
        norms = vision.Norm(gains[0], gains[1], shift), vision.Norm(gains[2], gains[3], between)
        blocks.append(
            vision.Block(norms[0], weights[0], biases[0], weights[1], norms[1], weights[2], biases[2], weights[3])
        )
        shift = between + biases[3]
    x = normal(11, width, seed=30)
    found = vision.run_blocks(x.clone(), blocks, spans, heads, 1e-6, attend) + shift
    for _ in range(2):
        h = torch.nn.functional.layer_norm(x, (width,), gains[0], gains[1], 1e-6)
        qkv = (h @ weights[0].T + biases[0]).view(11, 3, heads, 8)
        parts = []
        for start, count, length in spans:
            rows = qkv[start : start + count * length].view(count, length, 3, heads, 8)
            parts.append(attend(*rows.unbind(2)).flatten(0, 1))
        x = x + torch.cat(parts) @ weights[1].T + biases[1]
        h = torch.nn.functional.layer_norm(x, (width,), gains[2], gains[3], 1e-6)
        h = torch.nn.functional.gelu(h @ weights[2].T + biases[2], approximate="tanh")
        x = x + h @ weights[3].T + biases[3]
    close(found, x, torch.float32, 64)
