"""Beam search: the reference's tokens, the library's ends, an exhaustive search, conversations that never touch."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_cases import CASES, TOKENIZER, ending_at, prompt, text_prompt

from cpmv.engine.beam import search
from cpmv.engine.generate import generate
from cpmv.engine.output import Answer
from cpmv.engine.sampling import Sampler, SamplingParams
from cpmv.model.minicpmv import MiniCPMV

BEAMS = SamplingParams(num_beams=3, repetition_penalty=1.2, max_new_tokens=16)
SEARCHED = [key for key in CASES if "beam3_rep1.2_16" in CASES[key]]

# Prompts of plain tokens, ordinary tokens as terminators, and what transformers 4.51.3 answers with tiny_a's decoder:
# (prompt, terminators, beams, repetition penalty, length penalty, min and max new tokens, answer).
LIBRARY: list[tuple[Any, ...]] = [
    (
        [557, 105, 588, 256, 14, 749, 222, 418, 287],
        [206, 378],
        2,
        1.0,
        1.0,
        0,
        24,
        [288, 699, 144, 658, 952, 727, 995, 104, 481, 378],
    ),
    (
        [445, 382, 153, 61, 866],
        [125, 515, 928],
        4,
        1.0,
        -1.0,
        3,
        12,
        [347, 977, 124, 850, 591, 370, 367, 440, 881, 799, 125],
    ),
    (
        [81, 55, 224, 199, 823, 454, 13, 484, 532, 88, 980],
        [49, 510, 1024],
        3,
        1.05,
        1.0,
        0,
        24,
        [731, 735, 317, 420, 718, 164, 287, 1068, 530, 217, 520, 637, 979, 154, 180, 1002, 1019, 588, 49],
    ),
    ([754, 218, 542], [210, 837], 5, 1.0, 0.5, 0, 24, [547, 900, 994, 606, 722, 897, 550, 907, 210]),
    ([307, 2, 900, 777, 331, 529, 674], [154, 644], 4, 1.2, 0.0, 3, 24, [926, 73, 842, 154]),
    (
        [155, 377, 7, 60, 741, 617, 379, 776, 907, 490],
        [209, 474, 805],
        3,
        1.2,
        0.5,
        3,
        24,
        [287, 1045, 616, 853, 952, 648, 318, 30, 606, 722, 49, 1058, 862, 845, 904, 159, 762, 483, 209],
    ),
    ([285, 186, 178, 422, 10, 955, 700, 412], [429, 988, 1056], 3, 1.0, 0.5, 0, 12, [185, 642, 659, 909, 429]),
    (
        [562, 952, 260, 285, 306, 236],
        [477, 840],
        2,
        1.05,
        1.0,
        3,
        24,
        [316, 865, 377, 22, 529, 115, 471, 940, 316, 148, 680, 840],
    ),
    ([630, 912, 593, 562], [103, 260], 3, 1.0, -1.0, 0, 24, [558, 391, 818, 642, 287, 731, 513, 484, 182, 409, 260]),
    (
        [976, 332, 706, 521, 703, 886, 618, 127, 350, 810, 805, 472],
        [249, 532],
        4,
        1.05,
        1.0,
        3,
        24,
        [231, 242, 210, 484, 403, 753, 917, 677, 219, 781, 405, 748, 1056, 249],
    ),
    # A beam that goes on beats beams that have finished, though all places are taken.
    (
        [250, 227, 732, 88, 35, 730, 74, 432],
        [397, 604],
        2,
        1.2,
        1.0,
        0,
        24,
        [
            277,
            372,
            355,
            535,
            472,
            325,
            922,
            1090,
            418,
            959,
            473,
            349,
            1009,
            239,
            570,
            1056,
            156,
            594,
            257,
            725,
            391,
            120,
            542,
            973,
        ],
    ),
    (
        [330, 258, 30, 516, 90, 147, 888],
        [349, 918],
        2,
        1.05,
        2.0,
        0,
        12,
        [292, 449, 479, 154, 964, 403, 2, 287, 49, 712, 650, 410],
    ),
    (
        [157, 864, 32, 873, 774, 357, 330],
        [437, 893, 975],
        4,
        1.0,
        1.0,
        3,
        24,
        [
            58,
            602,
            655,
            495,
            947,
            1067,
            1009,
            564,
            349,
            321,
            503,
            1052,
            678,
            96,
            1034,
            257,
            290,
            26,
            470,
            736,
            691,
            10,
            575,
            212,
        ],
    ),
]


@pytest.mark.parametrize("key", SEARCHED)
def test_answers_equal_the_reference(tiny_network: MiniCPMV, key: str) -> None:
    assert generate(tiny_network, TOKENIZER, prompt(key), BEAMS).token_ids == CASES[key]["beam3_rep1.2_16"]


def test_a_batch_of_beams_equals_one_by_one(tiny_network: MiniCPMV) -> None:
    params = [BEAMS.replace(max_new_tokens=4 + 4 * (i % 4), logprobs=i % 2) for i in range(len(SEARCHED))]
    outputs = generate(tiny_network, TOKENIZER, [prompt(key) for key in SEARCHED], params)
    for key, one, output in zip(SEARCHED, params, outputs, strict=True):
        alone = generate(tiny_network, TOKENIZER, prompt(key), one)
        assert (output.token_ids, output.finish_reason) == (alone.token_ids, "length")
        for mine, other in zip(output.logprobs or [], alone.logprobs or [], strict=True):
            assert mine.token_id == other.token_id and mine.logprob == pytest.approx(other.logprob, abs=1e-3)


@pytest.mark.parametrize("ids, ends, beams, penalty, length_penalty, least, most, expected", LIBRARY)
def test_finished_beams_are_ranked_and_the_search_ends_as_in_the_library(
    tiny_network: MiniCPMV,
    ids: list[int],
    ends: list[int],
    beams: int,
    penalty: float,
    length_penalty: float,
    least: int,
    most: int,
    expected: list[int],
) -> None:
    params = SamplingParams(
        num_beams=beams,
        repetition_penalty=penalty,
        length_penalty=length_penalty,
        min_new_tokens=least,
        max_new_tokens=most,
    )
    output = generate(tiny_network, ending_at(*ends), text_prompt(ids), params)
    assert output.token_ids == expected
    assert output.finish_reason == ("stop" if expected[-1] in ends else "length")


class Table:
    """Stands for `Batch`: logits depend on the last token alone, through a table [V, V]; row 0 is the prompt's."""

    def __init__(self, tables: list[torch.Tensor]) -> None:
        self.tables = tables

    def prefill(self, chunk: int | None = None) -> torch.Tensor:
        return torch.stack([table[0] for table in self.tables])

    def select(self, rows: list[int]) -> None:
        self.tables = [self.tables[row] for row in rows]

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.stack([table[token] for table, token in zip(self.tables, tokens.tolist(), strict=True)])


def find(batch: Table, params: list[SamplingParams], end: int) -> list[Answer]:
    tokenizer = ending_at(end)
    answers = [Answer(tokenizer, one, max_new_tokens=one.max_new_tokens, num_prompt_tokens=1) for one in params]
    sampler = Sampler(params, [end], batch.tables[0].shape[1], torch.device("cpu"))
    search(batch, sampler, answers)  # type: ignore[arg-type]
    return answers


def every_answer(table: torch.Tensor, most: int, end: int, length_penalty: float) -> dict[tuple[int, ...], float]:
    """Score every sequence that ends at the terminator or the length."""
    logprobs = table.double().log_softmax(-1).tolist()
    scores = {}
    for length in range(1, most + 1):
        for tokens in itertools.product(range(len(table)), repeat=length):
            if end in tokens[:-1] or (length < most and tokens[-1] != end):
                continue
            total = sum(logprobs[before][token] for before, token in zip((0, *tokens), tokens, strict=False))
            scores[tokens] = total / length**length_penalty
    return scores


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), most=st.integers(1, 4), length_penalty=st.sampled_from([0.0, 0.5, 1.0]))
def test_beams_without_number_find_the_best_of_all_answers(seed: int, most: int, length_penalty: float) -> None:
    table = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)) * 2
    # As many beams as there are sequences: nothing is ever lost.
    params = SamplingParams(num_beams=4**most, max_new_tokens=most, length_penalty=length_penalty)
    scores = every_answer(table, most, 3, length_penalty)
    found = scores[tuple(find(Table([table]), [params], 3)[0].token_ids)]
    assert found == pytest.approx(max(scores.values()), abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), num_beams=st.integers(2, 4), length_penalty=st.sampled_from([-1.0, 0.0, 1.0, 2.0]))
def test_conversations_of_one_search_never_touch(seed: int, num_beams: int, length_penalty: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    tables = [torch.randn(12, 12, generator=generator) * 3 for _ in range(3)]
    params = [
        SamplingParams(num_beams=num_beams, max_new_tokens=n, length_penalty=length_penalty, repetition_penalty=1.1)
        for n in (9, 3, 6)
    ]
    together = find(Table(tables), params, 5)
    for table, one, answer in zip(tables, params, together, strict=True):
        alone = find(Table([table]), [one], 5)[0]
        assert (answer.token_ids, answer.finish_reason) == (alone.token_ids, alone.finish_reason)


def test_the_search_ends_when_no_beam_can_beat_the_finished_ones() -> None:
    # From the prompt (row 0) the terminator, 3, has p = 0.5 and 1 has 0.4; after 1 the terminator has 0.4.
    table = torch.full((4, 4), 0.2).log()
    table[0] = torch.tensor([0.05, 0.4, 0.05, 0.5]).log()
    table[1, 3] = math.log(0.4)
    steps: list[int] = []

    class Counted(Table):
        def step(self, tokens: torch.Tensor) -> torch.Tensor:
            steps.append(1)
            return super().step(tokens)

    answer = find(Counted([table]), [SamplingParams(num_beams=2, max_new_tokens=50)], 3)[0]
    assert answer.token_ids == [3] and len(steps) == 1  # by then [3] and [1, 3] have finished


def test_only_the_first_candidates_may_finish() -> None:
    # The terminator, 3, ranks third of the six candidates at first, where two beams may finish; after 1 it ranks first.
    table = torch.full((4, 4), 0.01).log()
    table[0] = torch.tensor([0.01, 0.4, 0.35, 0.24]).log()
    table[1, 3] = table[2, 3] = 0.0
    answer = find(Table([table]), [SamplingParams(num_beams=2, max_new_tokens=9, length_penalty=-9.0)], 3)[0]
    assert answer.token_ids == [1, 3]


def test_a_stop_string_across_tokens_ends_a_beam(tiny_network: MiniCPMV) -> None:
    free = generate(tiny_network, TOKENIZER, prompt("system.fast"), BEAMS)
    before = TOKENIZER.decode(free.token_ids[:5])
    stop = before[-1] + TOKENIZER.decode(free.token_ids)[len(before)]  # where the fifth token meets the sixth
    params = BEAMS.replace(stop=stop, length_penalty=-4.0)  # short answers win
    output = generate(tiny_network, TOKENIZER, prompt("system.fast"), params)
    assert output.raw_text == before[:-1].strip() and output.finish_reason == "stop"
    assert output.token_ids[:5] == free.token_ids[:5] and len(output.token_ids) == 6


def test_stop_strings_of_beams_pass_over_what_leaves_no_text() -> None:
    a, b, bos = *TOKENIZER.encode("a"), *TOKENIZER.encode("b"), TOKENIZER.bos_token_id
    assert bos is not None
    params = SamplingParams(num_beams=2, stop="ab")
    one = Answer(TOKENIZER, params, max_new_tokens=9, num_prompt_tokens=1, skip=(0,))
    assert one.has_stop_string([5, a, 0, b]) and not one.has_stop_string([a, 5, b])
    begins = Answer(TOKENIZER, params.replace(stop="im_start"), max_new_tokens=9, num_prompt_tokens=1)
    assert begins.has_stop_string([a, bos]) and not begins.has_stop_string([bos, a])


def test_cancelled_beams_give_the_best_so_far(tiny_network: MiniCPMV) -> None:
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(1)
        return len(asked) > 4

    prompts = [prompt("text.fast"), prompt("system.fast")]
    params = [BEAMS.replace(max_new_tokens=2), BEAMS]
    outputs = generate(tiny_network, TOKENIZER, prompts, params, should_stop=should_stop)
    assert [output.finish_reason for output in outputs] == ["length", "cancelled"]
    assert len(outputs[1].token_ids) == 4


def test_more_beams_find_a_likelier_answer(tiny_network: MiniCPMV) -> None:
    def total(num_beams: int) -> float:
        params = SamplingParams(temperature=0, num_beams=num_beams, max_new_tokens=8, logprobs=0)
        output = generate(tiny_network, TOKENIZER, prompt("system.fast"), params)
        return sum(one.logprob for one in output.logprobs or [])

    assert total(8) > total(1) + 0.1
