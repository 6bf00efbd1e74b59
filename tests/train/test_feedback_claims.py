"""Claims in English and Chinese, sums of p(yes) and p(no), pairs and balance worked by hand, lines after a kill."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from cpmv.errors import CpmvError
from cpmv.inputs.messages import Message, Text
from cpmv.inputs.processor import Processor
from cpmv.train.feedback_claims import (
    Claim,
    ModelDivider,
    RuleDivider,
    WholeDivider,
    claims_in,
    question_of,
    sentences_of,
    shapes_named,
)
from cpmv.train.feedback_files import Row, continue_lines, read_lines
from cpmv.train.feedback_judges import NO, YES, TruthJudge, Verdict, probabilities, spellings
from cpmv.train.feedback_measure import better, measure
from cpmv.train.feedback_pairs import RATIOS, Preference, Response, balance, kept_at, mean_lengths, pairs_of
from cpmv.train.feedback_prompts import Asked, ScenePrompts
from cpmv.weights import checkpoint
from cpmv.weights.hub import resolve

RULES = RuleDivider()


@pytest.mark.parametrize(
    "text",
    ["a red circle, two blue stars and a red circle", "一个红色圆形、两个蓝色的星形和一个红色圆形"],
)
def test_every_shape_of_a_list_is_a_claim(text: str) -> None:
    claims = RULES.claims_of(text)
    assert [claim.shape for claim in claims] == [
        ("red", "circle", 1),
        ("blue", "star", 1),
        ("blue", "star", 2),
        ("red", "circle", 2),
    ]


def test_questions_are_of_yes_and_no_in_the_language_of_the_answer() -> None:
    english = [claim.question for claim in RULES.claims_of("an orange ring and two black squares")]
    assert english == ["Is there an orange ring?", "Is there a black square?", "Are there at least 2 black squares?"]
    chinese = [claim.question for claim in RULES.claims_of("一个橙色圆环和一个橙色圆环")]
    assert chinese == ["图中有橙色圆环吗？", "图中有至少2个橙色圆环吗？"]


def test_absurd_numbers_do_not_become_thousands_of_claims() -> None:
    assert len(shapes_named("100000 red circles")) == 20


def test_general_sentences_are_cut_at_seams_and_opinions_dropped() -> None:
    text = "A dog sits on Mr. Smith's sofa, and the cat is black. There are 3.5 m of fence! I think it is lovely."
    pieces = sentences_of(text)
    assert pieces == [
        "A dog sits on Mr. Smith's sofa",
        "the cat is black",
        "There are 3.5 m of fence",
        "I think it is lovely",
    ]
    assert [claim.text for claim in RULES.claims_of(text)] == pieces[:3]
    assert [c.text for c in RULES.claims_of("图中有一只猫，而狗在睡觉。我觉得很温馨。")] == ["图中有一只猫", "狗在睡觉"]


def test_statements_become_questions() -> None:
    assert question_of("There are 3 cars") == "Are there 3 cars in the picture?"
    assert question_of("The dog is black") == "Is it true that the dog is black?"
    assert question_of("Paris is shown") == "Is it true that Paris is shown?"
    assert question_of("A lamp on a table") == "Is there a lamp on a table in the picture?"
    assert question_of("图中有一只猫") == "图中有一只猫吗？"
    assert question_of("狗在睡觉") == "图中是否如此：狗在睡觉？"


def test_a_model_divides_and_rules_stand_in_for_replies_that_cannot_be_read() -> None:
    replies = ["- a cat => Is there a cat?\nwell\n2. it sleeps → Does it sleep?\n- a cat => Is there a cat?", "Sure!"]
    asked: list[str] = []

    def ask(texts: Sequence[str]) -> list[str]:
        asked.extend(texts)
        return replies

    divider = ModelDivider(ask)
    first, second = divider.divide([("What?", "A cat sleeps."), ("What?", "There is a dog.")])
    assert first == [Claim("a cat", "Is there a cat?"), Claim("it sleeps", "Does it sleep?")] == claims_in(replies[0])
    assert [claim.question for claim in second] == ["Is there a dog in the picture?"] and divider.failed == 1
    assert "A cat sleeps." in asked[0]


def test_the_whole_answer_can_be_one_claim() -> None:
    (one,) = WholeDivider().divide([("What?", "a red circle and a blue star")])
    assert len(one) == 1 and "a red circle and a blue star" in one[0].question


def test_the_truth_counts_how_many_there_are(tmp_path: Path) -> None:
    asked = Asked(0, tmp_path / "x.png", "?", (("red", "circle"), ("red", "circle"), ("blue", "star")))
    claims = RULES.claims_of("three red circles, a blue star and a green cross. The sky is blue.")
    judge = TruthJudge()
    verdicts = judge.judge([(asked, claim) for claim in claims])
    assert [v.rejected for v in verdicts] == [False, False, True, False, True, False] and judge.unknown == 1
    numbers = measure([asked], [claims[:5]], [verdicts[:5]])
    assert numbers["chair"] == 2 / 5 and numbers["chair_answers"] == 1.0 and numbers["recall"] == 1.0
    with pytest.raises(CpmvError, match="drawn scenes"):
        judge.judge([(Asked(0, tmp_path / "x.png", "?"), claims[0])])


def test_a_tie_rejects() -> None:
    assert Verdict(0.2, 0.2).rejected and Verdict(0.1, 0.3).rejected and not Verdict(0.3, 0.1).rejected


def test_better_means_fewer_wrong_at_equal_recall() -> None:
    old = {"chair": 0.1, "recall": 0.9}
    assert better({"chair": 0.05, "recall": 0.895}, old, 0.01)
    assert not better({"chair": 0.05, "recall": 0.88}, old, 0.01)
    assert not better({"chair": 0.1, "recall": 0.95}, old, 0.01)


def test_probabilities_are_products_of_the_tokens_steps() -> None:
    loaded = checkpoint.load(resolve(None), device="cpu", dtype=torch.float32)
    model, tokenizer = loaded.model, loaded.tokenizer
    words = spellings(tokenizer, YES) + spellings(tokenizer, NO)
    assert tuple(tokenizer.encode_plain("yes")) in words and tuple(tokenizer.encode_plain("是")) in words
    assert not any(a != b and b[: len(a)] == a for a in words for b in words)
    processor = Processor(loaded.config, tokenizer)
    prompts = [
        processor([Message("user", [Text(text)])], enable_thinking=False) for text in ("Is 2 more than 1?", "Hello")
    ]
    found = probabilities(model, prompts, words, 200)
    with torch.no_grad():
        for prompt, row in zip(prompts, found, strict=True):
            for word, value in zip(words, row, strict=True):
                ids, total = prompt.input_ids.tolist(), 0.0
                for token in word:
                    x = model.embed_tokens(torch.tensor(ids))[None]
                    hidden = model.llm.model(x, torch.arange(len(ids))[None])[0, -1:]
                    total += float(model.llm.head(hidden).float().log_softmax(-1)[0, token])
                    ids.append(token)
                assert math.isclose(math.exp(total), float(value), rel_tol=1e-3, abs_tol=1e-9)


def response(text: str, score: float, length: int = 10, source: str = "") -> Response:
    return Response(text, score, length, source)


def test_pairs_need_a_gap_of_one_and_different_words() -> None:
    a, b, c, same = response("a", 0), response("b", -1), response("c", -1), response(" a ", -2)
    found = {(p.chosen.text, p.rejected.text) for p in pairs_of(7, [a, b, c, same], random.Random(0), most=9)}
    assert found == {("a", "b"), ("a", "c"), ("b", " a "), ("c", " a ")}
    assert pairs_of(7, [b, c], random.Random(0)) == []
    two = pairs_of(7, [a, b, c, same], random.Random(0))
    assert len(two) == 2 and two == pairs_of(7, [a, b, c, same], random.Random(0))
    mixed = pairs_of(7, [response("a", 0, source="x"), b, response("d", -1, source="x")], random.Random(0), across=True)
    assert [(p.chosen.text, p.rejected.text) for p in mixed] == [("a", "b")]


def pair(chosen: int, rejected: int) -> Preference:
    return Preference(0, response("a", 0, chosen), response("b", -1, rejected))


def test_the_ratio_makes_mean_lengths_equal() -> None:
    pairs = [pair(2, 10), pair(9, 10), pair(12, 11), pair(5, 10)]
    assert mean_lengths(pairs) == (7.0, 10.25)
    kept, ratio = balance(pairs)
    # Without the first and the last: 10.5 and 10.5; any ratio above 5/10 does that, and the lowest is taken.
    assert kept == pairs[1:3] and mean_lengths(kept) == (10.5, 10.5) and math.isclose(ratio, 0.52)
    by_hand = min(RATIOS, key=lambda r: abs(mean_lengths(kept_at(pairs, r))[0] - mean_lengths(kept_at(pairs, r))[1]))
    assert by_hand == ratio and RATIOS[0] == 0 and math.isclose(RATIOS[-1], 0.98) and len(RATIOS) == 50


def test_balance_keeps_some_pairs_and_bears_none() -> None:
    assert balance([]) == ([], 0.0)
    assert balance([pair(1, 10)]) == ([pair(1, 10)], 0.0)


def test_a_torn_file_goes_on_at_a_whole_block(tmp_path: Path) -> None:
    made: list[tuple[int, int]] = []

    def make(start: int, stop: int) -> list[Row]:
        made.append((start, stop))
        return [{"number": number} for number in range(start, stop)]

    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"number": n}) + "\n" for n in range(3)) + '{"numb')
    rows = continue_lines(path, 7, 2, make)
    assert made == [(2, 4), (4, 6), (6, 7)] and rows == [{"number": n} for n in range(7)] == read_lines(path)
    assert continue_lines(path, 7, 2, make) == rows and len(made) == 3


def test_scenes_repeat_by_number_and_held_out_ones_differ(tmp_path: Path) -> None:
    one, again = (ScenePrompts(seed=3).take(5, tmp_path / name) for name in ("a", "b"))
    assert one.image.read_bytes() == again.image.read_bytes() and one.objects == again.objects
    held_out = ScenePrompts(seed=3, held_out=True).take(5, tmp_path / "c")
    assert held_out.image.read_bytes() != one.image.read_bytes()
    assert one.reference is not None and one.objects is not None
    assert sorted(shape[:2] for shape in shapes_named(one.reference)) == sorted(one.objects)
    assert len(shapes_named(one.reference)) == len(one.objects)
