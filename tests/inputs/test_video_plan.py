"""Which frames are sampled and what times they are told as, against the reference and by properties."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpmv.errors import MediaError, MessageError
from cpmv.inputs.frames import tick_ids
from cpmv.inputs.video import plan_frames

CASES = json.loads((Path(__file__).parents[1] / "golden" / "video_sampling.json").read_text())["cases"]
LENGTHS = st.integers(1, 200_000)
RATES = st.one_of(
    st.sampled_from([0.4, 0.5, 1.0, 10.0, 12.0, 15.0, 24.0, 25.0, 30.0, 60.0, 24000 / 1001, 30000 / 1001, 1000.0]),
    st.floats(0.05, 240.0),
)


def plan_case(case: dict[str, Any]) -> Any:
    return plan_frames(
        case["n_frames"],
        case["fps"],
        choose_fps=case["choose_fps"],
        force_packing=case["force_packing"],
        max_num_packing=case["max_num_packing"],
    )


@pytest.mark.parametrize("case", [c for c in CASES if "error" not in c], ids=lambda c: f"{c['n_frames']}@{c['fps']:g}")
def test_sampling_equals_the_reference(case: dict[str, Any]) -> None:
    plan = plan_case(case)
    assert plan.indices == case["indices"]
    assert plan.packing == case["packing"]
    assert [len(g) for g in plan.temporal_ids] == [len(g) for g in case["groups"]]
    ours = [i for g in plan.temporal_ids for i in g]
    theirs = [i for g in case["groups"] for i in g]
    differing = {i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b}
    assert differing <= set(case["tie_frames"])
    # A tie lies between two neighbouring ticks; the id of either may be one less than its number.
    assert all(0 < abs(ours[i] - theirs[i]) <= 2 for i in differing)


@pytest.mark.parametrize("case", [c for c in CASES if "error" in c], ids=lambda c: f"{c['n_frames']}@{c['fps']:g}")
def test_clips_too_short_for_the_reference_give_one_frame(case: dict[str, Any]) -> None:
    plan = plan_case(case)
    assert len(plan.indices) == 1 and 0 <= plan.indices[0] < case["n_frames"]
    assert len(plan.temporal_ids) == 1 and len(plan.temporal_ids[0]) == 1


def test_ids_below_their_tick_are_kept_as_the_reference_truncates_them() -> None:
    assert tick_ids([4.3, 8.1, 8.6, 4.2, 8.2], 100.0) == [42, 80, 85, 42, 82]
    exceptions = sum(one != i for i, one in enumerate(tick_ids([i * 0.1 for i in range(36_000)], 3600.0)))
    assert exceptions == 1632


@given(LENGTHS, RATES, st.sampled_from([0.25, 1, 2, 3, 5, 10, 24.5]), st.integers(0, 6), st.integers(1, 6))
@settings(max_examples=300, deadline=None)
def test_plans_cover_the_clip_within_the_budget(n: int, fps: float, choose: float, force: int, limit: int) -> None:
    plan = plan_frames(n, fps, choose, force or None, max_num_packing=limit)
    assert plan.indices and all(0 <= i < n for i in plan.indices)
    assert plan.indices == sorted(plan.indices)
    assert len(plan.indices) <= max(180 * limit, round(min(choose, round(fps)) * (n / fps)), 1)
    gaps = np.diff(plan.indices)
    assert not gaps.size or gaps.max() - gaps.min() <= 1  # evenly spread
    assert 1 <= plan.packing <= limit and (not force or plan.packing == min(force, limit))
    sizes = [len(g) for g in plan.temporal_ids]
    assert sum(sizes) == len(plan.indices)
    assert all(size == plan.packing for size in sizes[:-1]) and 1 <= sizes[-1] <= plan.packing
    ids = [i for g in plan.temporal_ids for i in g]
    assert ids == sorted(ids)
    assert all(isinstance(i, int) for i in [*ids, *plan.indices])
    last_tick = (n / fps) / 0.1
    for index, one in zip(plan.indices, ids, strict=True):
        assert one <= last_tick and abs(one - min(index / fps / 0.1, last_tick)) <= 2.0


@given(st.lists(st.floats(0, 900), min_size=1, max_size=50), st.floats(0.01, 900))
@settings(max_examples=200, deadline=None)
def test_ticks_are_the_nearest_of_the_whole_scale(times: list[float], duration: float) -> None:
    scale = np.arange(0, duration, 0.1)
    expected = [int(np.int32(scale[np.argmin(np.abs(t - scale))] / 0.1)) for t in times]
    assert tick_ids(times, duration) == expected


def test_ticks_agree_with_the_tree_search_of_the_guide_except_on_ties() -> None:
    tree = pytest.importorskip("scipy.spatial").cKDTree
    for n, fps in ((5400, 30.0), (7321, 24000 / 1001), (4205, 60.0), (999, 12.5)):
        times = np.arange(0, n, 7) / fps
        scale = np.arange(0, n / fps, 0.1)
        _, found = tree(scale[:, None]).query(times[:, None])
        theirs = (scale[found] / 0.1).astype(np.int32)
        ours = np.array(tick_ids(times.tolist(), n / fps))
        distances = np.sort(np.abs(times[:, None] - scale[None]), axis=1)
        tied = distances[:, 0] == distances[:, 1]
        assert np.array_equal(ours[~tied], theirs[~tied])


def test_forced_packing_above_the_limit_is_clamped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="cpmv"):
        assert plan_frames(900, 30.0, force_packing=5).packing == 3
    assert "packing 5" in caplog.text and "3 frames a group" in caplog.text
    caplog.clear()
    assert plan_frames(900, 30.0, force_packing=5, max_num_packing=6).packing == 5
    assert not caplog.records


def test_forced_packing_does_not_change_which_frames_are_chosen() -> None:
    free = plan_frames(900, 30.0, max_num_packing=6)
    forced = plan_frames(900, 30.0, force_packing=6, max_num_packing=6)
    assert free.indices == forced.indices and free.packing == 1 and forced.packing == 6


def test_more_frames_asked_for_than_there_are_repeats_some() -> None:
    plan = plan_frames(100, 0.5)
    assert len(plan.indices) == 540 and set(plan.indices) == set(range(100))


def test_a_clip_of_two_days_is_planned_without_a_table_of_its_ticks() -> None:
    plan = plan_frames(48 * 3600 * 60, 60.0, max_num_packing=6)
    assert len(plan.indices) == 1080 and plan.temporal_ids[-1][-1] > 1_700_000


@pytest.mark.parametrize(
    "options, words",
    [
        ({"max_num_packing": 0}, "max_num_packing is 0; the model packs 1 to 6"),
        ({"max_num_packing": 7}, "max_num_packing is 7"),
        ({"choose_fps": 0}, "choose_fps is 0"),
        ({"choose_fps": -1}, "choose_fps is -1"),
        ({"choose_fps": float("nan")}, "choose_fps is nan"),
        ({"choose_fps": float("inf")}, "choose_fps is inf"),
        ({"force_packing": -1}, "packing is -1"),
        ({"force_packing": 2.5}, "packing is 2.5"),
        ({"max_num_frames": 0}, "max_num_frames is 0"),
    ],
)
def test_options_out_of_range_are_refused_with_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(MessageError, match=words) as caught:
        plan_frames(300, 30.0, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("n, fps", [(0, 30.0), (-1, 30.0), (10, 0.0), (10, -5.0), (10, float("nan"))])
def test_empty_clips_and_impossible_rates_are_refused(n: int, fps: float) -> None:
    with pytest.raises(MediaError):
        plan_frames(n, fps)
