"""`cpmv chat` with one question: the answers are the library's, and every option reaches it."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import MODEL, PICTURE, Command, write_pdf, write_video

import cpmv

SHORT = ("--model", MODEL, "--greedy", "--max-new-tokens", "12")


@pytest.fixture(scope="module")
def model() -> cpmv.Model:
    return cpmv.load(MODEL)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capsys, monkeypatch)


@pytest.mark.parametrize("question", ["What is this?", "这是什么？"])
def test_the_answer_is_what_ask_returns(question: str, command: Command, model: cpmv.Model) -> None:
    assert command("chat", PICTURE, "-q", question, *SHORT) == 0
    assert command.out.strip() == model.ask(PICTURE, question, greedy=True, max_new_tokens=12)
    assert command.err == ""


def test_json_is_one_object_with_the_answer_and_what_it_took(command: Command, model: cpmv.Model) -> None:
    assert command("chat", "--json", PICTURE, "-q", "What is this?", *SHORT) == 0
    (report,) = command.answers()
    inputs = model.processor([{"role": "user", "content": [cpmv.Image(PICTURE), "What is this?"]}])
    assert report["answer"] == model.ask(PICTURE, "What is this?", greedy=True, max_new_tokens=12)
    assert report["thinking"] == "" and report["finish_reason"] == "length"
    assert report["prompt_tokens"] == len(inputs) and report["answer_tokens"] == 12
    assert report["visual_tokens"] == 64 * len(inputs.image_bounds)
    assert set(report["timings"]) == {"load_s", "prepare_s", "first_text_s", "total_s"}
    assert 0 < report["timings"]["prepare_s"] <= report["timings"]["first_text_s"] <= report["timings"]["total_s"]
    assert report["model"] == {
        **{"name": MODEL, "version": "4.5", "format": "bf16"},
        **{"device": str(model.device), "dtype": str(model.dtype).removeprefix("torch.")},
    }


def test_several_files_of_every_kind_are_told_apart_by_content(
    command: Command, model: cpmv.Model, tmp_path: Path
) -> None:
    clip, document = write_video(tmp_path / "clip.avi"), write_pdf(tmp_path / "pages.pdf")
    clip, document = (str(Path(file).rename(tmp_path / name)) for file, name in ((clip, "a.png"), (document, "b.png")))
    options = ("--fps", "2", "--packing", "2", "--pages", "2", "--max-slices", "1", "--json")
    assert command("chat", PICTURE, clip, document, "-q", "And?", *options, *SHORT) == 0
    (report,) = command.answers()
    assert report["visual_tokens"] == 64 * (1 + 2 + 1)  # a picture, 4 frames in pairs, a page
    expected = model.ask(
        [PICTURE, clip, document],
        "And?",
        greedy=True,
        max_new_tokens=12,
        **{"fps": 2, "packing": 2, "pages": "2", "max_slice_nums": 1},
    )
    assert report["answer"] == expected


def test_max_slices_and_system_reach_the_prompt(command: Command, model: cpmv.Model) -> None:
    counts = []
    for options in ((), ("--system", "Be brief."), ("--max-slices", "1"), ("--max-slices", "9")):
        picture = str(Path(PICTURE).with_name("chart.png")) if options else PICTURE
        assert command("chat", picture, "-q", "What?", "--json", *options, *SHORT) == 0
        counts.append(command.answers()[0])
    with_system = model.processor(
        [{"role": "user", "content": [cpmv.Image(str(Path(PICTURE).with_name("chart.png"))), "What?"]}],
        system_prompt="Be brief.",
    )
    assert counts[1]["prompt_tokens"] == len(with_system)
    assert counts[2]["visual_tokens"] == 64


def test_thinking_is_kept_apart_from_the_answer(command: Command, model: cpmv.Model) -> None:
    messages = [{"role": "user", "content": "Why?"}]
    inputs = model.processor(messages, enable_thinking=True)
    params = cpmv.SamplingParams(temperature=0.0, max_new_tokens=12)
    output = model.generate(inputs, params, thinking=True)
    assert isinstance(output, cpmv.Output) and output.thinking
    assert command("chat", "-q", "Why?", "--think", "--json", *SHORT) == 0
    (report,) = command.answers()
    assert (report["thinking"], report["answer"]) == (output.thinking, output.text)
    # Without a terminal, thinking goes to stderr, so that stdout is the answer alone.
    assert command("chat", "-q", "Why?", "--think", *SHORT) == 0
    assert command.out.strip() == output.text and command.err.strip() == output.thinking


def test_a_seed_makes_drawing_repeatable_and_each_question_draws_anew(command: Command) -> None:
    options = ("--model", MODEL, "--max-new-tokens", "12", "--json")

    def answers(seed: str, questions: str) -> list[str]:
        assert command("chat", "--seed", seed, *options, stdin=questions) == 0
        return [report["answer"] for report in command.answers()]

    first = answers("7", "Why?\n/clear\nWhy?\n")
    assert first == answers("7", "Why?\n/clear\nWhy?\n")
    assert first[0] != first[1] and first[0] != answers("8", "Why?\n")[0]


@pytest.mark.parametrize(
    ("option", "value", "kind"), [("--fps", "3", "video"), ("--packing", "2", "video"), ("--pages", "1", "pdf")]
)
def test_an_option_that_nothing_can_use_is_refused(option: str, value: str, kind: str, command: Command) -> None:
    line = command.mistake("chat", PICTURE, "-q", "What?", option, value, *SHORT)
    assert line.startswith(f"cpmv: {option} {value}") and f"no {kind} is among the files" in line


def test_what_a_terminal_would_obey_is_shown_as_a_replacement(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cpmv.cli.screen import Screen

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    screen.piece("\nso\n", "thinking")
    screen.piece("\n\nred \x1b[31m", "answer")
    screen.end("3 tokens")
    out = capsys.readouterr().out
    assert out == "\x1b[2mso\x1b[0m\n\n\nred \N{REPLACEMENT CHARACTER}[31m\n\x1b[2m(3 tokens)\x1b[0m\n"
