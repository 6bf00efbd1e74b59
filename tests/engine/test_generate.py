"""Whole answers of the tiny checkpoint: the reference's tokens, batches equal to one by one, ends, streams."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_cases import CASES, TOKENIZER, ending_at, prompt, text_prompt

from cpmv.engine.batch import Batch
from cpmv.engine.generate import generate, is_reference, stream
from cpmv.engine.output import Output
from cpmv.engine.sampling import SamplingParams
from cpmv.errors import ContextLengthError, MessageError
from cpmv.model.minicpmv import MiniCPMV

MARGIN = 2e-3  # reference answers whose likeliest tokens lie closer are compared up to that point only
SINGLE = [key for key in CASES if key != "batch"]
GREEDY = SamplingParams(temperature=0, max_new_tokens=32)
DRAWN = SamplingParams(temperature=0.9, top_p=0.9, seed=11, max_new_tokens=16)


@pytest.fixture(scope="module")
def short_network(tiny_network: MiniCPMV) -> MiniCPMV:
    """The tiny network with a context of 40 tokens."""
    config = tiny_network.config
    language = dataclasses.replace(config.language, max_position_embeddings=40)
    with torch.device("meta"):
        network = MiniCPMV(dataclasses.replace(config, language=language))
    network.load_state_dict(tiny_network.state_dict(), assign=True)
    return network


@pytest.mark.parametrize("key", SINGLE)
def test_greedy_answers_equal_the_reference(tiny_network: MiniCPMV, key: str) -> None:
    case = CASES[key]
    assert case["min_margin"] > MARGIN
    compat = "reference" if case["mask"] == "compat_id0_masked" else None
    output = generate(tiny_network, TOKENIZER, prompt(key), GREEDY, thinking=case["enable_thinking"], compat=compat)
    assert output.token_ids == case["greedy"]
    prefix = "<think>\n" if case["enable_thinking"] else ""
    assert output.raw_text == prefix + case["greedy_text"].strip()
    assert output.num_prompt_tokens == case["n_tokens"] and output.finish_reason == "length"


@pytest.mark.parametrize("key", [key for key in SINGLE if "greedy_rep1.3_24" in CASES[key]])
def test_penalised_and_lengthened_answers_equal_the_reference(tiny_network: MiniCPMV, key: str) -> None:
    for name, params in (
        ("greedy_rep1.3_24", SamplingParams(temperature=0, repetition_penalty=1.3, max_new_tokens=24)),
        ("greedy_min8_12", SamplingParams(temperature=0, min_new_tokens=8, max_new_tokens=12)),
    ):
        assert generate(tiny_network, TOKENIZER, prompt(key), params).token_ids == CASES[key][name]


def test_the_left_padded_batch_equals_the_reference(tiny_network: MiniCPMV) -> None:
    case = CASES["batch"]
    prompts = [prompt(f"{name}.fast") for name in case["members"]]
    outputs = generate(tiny_network, TOKENIZER, prompts, GREEDY.replace(max_new_tokens=16))
    assert [output.token_ids for output in outputs] == case["greedy_batch"]


def test_a_batch_of_unequal_conversations_equals_one_by_one(tiny_network: MiniCPMV) -> None:
    keys = ["video_p3.fast", "text.fast", "video_and_image.fast", "few_shot.fast", "video_p6_id.fast", "text_zh.fast"]
    prompts = [prompt(key) for key in keys]
    params = [
        GREEDY,
        DRAWN,
        GREEDY.replace(max_new_tokens=3, logprobs=2),
        DRAWN.replace(seed=12, repetition_penalty=1.3, logprobs=0),
        SamplingParams(num_beams=2, max_new_tokens=6),
        GREEDY.replace(min_new_tokens=30, stop="lab"),
    ]
    outputs = generate(tiny_network, TOKENIZER, prompts, params)
    for one, options, output in zip(prompts, params, outputs, strict=True):
        assert_same(output, generate(tiny_network, TOKENIZER, one, options))


@settings(max_examples=12, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(1, 990), min_size=1, max_size=20), min_size=2, max_size=5),
    lengths=st.lists(st.integers(1, 12), min_size=5, max_size=5),
)
def test_any_text_batch_equals_one_by_one(tiny_network: MiniCPMV, prompts: list[list[int]], lengths: list[int]) -> None:
    inputs = [text_prompt(ids) for ids in prompts]
    params = [SamplingParams(temperature=0, max_new_tokens=n, logprobs=2) for n in lengths[: len(inputs)]]
    outputs = generate(tiny_network, TOKENIZER, inputs, params)
    for one, options, output in zip(inputs, params, outputs, strict=True):
        alone = generate(tiny_network, TOKENIZER, one, options)
        if min(one.top[0][1] - one.top[1][1] for one in alone.logprobs or []) > MARGIN:
            assert_same(output, alone)


def assert_same(found: Output, expected: Output) -> None:
    assert dataclasses.replace(found, logprobs=None) == dataclasses.replace(expected, logprobs=None)
    assert (found.logprobs is None) == (expected.logprobs is None)
    for one, other in zip(found.logprobs or [], expected.logprobs or [], strict=True):
        assert one.token_id == other.token_id and one.logprob == pytest.approx(other.logprob, abs=1e-3)
        assert [token for token, _ in one.top] == [token for token, _ in other.top]


@pytest.mark.parametrize("chunk", [1, 7, 64, 153, 154, 1000])
def test_chunked_prefill_equals_whole(tiny_network: MiniCPMV, chunk: int) -> None:
    inputs = [prompt("video_p3.fast"), prompt("text.fast")]
    for prompts in (inputs, inputs[:1]):
        whole = Batch(tiny_network, prompts, 4).prefill()
        chunked = Batch(tiny_network, prompts, 4).prefill(chunk)
        torch.testing.assert_close(chunked, whole, atol=2e-4, rtol=0)
    output = generate(tiny_network, TOKENIZER, inputs[0], GREEDY, prefill_chunk=chunk)
    assert output.token_ids == CASES["video_p3.fast"]["greedy"]


def test_chunked_prefill_equals_whole_with_the_reference_mask(tiny_network: MiniCPMV) -> None:
    key = "bang.fast.compat_id0_masked"
    output = generate(tiny_network, TOKENIZER, prompt(key), GREEDY, compat="reference", prefill_chunk=5)
    assert output.token_ids == CASES[key]["greedy"]


def test_reference_compatibility_holds_in_a_batch(tiny_network: MiniCPMV) -> None:
    keys = ["bang.fast.compat_id0_masked", "image_arg.fast", "bang.fast.compat_id0_masked"]
    outputs = generate(tiny_network, TOKENIZER, [prompt(key) for key in keys], GREEDY, compat="reference")
    assert [output.token_ids for output in outputs] == [CASES[key]["greedy"] for key in keys]


def with_heads_swapped(network: MiniCPMV, one: int, other: int) -> MiniCPMV:
    """A copy whose head gives one token the place of another."""
    network = copy.deepcopy(network)
    head = network.llm.lm_head.weight.data
    head[[one, other]] = head[[other, one]]
    return network


def test_reference_compatibility_drops_exclamation_marks(tiny_network: MiniCPMV) -> None:
    network = with_heads_swapped(tiny_network, 0, CASES["system.fast"]["greedy"][3])
    output = generate(network, TOKENIZER, prompt("system.fast"), GREEDY)
    assert 0 in output.token_ids and "!" in output.text
    dropped = generate(network, TOKENIZER, prompt("system.fast"), GREEDY, compat="reference")
    assert dropped.token_ids == output.token_ids
    assert dropped.raw_text == TOKENIZER.decode([token for token in output.token_ids if token != 0]).strip()


def test_a_leading_bos_shows_in_the_raw_stream_alone(tiny_network: MiniCPMV) -> None:
    bos = TOKENIZER.bos_token_id
    assert bos is not None and bos not in TOKENIZER.eos_token_ids
    network = with_heads_swapped(tiny_network, bos, CASES["system.fast"]["greedy"][0])
    for raw in (False, True):
        parts = stream(network, TOKENIZER, prompt("system.fast"), GREEDY.replace(max_new_tokens=4), raw=raw)
        shown = "".join(map(str, parts))
        assert parts.output is not None and parts.output.token_ids[0] == bos
        assert shown.startswith(TOKENIZER.decode([bos])) == raw


def test_a_terminator_ends_the_answer_and_leaves_the_batch(tiny_network: MiniCPMV) -> None:
    # An ordinary token of one reference answer is the terminator here.
    answers = [CASES[f"{name}.fast"]["greedy"] for name in ("text", "image_arg", "multi")]
    end = answers[1][5]
    stand_in = ending_at(end)
    prompts = [prompt(f"{name}.fast") for name in ("text", "image_arg", "multi")]
    outputs = generate(tiny_network, stand_in, prompts, GREEDY)
    for output, full in zip(outputs, answers, strict=True):
        expected = full[: full.index(end) + 1] if end in full else full
        assert output.token_ids == expected
        assert output.finish_reason == ("stop" if end in full else "length")
        assert output.raw_text == TOKENIZER.decode([token for token in expected if token != end]).strip()
    later = generate(tiny_network, stand_in, prompts[1], GREEDY.replace(min_new_tokens=8))
    assert end not in later.token_ids[:7] and later.token_ids[:5] == answers[1][:5]


def test_a_stop_string_across_tokens_ends_the_answer(tiny_network: MiniCPMV) -> None:
    case = CASES["text_first.fast"]
    full = case["greedy_text"].strip()
    output = generate(tiny_network, TOKENIZER, prompt(case["key"]), GREEDY.replace(stop=["nowhere", "tli"]))
    assert output.text == full[: full.index("tli")] and output.finish_reason == "stop"
    assert output.token_ids == case["greedy"][: len(output.token_ids)] and len(output.token_ids) < 8


def test_a_seed_repeats_an_answer_and_seeds_differ(tiny_network: MiniCPMV) -> None:
    first, again, other = (
        generate(tiny_network, TOKENIZER, prompt("text.fast"), DRAWN.replace(seed=seed)) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_the_global_seed_is_honoured(tiny_network: MiniCPMV) -> None:
    def run(seed: int) -> Output:
        torch.manual_seed(seed)
        return generate(tiny_network, TOKENIZER, prompt("text.fast"), SamplingParams.reference(True, max_new_tokens=16))

    assert run(100) == run(100) != run(101)


def test_logprobs_are_those_of_the_plain_distribution(tiny_network: MiniCPMV) -> None:
    params = SamplingParams(temperature=0.8, top_k=5, repetition_penalty=1.5, seed=3, max_new_tokens=8, logprobs=4)
    for options in (params, SamplingParams(num_beams=3, repetition_penalty=1.2, max_new_tokens=8, logprobs=4)):
        output = generate(tiny_network, TOKENIZER, prompt("text.fast"), options)
        whole = text_prompt(prompt("text.fast").input_ids.tolist() + output.token_ids)
        expected = tiny_network.logits(whole)[-9:-1].log_softmax(-1)
        assert output.logprobs is not None and len(output.logprobs) == 8
        for one, row, token in zip(output.logprobs, expected, output.token_ids, strict=True):
            assert one.token_id == token and one.logprob == pytest.approx(row[token].item(), abs=1e-3)
            assert [t for t, _ in one.top] == row.topk(4).indices.tolist()


def test_an_answer_that_fills_the_context_ends_with_length(short_network: MiniCPMV) -> None:
    one = prompt("text.fast")  # 32 tokens
    output = generate(short_network, TOKENIZER, one, GREEDY)
    assert output.token_ids == CASES["text.fast"]["greedy"][:8] and output.finish_reason == "length"


def test_a_prompt_without_room_for_an_answer_is_refused_with_the_numbers(short_network: MiniCPMV) -> None:
    assert len(generate(short_network, TOKENIZER, text_prompt([5] * 39), GREEDY).token_ids) == 1
    for size in (40, 90):
        with pytest.raises(ContextLengthError, match=f"{size} tokens .* 39") as caught:
            generate(short_network, TOKENIZER, [prompt("text.fast"), text_prompt([5] * size)], GREEDY)
        assert caught.value.num_tokens == size
    with pytest.raises(ContextLengthError):
        stream(short_network, TOKENIZER, text_prompt([5] * 41), GREEDY)  # before the first piece is asked for


def test_should_stop_ends_every_answer(tiny_network: MiniCPMV) -> None:
    steps: list[tuple[int, int]] = []
    outputs = generate(
        tiny_network,
        TOKENIZER,
        [prompt("text.fast"), prompt("system.fast")],
        [GREEDY.replace(max_new_tokens=2), GREEDY],
        on_token=lambda index, token: steps.append((index, token)),
        should_stop=lambda: len(steps) >= 6,
    )
    assert [output.finish_reason for output in outputs] == ["length", "cancelled"]
    assert outputs[1].token_ids == CASES["system.fast"]["greedy"][:4]
    assert [token for index, token in steps if index == 1] == outputs[1].token_ids


def test_every_token_is_told_with_the_index_of_its_prompt(tiny_network: MiniCPMV) -> None:
    told: list[list[int]] = [[], [], []]
    params = [GREEDY.replace(max_new_tokens=5), SamplingParams(num_beams=2, max_new_tokens=3), GREEDY]
    prompts = [prompt(key) for key in ("text.fast", "text_zh.fast", "system.fast")]
    outputs = generate(
        tiny_network, TOKENIZER, prompts, params, on_token=lambda index, token: told[index].append(token)
    )
    assert told == [output.token_ids for output in outputs]


def test_mistaken_arguments_are_refused(tiny_network: MiniCPMV) -> None:
    one = prompt("text.fast")
    with pytest.raises(MessageError, match="2 sampling parameters were given for 1 prompts"):
        generate(tiny_network, TOKENIZER, one, [GREEDY, GREEDY])
    with pytest.raises(MessageError, match="compat='hf' is unknown"):
        generate(tiny_network, TOKENIZER, one, GREEDY, compat="hf")
    with pytest.raises(MessageError, match="prefill_chunk=0"):
        generate(tiny_network, TOKENIZER, one, GREEDY, prefill_chunk=0)
    with pytest.raises(MessageError, match="prefill_chunk=-1"):
        stream(tiny_network, TOKENIZER, one, GREEDY, prefill_chunk=-1)
    with pytest.raises(MessageError, match="num_beams=3 cannot stream"):
        stream(tiny_network, TOKENIZER, one, SamplingParams(num_beams=3))
    assert is_reference("reference") and not is_reference(None)
    assert generate(tiny_network, TOKENIZER, [], GREEDY) == []


@pytest.mark.parametrize("key", ["text.fast", "image_arg.think", "text_zh.fast"])
def test_a_stream_adds_up_to_the_answer(tiny_network: MiniCPMV, key: str) -> None:
    thinking = CASES[key]["enable_thinking"]
    params = GREEDY.replace(logprobs=1)
    whole = generate(tiny_network, TOKENIZER, prompt(key), params, thinking=thinking)
    parts = stream(tiny_network, TOKENIZER, prompt(key), params, thinking=thinking)
    assert parts.output is None
    pieces = list(parts)
    assert len(pieces) > 10 and parts.output == whole
    assert "".join(str(piece) for piece in pieces if piece.kind == "answer").strip() == whole.text
    assert "".join(str(piece) for piece in pieces if piece.kind == "thinking").strip() == whole.thinking
    assert [i for piece in pieces for i in piece.token_ids] == whole.token_ids
    assert [one for piece in pieces for one in piece.logprobs or []] == whole.logprobs
    raw = stream(tiny_network, TOKENIZER, prompt(key), params, thinking=thinking, raw=True)
    assert "".join(map(str, raw)) == CASES[key]["greedy_text"]


def test_a_closed_stream_does_no_more_work(tiny_network: MiniCPMV, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    step = Batch.step
    monkeypatch.setattr(Batch, "step", lambda self, tokens: (steps.append(1), step(self, tokens))[1])
    parts = stream(tiny_network, TOKENIZER, prompt("text.fast"), GREEDY)
    assert not steps
    next(parts)
    taken = len(steps)
    parts.close()
    assert list(parts) == [] and len(steps) == taken
    assert parts.output is not None and parts.output.finish_reason == "cancelled"
    assert parts.output.token_ids == CASES["text.fast"]["greedy"][: len(parts.output.token_ids)]


def test_a_cancelled_stream_gives_out_what_it_held_back(tiny_network: MiniCPMV) -> None:
    text = CASES["text_first.fast"]["greedy_text"]
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(1)
        return len(asked) > 5

    parts = stream(
        tiny_network,
        TOKENIZER,
        prompt("text_first.fast"),
        GREEDY.replace(stop=text[3:9] + "X"),
        should_stop=should_stop,
    )
    shown = "".join(map(str, parts))
    assert parts.output is not None and parts.output.finish_reason == "cancelled" and len(parts.output.token_ids) == 5
    assert shown == TOKENIZER.decode(parts.output.token_ids)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_generates(tiny_network: MiniCPMV, dtype: torch.dtype) -> None:
    network = copy.deepcopy(tiny_network).to(dtype)
    keys = ["system.fast", "image_arg.fast"]
    outputs = generate(network, TOKENIZER, [prompt(key) for key in keys], GREEDY.replace(logprobs=1))
    for key, output in zip(keys, outputs, strict=True):
        assert output.token_ids[:1] == CASES[key]["greedy"][:1] and len(output.token_ids) == 32
        assert all(one.logprob <= 0 for one in output.logprobs or [])
