"""The loop: it learns, it stops a collapsed run, it fits a budget of seconds, it tells what it does."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from toy_drawer import CLASSES, ToyDrawer, logged, toy_config, toy_loop, toy_objective, toy_train_config

from cpmv.train.config import Combination, Schedule
from cpmv.train.init import build
from cpmv.train.joint import JointObjective
from cpmv.train.joint_model import JointBatch, JointModel
from cpmv.train.loop import Clock, TrainingStopped
from cpmv.train.metrics import edit_distance, forward_flops


class OneBatch(JointObjective):
    """The same batch at every step."""

    def load(self, key: int, generator: torch.Generator | None) -> list[JointBatch]:
        return super().load(0, torch.Generator().manual_seed(5))


def test_one_batch_is_learnt_by_heart(tmp_path: Path) -> None:
    config = toy_train_config(steps=60, peak_lr=4e-3, schedule=Schedule(warmup_steps=5))
    loop = toy_loop(tmp_path, config)
    model = loop.step.objective.model  # type: ignore[attr-defined]
    one = OneBatch(model, ToyDrawer(), {"text": 4}, [Combination(((2, 3),), (2, 2))], shift=False)
    loop.step.objective = one
    loop.run()
    lines = logged(tmp_path)
    assert lines[0]["lm"] > 3.5 and lines[-1]["lm"] < 0.3
    assert lines[-1]["dense"] < 0.7 * lines[0]["dense"] and lines[-1]["query"] < lines[0]["query"]


def test_a_step_does_not_depend_on_how_it_is_split(tmp_path: Path) -> None:
    class Split(JointObjective):
        """Each batch as two micro-batches of unequal token counts."""

        def load(self, key: int, generator: torch.Generator | None) -> list[JointBatch]:
            batch = super().load(key, generator)[0]
            empty = batch.input_ids[:0]
            rows = batch.input_ids.shape[0] - 2
            head = JointBatch(batch.passes, batch.input_ids[:rows], batch.targets[:rows], batch.rows, batch.dense,
                              batch.regions, batch.points)  # fmt: skip
            tail = JointBatch([], batch.input_ids[rows:], batch.targets[rows:], empty, empty, empty, batch.points)
            return [head, tail]

    runs = []
    for kind in (JointObjective, Split):
        loop = toy_loop(tmp_path / kind.__name__, toy_train_config())
        made = toy_objective()
        loop.step.objective.__class__ = kind
        assert made.names == loop.step.objective.names
        loop.run(until=3)
        runs.append([line["lm"] + line["grad_norm"] for line in logged(tmp_path / kind.__name__)])
    assert runs[0] == pytest.approx(runs[1], rel=1e-4)


def test_a_collapsed_run_is_stopped_with_a_reason(tmp_path: Path) -> None:
    loop = toy_loop(tmp_path, toy_train_config(alarm_after=3))
    patches = loop.step.optimizer.layout["vpm.embeddings.patch_embedding.weight"][0]
    step_once = loop.step._differentiate

    def collapsed(key: int) -> None:
        step_once(key)
        loop.step.optimizer.grads[patches : patches + 96 * 588] *= 1e-6

    loop.step._differentiate = collapsed  # type: ignore[method-assign]
    with pytest.raises(TrainingStopped, match="collapsed: at step 3 the patch embedding's gradient norm is 0.0000"):
        loop.run()


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    loop = toy_loop(tmp_path, toy_train_config())
    with torch.no_grad():
        loop.step.optimizer.params[0] = float("nan")
        loop.step.optimizer.params[-1] = float("nan")
    with pytest.raises(TrainingStopped, match="not finite at step 1"):
        loop.run()


def test_a_budget_of_seconds_ends_on_time_with_its_decay_done(tmp_path: Path) -> None:
    kept: list[int] = []
    schedule = Schedule("wsd", warmup_steps=5, decay_fraction=0.3)
    config = toy_train_config(steps=None, seconds=8.0, schedule=schedule)
    begun = time.perf_counter()
    loop = toy_loop(tmp_path, config, clock=Clock(begun + 8.0, reserve_s=1.0), on_decay=lambda: kept.append(1))
    progress = loop.run()
    assert 4.0 < time.perf_counter() - begun < 12.0
    lines = logged(tmp_path)
    assert progress.horizon is not None and progress.step == progress.horizon.total == lines[-1]["step"]
    assert kept == [1]
    assert lines[-1]["lr"] == pytest.approx(config.peak_lr * schedule.floor, rel=1e-4)
    assert any("a step:" in line["text"] for line in logged(tmp_path, "note"))


def test_the_log_holds_losses_speed_and_memory(tmp_path: Path) -> None:
    config = toy_train_config(peak_tflops=0.1, log_every=2, evaluate_every_s=0.0)
    toy_loop(tmp_path, config, evaluate=lambda: {"trained": {"exact": 0.5, "cer": 0.25, "n": 4.0}}).run(until=4)
    lines = logged(tmp_path)
    assert [line["step"] for line in lines] == [2, 4]
    for name in ("lm", "dense", "query", "grad_norm", "patch_grad", "lr", "samples_per_s", "memory_gb", "mfu"):
        assert lines[-1][name] > 0, name
    assert lines[-1]["samples"] == 4 * 16
    assert logged(tmp_path, "eval")[0]["scores"]["trained"]["exact"] == 0.5


def test_counted_operations_are_those_the_modules_do() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = toy_config()
    model = JointModel(build(config, "cpu", 0), CLASSES).eval()
    objective = JointObjective(model, ToyDrawer(), {"text": 2}, [Combination(((3, 4),), (2, 2))])
    batch = objective.load(0, torch.Generator().manual_seed(0))[0]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        features, tokens = model.encode(batch.passes[0])
        dense = model.heads.dense(features)
        hidden = model.hidden(batch.input_ids, tokens, batch.rows)
        model.model.llm.head(hidden)
    cost = forward_flops(config, batch.input_ids.shape[1], dense.shape[-1] // 4)
    mine = 2 * (12 * (cost["patch"] + 12 * cost["patch_pair"]) + batch.input_ids.shape[1] * cost["token"])
    # Ours counts causal attention as half of a square; what is done once a batch or once a query is left out.
    assert mine == pytest.approx(counter.get_total_flops(), rel=0.15)


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("汉字", "漢字", 1), ("ab", "ba", 2)],
)
def test_edit_distance(a: str, b: str, distance: int) -> None:
    assert edit_distance(a, b) == edit_distance(b, a) == distance


def test_edit_distance_agrees_with_the_table_on_random_strings() -> None:
    generator = torch.Generator().manual_seed(0)

    def table(a: str, b: str) -> int:
        row = list(range(len(b) + 1))
        for i, x in enumerate(a, 1):
            left, row[0] = row[0], i
            for j, y in enumerate(b, 1):
                left, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, left + (x != y))
        return row[-1]

    for _ in range(200):
        lengths = torch.randint(0, 90, (2,), generator=generator).tolist()
        a, b = ("".join("abcd"[i] for i in torch.randint(4, (n,), generator=generator)) for n in lengths)
        assert edit_distance(a, b) == table(a, b)
