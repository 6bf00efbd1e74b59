"""Pictures of all grids in one row give what they give grid by grid, gradients included."""

from __future__ import annotations

import pytest
import torch
from toy_drawer import CLASSES, ToyDrawer, toy_config

from cpmv.model.attention import Segments
from cpmv.train.config import Combination
from cpmv.train.init import build
from cpmv.train.joint import JointObjective, join_rows
from cpmv.train.joint_model import JointModel
from cpmv.train.packed import packed_attention

GRIDS = (Combination(((3, 4), (2, 5)), (2, 3)), Combination(((4, 4), (3, 3)), (3, 2)))
MIX = {"text": 4, "scene": 2, "clip": 3, "textonly": 2}


def models() -> tuple[JointModel, JointModel]:
    plain, packed = (JointModel(build(toy_config(), "cpu", seed=3), CLASSES).train() for _ in range(2))
    packed.packed = True
    return plain, packed


def objective(model: JointModel, packed_tokens: int | None = 500) -> JointObjective:
    return JointObjective(model, ToyDrawer(), MIX, GRIDS, packed_tokens=packed_tokens)


def assert_same_gradients(one: JointModel, other: JointModel) -> None:
    for (name, p), (_, q) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert p.grad is not None and q.grad is not None, name
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-4, msg=name)


def test_one_row_equals_grid_by_grid() -> None:
    plain, packed = models()
    for key in (0, 1, 0):
        batch = objective(plain).load(key, torch.Generator().manual_seed(key))[0]
        features, tokens = plain.encode_all(batch.passes)
        torch.testing.assert_close(packed.encode_all(batch.passes), (features, tokens), rtol=1e-5, atol=1e-5)
        sums = [model.sums(batch) for model in (plain, packed)]
        torch.testing.assert_close(sums[0], sums[1], rtol=1e-5, atol=1e-4)
        for total in sums:
            total.sum().backward()
    assert_same_gradients(plain, packed)


def test_a_compiled_row_has_one_graph_for_all_layers_and_grids() -> None:
    plain, packed = models()
    torch._dynamo.reset()
    packed.compile_regions("aot_eager")
    torch._dynamo.utils.counters.clear()
    for key in (0, 1):  # a row of tokens would go segment by segment here, on a CPU
        batch = objective(plain, None).load(key, torch.Generator().manual_seed(key))[0]
        sums = [model.sums(batch) for model in (plain, packed)]
        torch.testing.assert_close(sums[0], sums[1], rtol=1e-5, atol=1e-4)
        for total in sums:
            total.sum().backward()
    assert_same_gradients(plain, packed)
    # The tower's block, the resampler's keys, the decoder's layer and three classifiers.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 6
    torch._dynamo.reset()


def test_attention_stays_within_each_picture() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(9, 2, 8, generator=generator) for _ in range(3))
    out = packed_attention(q, k, v, Segments(torch.tensor([0, 4, 9], dtype=torch.int32), 5), 0.3)
    for span in (slice(0, 4), slice(4, 9)):
        weights = (torch.einsum("qhd,khd->hqk", q[span], k[span]) * 0.3).softmax(-1)
        torch.testing.assert_close(out[span], torch.einsum("hqk,khd->qhd", weights, v[span]))


def test_two_rows_joined_sum_to_what_they_sum_to_apart() -> None:
    _, packed = models()
    one = objective(packed)
    first = one.load(0, torch.Generator().manual_seed(0))[0]
    second = one.load(1, torch.Generator().manual_seed(1))[0]
    second.dense, second.regions = second.dense[:0], second.regions[:0]  # as composed samples are
    joined = join_rows(first, second)
    apart = [packed.sums(first), packed.sums(second)]
    torch.testing.assert_close(packed.sums(joined), apart[0] + apart[1], rtol=1e-5, atol=1e-4)
    assert torch.equal(one.counts(joined), one.counts(first) + one.counts(second))
    assert joined.offsets is not None and (joined.offsets.diff() >= 0).all() and joined.offsets[-1] == 1000


@pytest.mark.parametrize("kind", ["text", "clip"])
def test_a_batch_of_one_kind_alone_runs_in_a_row_too(kind: str) -> None:
    plain, packed = models()
    one = JointObjective(plain, ToyDrawer(), {kind: 4}, GRIDS, packed_tokens=300)
    batch = one.load(0, torch.Generator().manual_seed(0))[0]
    torch.testing.assert_close(packed.sums(batch), plain.sums(batch), rtol=1e-5, atol=1e-4)
