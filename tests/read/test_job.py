"""Files, outputs and journals: every page once, outputs whole, and a broken-off run that goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paper import Answers, write_pdf
from PIL import Image
from test_page import small  # noqa: F401

from cpmv.errors import CpmvError
from cpmv.model.config import ModelConfig
from cpmv.read.job import Job, Options, Outcome, plan
from cpmv.read.page import PageReader

WORDS = ["alpha", "bravo", "charlie", "delta"]


class Broken(Exception):
    """What ends a run in these tests, as a crash would."""


@pytest.fixture
def document(tmp_path: Path) -> Path:
    return write_pdf(tmp_path / "four.pdf", [[(100, 100, 30, word)] for word in WORDS])


def run(
    files: list[Path],
    out: Path,
    config: ModelConfig,
    answer: Callable[[int, Any], str] | None = None,
    **options: Any,
) -> tuple[Outcome, Answers]:
    answers = Answers(answer or (lambda number, pictures: f"page {number}"))
    chosen = Options(**{"dpi": 60, **options})
    sources, outcome = plan([str(file) for file in files], str(out), chosen)
    job = Job(chosen, {"model": None}, lambda: PageReader(answers, config), outcome, lambda done: None)
    job.run(sources)
    return outcome, answers


def test_pages_stand_in_order_under_their_markers(document: Path, tmp_path: Path, small: ModelConfig) -> None:  # noqa: F811
    outcome, _ = run([document], tmp_path / "out.md", small)
    assert (tmp_path / "out.md").read_text() == "".join(
        f"{'' if i == 0 else chr(10)}<!-- page {i + 1} -->\n\npage {i}\n" for i in range(4)
    )
    assert outcome.num_pages == 4 and not list(tmp_path.glob("*.journal")) and not list(tmp_path.glob("*.part"))


def test_chosen_pages_keep_their_numbers(document: Path, tmp_path: Path, small: ModelConfig) -> None:  # noqa: F811
    run([document], tmp_path / "out.md", small, pages="4,2")
    text = (tmp_path / "out.md").read_text()
    assert text.index("<!-- page 4 -->") < text.index("<!-- page 2 -->") and "page 3" not in text


@pytest.mark.parametrize("stop_at", [0, 1, 2, 3])
def test_a_broken_run_goes_on_with_the_next_page(
    document: Path,
    tmp_path: Path,
    small: ModelConfig,  # noqa: F811
    stop_at: int,
) -> None:
    def fails(number: int, pictures: Any) -> str:
        if number == stop_at:
            raise Broken
        return f"page {number}"

    out = tmp_path / "out.md"
    with pytest.raises(Broken):
        run([document], out, small, fails)
    assert not out.exists()
    journal = tmp_path / "out.md.journal"
    kept = len(journal.read_text().splitlines()) - 1
    with open(journal, "ab") as file:
        file.write(b'{"id": "3", "markd')  # a write that the crash cut off
    outcome, answers = run([document], out, small, lambda number, pictures: f"again {number}")
    assert outcome.num_resumed == kept and len(answers.asked) == 4 - kept
    text = out.read_text()
    assert [text.count(f"<!-- page {i} -->") for i in range(1, 5)] == [1] * 4
    assert [f"page {i}\n" in text for i in range(kept)] == [True] * kept


def test_a_journal_of_other_options_is_refused(document: Path, tmp_path: Path, small: ModelConfig) -> None:  # noqa: F811
    def fails(number: int, pictures: Any) -> str:
        raise Broken

    with pytest.raises(Broken):
        run([document], tmp_path / "out.md", small, fails)
    with pytest.raises(CpmvError, match="dpi = 60, now it is 100"):
        run([document], tmp_path / "out.md", small, dpi=100)
    run([document], tmp_path / "out.md", small, dpi=100, overwrite=True)
    assert (tmp_path / "out.md").exists()


def test_what_is_there_is_left_alone(document: Path, tmp_path: Path, small: ModelConfig) -> None:  # noqa: F811
    out = tmp_path / "out.md"
    out.write_text("mine")
    outcome, answers = run([document], out, small)
    assert outcome.already == [out] and out.read_text() == "mine" and not answers.asked
    outcome, _ = run([document], out, small, overwrite=True)
    assert outcome.read == [out] and out.read_text() != "mine"


def test_folders_are_read_file_by_file_and_bad_ones_named(
    document: Path,
    tmp_path: Path,
    small: ModelConfig,  # noqa: F811
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    document.rename(folder / "four.pdf")
    picture = Image.new("RGB", (400, 300), "white")
    picture.save(folder / "four.png")
    picture.save(folder / "empty.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (folder / "notes.txt").write_text("not read")
    outcome, _ = run([folder], tmp_path / "out", small)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["empty.md", "four.md", "four.png.md"]
    assert [path.name for path, _ in outcome.failed] == ["broken.png"]
    assert (tmp_path / "out" / "empty.md").read_text() == "\n"


def test_checked_pages_count_their_doubts(document: Path, tmp_path: Path, small: ModelConfig) -> None:  # noqa: F811
    def wrong_on_two(number: int, pictures: Any) -> str:
        return WORDS[number] if number != 1 else "brevo"

    outcome, _ = run([document], tmp_path / "out.md", small, wrong_on_two, check=True)
    assert (outcome.doubtful, outcome.unchecked) == (1, 0)
    text = (tmp_path / "out.md").read_text()
    assert "<!-- doubtful: brevo (the text layer has: bravo) -->" in text and text.count("doubtful") == 1


def test_json_is_what_the_schema_asks_for(
    document: Path,
    tmp_path: Path,
    small: ModelConfig,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PageReader, "constraint_for", lambda self, schema: lambda most: None)
    schema = {"type": "object", "properties": {"first": {"type": "string"}}}
    outcome, answers = run(
        [document], tmp_path / "out.json", small, lambda number, pictures: '{"first": "阿"}', schema=schema
    )
    assert json.loads((tmp_path / "out.json").read_text()) == {"first": "阿"} and outcome.num_pages == 4
    ((pictures, question, _),) = answers.asked
    assert len(pictures) == 4 and json.dumps(schema) in question
    outcome, _ = run([document], tmp_path / "bad.json", small, lambda number, pictures: '{"fir', schema=schema)
    assert "no JSON came of 4 pages" in outcome.failed[0][1] and not (tmp_path / "bad.json").exists()


@pytest.mark.parametrize(
    ("files", "out", "words"),
    [
        (["four.pdf", "four.pdf"], "out.md", "2 files are to be read"),
        (["four.pdf"], "out.json", "does not fit"),
        (["nothing"], "out.md", "no pictures or PDFs"),
    ],
)
def test_outputs_that_cannot_be_are_refused(
    document: Path, tmp_path: Path, files: list[str], out: str, words: str
) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(CpmvError, match=words):
        plan([str(tmp_path / name) for name in files], str(tmp_path / out), Options())
