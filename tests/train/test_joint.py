"""The joint objective: its dense forward pass is the model's own, its labels say what the picture shows."""

from __future__ import annotations

import pytest
import torch
from toy_drawer import CLASSES, FRAMES, VISUAL_START, ToyDrawer, toy_config

from cpmv.model.config import ModelInputs
from cpmv.model.resampler import temporal_positions
from cpmv.train.config import Combination
from cpmv.train.draw import Batch, Grid
from cpmv.train.init import build, query_positions
from cpmv.train.joint import GROUP, JointObjective
from cpmv.train.joint_model import IGNORE, JointModel

SHAPES = Combination(((3, 4), (2, 5)), (2, 3))
MIX = {"text": 4, "scene": 2, "clip": 3, "textonly": 2}


@pytest.fixture(scope="module")
def model() -> JointModel:
    return JointModel(build(toy_config(), "cpu", seed=3), CLASSES).train()


def objective(model: JointModel, *, shift: bool = False) -> JointObjective:
    return JointObjective(model, ToyDrawer(), MIX, [SHAPES], shift=shift)


def as_inputs(drawn: Batch, row: int, shape: tuple[int, int]) -> ModelInputs:
    """One drawn sample as the inference path takes it."""
    frames = [f for f in range(drawn.pixels.shape[1]) if drawn.frame_mask[row, f]]
    rows, columns = shape
    patches = [
        drawn.pixels[row, f, :, r * 14 : r * 14 + 14, c * 14 : c * 14 + 14]
        for f in frames
        for r in range(rows)
        for c in range(columns)
    ]
    bounds = [[VISUAL_START, VISUAL_START + 16]] if frames else []
    return ModelInputs(
        input_ids=drawn.input_ids[row],
        image_bounds=torch.tensor(bounds, dtype=torch.int64).reshape(-1, 2),
        patches=torch.stack(patches) if patches else torch.zeros(0, 3, 14, 14),
        tgt_sizes=torch.tensor([shape] * len(frames), dtype=torch.int64).reshape(-1, 2),
        temporal_ids=[drawn.temporal_ids[row, frames].tolist()] if frames else [],
        text="",
    )


@pytest.mark.parametrize("kind", ["text", "clip", "textonly"])
def test_training_forward_equals_inference(model: JointModel, kind: str) -> None:
    shape, one = (2, 5), objective(model)
    drawn = ToyDrawer().draw(kind, 3, Grid(*shape), torch.Generator().manual_seed(1))
    batch = one.assemble([(None if kind == "textonly" else shape, [drawn])], torch.Generator().manual_seed(2))
    with torch.no_grad():
        tokens = torch.cat([model.encode(p)[1] for p in batch.passes]) if batch.passes else None
        logits = model.model.llm.head(model.hidden(batch.input_ids, tokens, batch.rows))
    for row in range(3):
        expected = model.model.logits(as_inputs(drawn, row, shape))
        torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-4)


def test_lm_sum_is_the_cross_entropy_of_the_answers_under_inference(model: JointModel) -> None:
    shape, one = (3, 4), objective(model)
    drawn = ToyDrawer().draw("text", 2, Grid(*shape), torch.Generator().manual_seed(4))
    batch = one.assemble([(shape, [drawn])], torch.Generator().manual_seed(2))
    expected = 0.0
    for row in range(2):
        log_probs = model.model.logits(as_inputs(drawn, row, shape)).log_softmax(-1)
        for position in range(1, drawn.labels.shape[1]):
            if drawn.labels[row, position] != IGNORE:
                expected -= float(log_probs[position - 1, drawn.labels[row, position]])
    assert float(one.sums(batch)[0].detach()) == pytest.approx(expected, rel=1e-4)
    assert one.counts(batch)[0] == (drawn.labels != IGNORE).sum()


def test_a_step_joins_every_kind_in_order(model: JointModel) -> None:
    batch = objective(model).load(0, torch.Generator().manual_seed(0))[0]
    # Two picture grids with half of the text and scenes each, then the clips; text alone has no pass.
    assert [p.patches.shape[:2] for p in batch.passes] == [(3, 12), (3, 10), (3 * FRAMES, 6)]
    assert batch.input_ids.shape[0] == 11 and batch.rows.numel() == 9 * 16
    assert batch.dense.shape == (3 * 12 + 3 * 10 + 3 * FRAMES * 6, 4)
    assert int(batch.rows.max()) < 9 * batch.input_ids.shape[1]


def test_packing_the_row_changes_neither_sums_nor_counts(model: JointModel) -> None:
    padded, packed = objective(model), objective(model)
    packed.packed_tokens = 500
    a, b = (o.load(0, torch.Generator().manual_seed(0))[0] for o in (padded, packed))
    assert b.input_ids.shape == (1, 500) and a.input_ids.shape == (11, 40)
    assert torch.equal(padded.counts(a), packed.counts(b))
    torch.testing.assert_close(padded.sums(a), packed.sums(b), rtol=1e-5, atol=1e-4)
    used = int(b.offsets[11])  # type: ignore[index]
    assert used < 440, "padding is gone"
    assert (b.offsets.diff() <= 40).all() and b.offsets[-1] == 500  # type: ignore[union-attr,index]


def test_a_row_that_is_too_short_cuts_the_last_samples_and_says_so(
    model: JointModel, caplog: pytest.LogCaptureFixture
) -> None:
    one = objective(model)
    one.packed_tokens = 200
    batch = one.load(0, torch.Generator().manual_seed(0))[0]
    assert "tokens but its row holds 200" in caplog.text
    assert one.sums(batch).isfinite().all()


def test_nothing_is_asked_of_frames_that_are_padding(model: JointModel) -> None:
    one = objective(model)
    drawn = ToyDrawer().draw("clip", 8, Grid(2, 3), torch.Generator().manual_seed(0))
    batch = one.assemble([((2, 3), [drawn])], torch.Generator().manual_seed(0))
    assert 0 < drawn.frame_mask.sum() < drawn.frame_mask.numel()
    assert one.counts(batch)[1] == drawn.frame_mask.sum() * 2 * 3 * 4


def test_dense_targets_and_regions_follow_the_picture(model: JointModel) -> None:
    one = objective(model)
    drawn = ToyDrawer().draw("text", 2, Grid(3, 4), torch.Generator().manual_seed(0))
    batch = one.assemble([((3, 4), [drawn])], torch.Generator().manual_seed(0))
    dense = batch.dense.view(2, 3, 4, 2, 2)
    lattice = torch.arange(32 * 32).view(1, 32, 32)
    regions = one._regions(lattice, torch.arange(64))
    for r, c, y, x in [(0, 0, 0, 1), (2, 3, 1, 0), (1, 2, 1, 1)]:
        assert dense[1, r, c, y, x] == drawn.dense[1, 0, 2 * r + y, 2 * c + x]
    for query, point in [(0, 0), (5, 9), (15, 63)]:
        row, column = query // 4 * 8 + point // 8, query % 4 * 8 + point % 8
        assert regions[0, query, point] == row * 32 + column


def test_phase_shift_keeps_spacing_and_reaches_every_row(model: JointModel) -> None:
    one, generator = objective(model, shift=True), torch.Generator().manual_seed(0)
    plain = objective(model)._position_ids((5, 7), 1, None)[0]
    drawn = torch.cat([one._position_ids((5, 7), 4 * GROUP, generator) for _ in range(40)])
    rows, columns = drawn // 70 - plain // 70, drawn % 70 - plain % 70
    assert rows.min() == 0 and rows.max() == 70 // 5 and columns.max() == 70 // 7
    groups = drawn.view(-1, GROUP, 35)
    assert (groups == groups[:, :1]).all(), "pictures of a group share their shift"
    assert (rows == rows[:, :1]).float().mean() > 0.97, "one shift an axis, but for the cap at the last row"
    seen = torch.cat([one._position_ids((5, 7), 4, generator)[:, ::7] // 70 for _ in range(400)])
    assert len(seen.unique()) == 70


def test_every_combination_comes_once_a_round(model: JointModel) -> None:
    one = JointObjective(model, ToyDrawer(), {"text": 2}, [Combination(((2, 2 + i),), (2, 2)) for i in range(5)])
    rounds = [[one.key(r * 5 + i, seed=1) for i in range(5)] for r in range(6)]
    assert all(sorted(r) == list(range(5)) for r in rounds)
    assert len({tuple(r) for r in rounds}) > 1


def test_training_time_table_is_the_models(model: JointModel) -> None:
    ids = torch.tensor([[0, 7, 431, -1]])
    mine = model._times(ids, 4)[0]
    theirs = temporal_positions(128, ids[0].tolist(), torch.device("cpu"), torch.float32)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-5)


def test_start_queries_look_at_their_own_cell() -> None:
    dim = 128
    queries = query_positions(16, dim, 16)
    assert float(queries.std()) == pytest.approx(1.0, abs=1e-3)
    from cpmv.model.resampler import spatial_positions

    table = spatial_positions(dim, 16, 16, torch.device("cpu"), torch.float32)
    best = (queries @ table.T).argmax(-1)
    assert [(int(b) // 16 // 4, int(b) % 16 // 4) for b in best] == [(i, j) for i in range(4) for j in range(4)]


def test_compiled_blocks_trace_without_breaks_and_give_the_same_loss_on_every_grid() -> None:
    grids = [Combination(((3, 4), (2, 5)), (2, 3)), Combination(((4, 4), (3, 3)), (3, 2))]
    plain, traced = (JointModel(build(toy_config(), "cpu", seed=3), CLASSES).train() for _ in range(2))
    torch._dynamo.reset()
    traced.compile_regions("aot_eager")
    a, b = (JointObjective(m, ToyDrawer(), MIX, grids) for m in (plain, traced))
    torch._dynamo.utils.counters.clear()
    for key in (0, 1):
        sums = [o.sums(o.load(key, torch.Generator().manual_seed(key))[0]) for o in (a, b)]
        torch.testing.assert_close(sums[0], sums[1], rtol=1e-5, atol=1e-5)
        for total in sums:
            total.sum().backward()
    for (name, p), (_, q) in zip(plain.named_parameters(), traced.named_parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-4, msg=name)
    # One graph for the vision block, decoder layer, three classifiers and the picture resampler: new grids add none.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 6
