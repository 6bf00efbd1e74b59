"""Every kind of document: same seed same document, sound numbers of sheets, and answers recomputed from the facts."""

from __future__ import annotations

import datetime
import re

import numpy as np
import pytest
from test_draw_samples import synthetic_atlas

from cpmv.train.corrupt_pixels import HIGH
from cpmv.train.draw.charset import drawn_characters
from cpmv.train.draw.document import Document, Metrics
from cpmv.train.draw.documents import KINDS, Maker
from cpmv.train.draw.prompts import COLOURS, DIRECTIONS

MAKER = Maker(Metrics(synthetic_atlas()))
DRAWN = set(drawn_characters())
SEEDS = range(25)


def make(kind: str, seed: int, task: str | None = None, size: tuple[int, int] = (252, 252)) -> Document:
    return MAKER.make(kind, np.random.default_rng((seed, 7)), *size, task=task)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_kind_follows_its_seed_and_counts_its_sheets(kind: str) -> None:
    for seed in SEEDS:
        document = make(kind, seed)
        assert document == make(kind, seed)
        assert sum(turn.num_sheets for turn in document.turns) == len(document.sheets)
        assert all(turn.question and turn.answer for turn in document.turns)
        if document.groups is not None:
            assert sum(map(len, document.groups)) == len(document.sheets)
            times = [time for group in document.groups for time in group]
            assert all(len(group) <= 6 for group in document.groups) and times == sorted(times)
            timeless = all(group == [-1] for group in document.groups)  # a frame a package, like pictures
            assert timeless or times[0] >= 0
        for sheet in document.sheets:
            assert (sheet.width, sheet.height) == (252, 252)
            assert {c for run in sheet.runs for c in run.text} <= DRAWN


@pytest.mark.parametrize("task", ["think_sum_text", "think_receipt_sum", "think_change_text"])
def test_sums_and_their_traces_are_right(task: str) -> None:
    kind = "think" if task == "think_receipt_sum" else "think_text"
    deep = 0
    for seed in range(60):
        document = make(kind, seed, task)
        turn, meta = document.turns[0], document.meta
        number = float(re.sub(r"[^0-9.,]", "", turn.answer).replace(",", "."))
        if task == "think_receipt_sum":
            assert number * 100 == pytest.approx(sum(meta["cents"]), abs=0.5)
        elif task == "think_change_text":
            assert number == meta["given"] - sum(meta["spent"])
        else:
            total = sum(meta["terms"])
            assert number == pytest.approx(total / 100 if "." in turn.answer else total)
        deep += bool(turn.thinking)
        steps = re.findall(r"([0-9.,]+) ([+-]) ([0-9.,]+) = ([0-9.,]+)", turn.thinking)
        slips = 0
        for a, sign, b, c in steps:
            x, y, z = (float(n.replace(",", ".")) for n in (a, b, c))
            slips += abs((x + y if sign == "+" else x - y) - z) > 1e-6
        assert slips <= 1 and (not slips or "wait" in turn.thinking or "不对" in turn.thinking)
    assert 15 < deep < 45  # half of them think


@pytest.mark.parametrize(("kind", "task"), [("think_text", "think_days_between"), ("think", "think_days_on_sheet")])
def test_days_are_counted_right(kind: str, task: str) -> None:
    for seed in range(60):
        document = make(kind, seed, task)
        first, second = (datetime.date.fromisoformat(day) for day in document.meta["dates"])
        turn = document.turns[0]
        assert int(turn.answer) == (second - first).days
        if turn.thinking:
            assert turn.thinking.splitlines()[-1].endswith(f"= {turn.answer}")


def test_arrows_lead_where_the_trace_says() -> None:
    for seed in range(40):
        document = make("think", seed, "think_arrows")
        path, turn = document.meta["path"], document.turns[0]
        assert turn.answer == path[-1] and len(path) - 1 in range(3, 7)
        if turn.thinking:
            assert [line[-1] for line in turn.thinking.splitlines()] == path[1:]


def test_rows_are_counted_right() -> None:
    for seed in range(40):
        meta = (document := make("think", seed, "think_table_count")).meta
        hits = sum(v > meta["bound"] if meta["above"] else v < meta["bound"] for v in meta["values"])
        assert document.turns[0].answer == str(hits)


def visible(document: Document, frame: int) -> set[tuple[float, ...]]:
    """Colours of a frame's marks other than the paper's."""
    sheet = document.sheets[frame]
    return {tuple(mark.colour) for mark in sheet.marks if mark.colour != sheet.paper}


def test_flashes_are_counted_from_what_is_seen() -> None:
    for seed in range(40):
        document = make("clip", seed, "count_flashes")
        counts = [len(visible(document, i)) for i in range(len(document.sheets))]
        on = [count > min(counts) for count in counts] if max(counts) > min(counts) else [False] * len(counts)
        bursts = sum(now and not before for now, before in zip(on, [False, *on], strict=False))
        assert document.turns[0].answer == str(bursts)
        assert len(document.sheets) <= 18


def test_a_bouncing_shape_turns_as_often_as_the_answer_says() -> None:
    for seed in range(40):
        document = make("clip", seed, "count_bounces")
        middles = [sheet.marks[0].places for sheet in document.sheets]
        moves = [np.sign(round(b[0] - a[0] + b[1] - a[1], 3)) for a, b in zip(middles, middles[1:], strict=False)]
        turns = sum(a != b for a, b in zip(moves, moves[1:], strict=False))
        assert document.turns[0].answer == str(turns)


def test_a_turn_is_named_by_the_way_things_go() -> None:
    names = list(DIRECTIONS)
    for seed in range(40):
        document = make("clip", seed, "turn_after")
        a, b = (sheet.marks[0].places for sheet in document.sheets[-2:])
        turned = round(float(np.arctan2(b[1] - a[1], b[0] - a[0])) / (np.pi / 4)) % 8
        name = names[turned]
        assert document.turns[0].answer == (DIRECTIONS[name] if document.language else name)


def test_the_order_of_appearance_is_the_answer() -> None:
    colours = {name for name in COLOURS} | {chinese for chinese, _ in COLOURS.values()}
    for seed in range(40):
        document = make("clip", seed, "order")
        said = re.split(", |、", document.turns[0].answer)
        assert len(said) == 3 and set(said) <= colours
        counts = [len(visible(document, i)) for i in range(len(document.sheets))]
        assert counts == sorted(counts) and counts[-1] == 3


def test_swapped_cups_end_where_the_trace_ends() -> None:
    deep = 0
    for seed in range(40):
        document = make("think_clip", seed, "swaps")
        turn = document.turns[0]
        if turn.thinking:
            deep += 1
            assert turn.thinking.splitlines()[-1].endswith(f": {turn.answer}")
        names = ("左边", "中间", "右边") if document.language else ("left", "center", "right")
        assert turn.answer == names[document.meta["cups"][document.meta["ball"]]]
    assert deep > 8


def test_corrupted_sheets_ask_for_the_original_text() -> None:
    levels = []
    for seed in range(60):
        document = make("corrupted", seed)
        plan, regions = document.meta["corrupt"], document.meta["regions"]
        lines = document.turns[0].answer.splitlines()
        assert lines == [f"{n}. {regions[t.region].text.strip()}" for n, t in enumerate(plan.targets, 1)]
        levels += [target.level for target in plan.targets]
        frames = [mark for mark in document.sheets[0].marks if len(mark.places) == 5]
        assert len(frames) >= len(plan.targets) or not plan.framed
        assert ("<box>" in document.turns[0].question) != plan.framed
    assert 0.1 < levels.count(HIGH) / len(levels) < 0.4
