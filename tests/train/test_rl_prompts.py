"""Prompts: drawn ones by number, apart from the frozen sets, in both modes; rows of any format with what is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_draw_samples import synthetic_atlas

from cpmv.evals.samples import read_set
from cpmv.evals.tasks import SETS
from cpmv.inputs.messages import Message, Text
from cpmv.inputs.processor import Processor
from cpmv.train.formats import read_source
from cpmv.train.mixture import Mixture
from cpmv.train.records import BadSample, Record
from cpmv.train.rewards import PROBABILITY, rule_reward
from cpmv.train.rl_prompts import (
    DrawnPrompts,
    RecordPrompts,
    drop_unusable,
    frozen_sums,
    numbers_of,
    question_of,
)
from cpmv.train.samples import Reading
from cpmv.weights import checkpoint, hub

BUNDLED = Path(__file__).parents[2] / "cpmv" / "bundled"


@pytest.fixture(scope="module")
def processor() -> Processor:
    loaded = checkpoint.load(hub.resolve(BUNDLED), device="cpu")
    return Processor(loaded.config, loaded.tokenizer)


def drawn(processor: Processor, *names: str, **options: Any) -> DrawnPrompts:
    return DrawnPrompts(names, processor, Reading(max_tokens=1024), **options)


def test_the_same_number_gives_the_same_question_whatever_it_is_taken_with(processor: Processor) -> None:
    atlas = synthetic_atlas()
    names = ("think", "count", "chart")
    together = drawn(processor, *names, atlas=atlas).take([(n, n % 2 == 0) for n in range(10)])
    alone = drawn(processor, *names, atlas=atlas)
    for n in (3, 8):
        (again,) = alone.take([(n, n % 2 == 0)])
        was = together[n]
        assert was is not None and again is not None
        assert torch.equal(was.inputs.input_ids, again.inputs.input_ids)
        assert torch.equal(was.inputs.patches, again.inputs.patches) and was.reference == again.reference
    (other,) = drawn(processor, *names, atlas=atlas, seed=1).take([(3, False)])
    assert other is not None and together[3] is not None and other.question != together[3].question


def test_a_question_is_the_same_in_both_modes_but_for_the_end_of_the_prompt(processor: Processor) -> None:
    fast, deep = drawn(processor, "sums").take([(0, False), (0, True)])
    assert fast is not None and deep is not None
    assert fast.question == deep.question and fast.reference == deep.reference
    assert deep.inputs.text.endswith("<think>\n") and fast.inputs.text.endswith("<think>\n\n</think>\n\n")
    assert fast.inputs.text.removesuffix("\n</think>\n\n") == deep.inputs.text
    assert rule_reward(fast.kind, fast.reference, fast.reference) == 1


def test_tasks_are_those_that_were_asked_for(processor: Processor) -> None:
    tasks = [
        p.task for p in drawn(processor, "count", atlas=synthetic_atlas()).take([(n, False) for n in range(6)]) if p
    ]
    assert len(tasks) == 6 and all(task.startswith("scene_count") for task in tasks)


def test_tasks_may_be_judged_by_other_rules(processor: Processor) -> None:
    rules = [("think_sum_text", "none"), ("think_.*", "probability")]
    made = drawn(processor, "sums", rules=rules).take([(n, False) for n in range(12)])
    kinds = {(p.task == "think_sum_text", p.kind) for p in made if p}
    assert kinds == {(True, "none"), (False, "probability")}


def test_no_drawn_sum_is_one_of_the_frozen_sets(processor: Processor) -> None:
    wanted = {
        numbers_of(sample.question)
        for name in ("thinking", "talk")
        for sample in read_set(SETS / f"{name}.zip")
        if not any(turn.images for turn in sample.turns)
    }
    several = {numbers for numbers in wanted if len(numbers) > 1}
    assert frozen_sums() == several and len(several) > 20
    prompts = drawn(processor, "sums")
    made = [prompts._document(n) for n in range(300)]
    assert not {numbers_of(document.turns[-1].question) for document in made} & several
    # It is the comparison that keeps them apart: a frozen question is refused.
    document = made[0]
    document.turns[-1].question = " + ".join(next(iter(several)))
    assert prompts._is_frozen(document)


def test_evaluation_draws_other_numbers(processor: Processor) -> None:
    trained = {p.question for p in drawn(processor, "sums").take([(n, False) for n in range(50)]) if p}
    asked = {p.question for p in drawn(processor, "sums", held_out=True).take([(n, False) for n in range(50)]) if p}
    assert not trained & asked


ROWS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "2 + 3?"}], "solution": "5"},
    {"messages": [{"role": "user", "content": "Why?"}], "solution": "because nobody has ever asked"},
    {
        "messages": [
            {"role": "user", "content": "Say it."},
            {"role": "assistant", "content": "<think>\nx\n</think>\n\nit"},
        ]
    },
    {"messages": [{"role": "user", "content": "Exactly."}], "solution": "a b", "rule": "exact"},
    {"messages": [{"role": "user", "content": "Nobody knows."}]},
    {"messages": [{"role": "user", "content": "long " * 200}], "solution": "5"},
]


@pytest.fixture(scope="module")
def records(processor: Processor, tmp_path_factory: pytest.TempPathFactory) -> RecordPrompts:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    source = read_source(path)
    reading = Reading(max_tokens=100)
    drop_unusable([source], processor, reading, strict=False)
    assert [problem.line for problem in source.problems] == [5, 6]
    return RecordPrompts([source], processor, reading, Mixture([len(source.records)], batch_size=1, shuffle=False))


def test_rows_without_what_is_right_or_too_long_are_named_and_others_routed(records: RecordPrompts) -> None:
    assert records.size == 4
    assert [records.kind(i) for i in range(4)] == ["number", PROBABILITY, "label", "exact"]
    assert records.unruled() == [1]
    records.baselines = {1: 0.25}
    made = records.take([(n, True) for n in range(5)])
    assert [p.reference for p in made if p] == ["5", ROWS[1]["solution"], "it", "a b", "5"]
    assert made[1] is not None and made[1].baseline == 0.25
    assert made[2] is not None and made[2].question == "Say it." and made[2].inputs.text.endswith("<think>\n")


def test_an_answer_that_follows_is_what_is_right_and_a_solution_comes_first() -> None:
    turns = [Message("user", [Text("?")]), Message("assistant", [Text("no")])]
    assert question_of(Record(turns)) == (turns[:1], "no")
    assert question_of(Record(turns, solution=[1, 2, 3, 4]))[1] == "[1, 2, 3, 4]"
    with pytest.raises(BadSample, match="no question at its end"):
        question_of(Record([Message("system", [Text("?")])], solution="5"))
