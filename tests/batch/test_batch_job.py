"""A whole job through the real command: every input ends once, wherever it is broken off, and says what it did."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import GOLDEN, synthetic_image

import cpmv
from cpmv.batch import job as job_module
from cpmv.batch import results as results_module
from cpmv.batch.journal import Journal
from cpmv.cli import batch as command_module
from cpmv.cli.main import main

MODEL = str(GOLDEN / "tiny_a")
SHORT = ("--model", MODEL, "--greedy", "--max-new-tokens", "4", "--max-batch", "4", "--workers", "2")


@pytest.fixture(scope="module")
def model() -> cpmv.Model:
    return cpmv.load(MODEL)


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch: pytest.MonkeyPatch, model: cpmv.Model) -> None:
    monkeypatch.setattr(cpmv, "load", lambda *args, **options: model, raising=False)
    monkeypatch.setattr(command_module.signal, "signal", lambda *args: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(6):
        synthetic_image(40 + number, 30, number).save(folder / f"{number}.png")
    (folder / "3.txt").write_text("no picture")
    return folder


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


def content(line: dict[str, Any]) -> str:
    return str(line["response"]["body"]["choices"][0]["message"]["content"])


def run(folder: Path, out: Path, *options: str) -> int:
    return main(["batch", str(folder), str(out), "-q", "What is this?", *SHORT, *options])


def test_a_folder_gives_a_line_a_file_in_order(
    folder: Path, tmp_path: Path, model: cpmv.Model, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    assert run(folder, out) == 1
    lines = lines_of(out)
    assert [line["custom_id"] for line in lines] == ["0.png", "1.png", "2.png", "3.png", "3.txt", "4.png", "5.png"]
    assert [line["error"] is None for line in lines] == [True] * 4 + [False] + [True] * 2
    bad = lines[4]
    assert bad["error"]["code"] == "invalid_media" and bad["response"]["status_code"] == 400
    assert bad["response"]["body"]["error"]["message"] == bad["error"]["message"]
    expected = model.ask(folder / "1.png", "What is this?", greedy=True, max_new_tokens=4)
    assert content(lines[1]) == expected
    usage = lines[1]["response"]["body"]["usage"]
    assert usage["completion_tokens"] <= 4 and usage["prompt_tokens_details"]["visual_tokens"] > 0
    error = capsys.readouterr().err
    assert "7 inputs, 1 of them failed" in error and "3.txt: " in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.jsonl"]


def test_pages_are_for_the_documents_of_a_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "3.txt").unlink()
    pictures = [synthetic_image(60, 40, seed) for seed in (1, 2)]
    pictures[0].save(folder / "two.pdf", save_all=True, append_images=pictures[1:])
    assert run(folder, tmp_path / "one.jsonl", "--pages", "2") == 0
    assert run(folder, tmp_path / "all.jsonl") == 0
    tokens = [
        lines_of(tmp_path / name)[-1]["response"]["body"]["usage"]["prompt_tokens_details"]["visual_tokens"]
        for name in ("one.jsonl", "all.jsonl")
    ]
    assert tokens[0] * 2 == tokens[1]


def test_videos_are_decoded_where_they_lie_at_the_rates_asked_for(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    clip = Path(__file__).parents[2] / "examples" / "pictures" / "moving.gif"
    (folder / "moving.gif").write_bytes(clip.read_bytes())
    tokens = []
    for packing in ("1", "3"):
        out = tmp_path / f"{packing}.jsonl"
        assert run(folder, out, "--fps", "4", "--packing", packing) == 0
        details = lines_of(out)[0]["response"]["body"]["usage"]["prompt_tokens_details"]
        assert details["visual_tokens"] == details["video_tokens"]
        tokens.append(details["video_tokens"])
    assert tokens == [5 * 64, 2 * 64]  # 5 frames, one by one and in groups of 3 and 2


def test_without_a_bad_input_the_exit_code_is_0(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "3.txt").unlink()
    assert run(folder, tmp_path / "out.jsonl", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["inputs"], report["answered"], report["failed"], report["done_before"]) == (6, 6, 0, 0)


def test_a_finished_job_is_not_done_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    assert run(folder, out) == 1
    before = out.read_bytes()

    def load(*args: Any, **options: Any) -> Any:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(cpmv, "load", load)
    capsys.readouterr()
    assert run(folder, out) == 1
    assert out.read_bytes() == before and "7 inputs, 1 of them failed" in capsys.readouterr().err
    assert run(folder, out, "--seed", "5") == 2
    assert "exists and is not the output of this job" in capsys.readouterr().err
    (folder / "6.png").write_bytes((folder / "5.png").read_bytes())
    assert run(folder, out) == 2
    assert out.read_bytes() == before


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it, and what follows does not happen."""


def test_broken_off_before_and_after_every_record_it_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calm = tmp_path / "out.jsonl", tmp_path / "calm.jsonl"
    assert run(folder, calm) == 1
    append, kills = Journal.append, 0
    done_once: list[str] = []

    def dies(self: Journal, results: Any, *, after: bool) -> None:
        if after:
            append(self, results[:1])
            done_once.append(results[0]["id"])
        raise Killed

    for after in (False, True) * 7:
        monkeypatch.setattr(Journal, "append", lambda self, results, after=after: dies(self, results, after=after))
        with pytest.raises(Killed):
            run(folder, out)
        assert not out.exists()
        kills += 1
    monkeypatch.setattr(Journal, "append", append)
    assert len(set(done_once)) == len(done_once) == 7
    assert run(folder, out) == 1
    assert [line["custom_id"] for line in lines_of(out)] == [line["custom_id"] for line in lines_of(calm)]
    assert [line["error"] or content(line) for line in lines_of(out)] == [
        line["error"] or content(line) for line in lines_of(calm)
    ]


STEPS: dict[str, Callable[[pytest.MonkeyPatch, Callable[..., Any]], None]] = {
    "before OUT is written": lambda patch, die: patch.setattr(job_module, "write_output", die),
    "before OUT is renamed": lambda patch, die: patch.setattr(results_module.os, "replace", die),
    "before the folder is synced": lambda patch, die: patch.setattr(results_module, "sync_folder", die),
    "before the journal is removed": lambda patch, die: patch.setattr(Journal, "remove", die),
    "after the journal is removed": lambda patch, die: patch.setattr(command_module, "_report", die),
}


@pytest.mark.parametrize("step", STEPS)
def test_broken_off_while_it_finishes_it_goes_on(
    step: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"

    def die(*args: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        STEPS[step](patch, die)
        with pytest.raises(Killed):
            run(folder, out)
    assert run(folder, out) == 1
    names = [line["custom_id"] for line in lines_of(out)]
    assert names == ["0.png", "1.png", "2.png", "3.png", "3.txt", "4.png", "5.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.jsonl"]


def test_stopped_by_a_signal_it_keeps_what_it_has(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, record = tmp_path / "out.jsonl", job_module.Job.record

    def interrupted(self: job_module.Job, results: Any) -> None:
        record(self, results)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job_module.Job, "record", interrupted)
        assert run(folder, out) == 130
    assert "run the same command again for the other" in capsys.readouterr().err
    assert run(folder, out, "--json") == 1
    assert json.loads(capsys.readouterr().out)["done_before"] >= 1


def test_inputs_that_changed_under_a_job_are_noticed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(job_module, "write_output", lambda *args: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            run(folder, out)
    os.utime(folder / "2.png", ns=(5, 5))
    assert run(folder, out) == 2
    assert "1 results whose inputs have changed or are gone" in capsys.readouterr().err
    assert run(folder, out, "--overwrite") == 1
    assert len(lines_of(out)) == 7


def test_failures_of_ours_are_tried_again_and_end_the_job_when_they_do_not_stop(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cpmv.engine.engine import Engine

    out = tmp_path / "out.jsonl"
    add, calls = Engine.add, iter(range(100))

    def fails_once(self: Engine, *args: Any, **options: Any) -> Any:
        if next(calls) == 2:
            raise RuntimeError("a kernel fell over")
        return add(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "add", fails_once)
        patch.setattr(job_module, "write_output", lambda *args: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            run(folder, out)
    journal = [json.loads(line) for line in (tmp_path / "out.jsonl.part").read_text().splitlines()[1:]]
    assert [line["error"]["code"] for line in journal if line["error"]].count("internal_error") == 1
    assert run(folder, out) == 1
    assert [line["error"]["code"] for line in lines_of(out) if line["error"]] == ["invalid_media"]

    def fails(self: Engine, *args: Any, **options: Any) -> Any:
        raise RuntimeError("a kernel fell over")

    monkeypatch.setattr(Engine, "add", fails)
    monkeypatch.setattr("cpmv.batch.run.MAX_FAILURES_IN_A_ROW", 3)
    assert run(folder, tmp_path / "other.jsonl") == 2
    assert "3 inputs in a row failed: RuntimeError: a kernel fell over" in capsys.readouterr().err
    assert not (tmp_path / "other.jsonl").exists()


def request(custom_id: str, **body: Any) -> str:
    body.setdefault("messages", [{"role": "user", "content": "What is this?"}])
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", **body}}
    return json.dumps(line)


def test_requests_in_the_batch_format(tmp_path: Path, model: cpmv.Model) -> None:
    pytest.importorskip("pyarrow")
    source, out = tmp_path / "in.jsonl", tmp_path / "out.parquet"
    lines = [
        request("several", n=3, seed=7, max_tokens=3, temperature=1.0),
        request("logprobs", logprobs=True, top_logprobs=2, max_tokens=2),
        request("shaped", structured_outputs={"choice": ["yes", "no"]}, max_tokens=8),
        request("surprise", surprise=1),
        request("long", messages=[{"role": "user", "content": "word " * 50_000}]),
        "not JSON",
    ]
    source.write_text("\n".join(lines))
    assert main(["batch", str(source), str(out), *SHORT]) == 1
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(out).to_pylist()
    assert [row["custom_id"] for row in rows] == ["several", "logprobs", "shaped", "surprise", "long", "line-6"]
    several, logprobs = (json.loads(row["response"]["body"]) for row in rows[:2])
    assert len(several["choices"]) == 3 and rows[0]["content"] == several["choices"][0]["message"]["content"]
    tokens = logprobs["choices"][0]["logprobs"]["content"]
    assert len(tokens) >= 1 and all(len(token["top_logprobs"]) == 2 for token in tokens)
    assert all(token["logprob"] <= 0 and isinstance(token["bytes"], list) for token in tokens)
    assert rows[2]["content"] in ("yes", "no")
    codes = [row["error"]["code"] for row in rows[3:]]
    assert codes == ["unknown_field", "context_length_exceeded", "invalid_json_line"]
    assert "surprise" in rows[3]["error"]["message"] and rows[5]["response"] is None
    assert main(["batch", str(source), str(out), *SHORT]) == 1  # complete, and known to be


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["in", "out.txt", "-q", "?"], "end its name in .jsonl or .parquet"),
        (["in", "no/out.jsonl", "-q", "?"], "does not exist; make it"),
        (["in", "out.jsonl"], "add -q"),
        (["in", "out.jsonl", "-q", " "], "--question is empty"),
        (["in", "out.jsonl", "-q", "?", "--replicas", "2"], "--replicas needs --cluster"),
        (["missing", "out.jsonl", "-q", "?"], "cannot be read"),
        (["empty", "out.jsonl", "-q", "?"], "holds no input"),
    ],
)
def test_mistakes_are_one_line(
    argv: list[str], words: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.parent)
    (folder.parent / "empty").mkdir()
    assert main(["batch", *argv]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert sorted(path.name for path in folder.parent.iterdir()) == ["empty", "in"]
