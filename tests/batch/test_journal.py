"""The journal keeps what was written whole, through a cut at any byte, and belongs to one job and one process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cpmv.batch.journal import BatchError, Journal

JOB = {"model": None, "question": "What is this?"}


def line(number: int, status: int = 200) -> dict[str, Any]:
    return {"id": f"id-{number}", "custom_id": str(number), "response": {"status_code": status}, "error": None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl.part"


def test_results_come_back(path: Path) -> None:
    with Journal(path, JOB) as journal:
        journal.append([line(1), line(2)])
        journal.append([line(3)])
    with Journal(path, JOB) as journal:
        assert set(journal.ids) == {"id-1", "id-2", "id-3"} and len(journal) == 3
        assert journal.read("id-2") == line(2)
        assert "id-2" in journal and "id-4" not in journal


def test_cut_off_at_any_byte_it_keeps_every_whole_line_and_goes_on(path: Path) -> None:
    with Journal(path, JOB) as journal:
        journal.append([line(number) for number in range(4)])
    whole = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        with Journal(path, JOB) as journal:
            kept = max(0, sum(end <= length for end in ends) - 1)
            assert set(journal.ids) == {f"id-{number}" for number in range(kept)}
            journal.append([line(9)])
            assert journal.read("id-9") == line(9)
        lines = [json.loads(one) for one in path.read_bytes().splitlines()]
        assert [one["id"] for one in lines[1:]] == [f"id-{number}" for number in range(kept)] + ["id-9"]


def test_a_tail_of_zeros_after_a_power_cut_is_removed(path: Path) -> None:
    with Journal(path, JOB) as journal:
        journal.append([line(1)])
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(4096))
    with Journal(path, JOB) as journal:
        assert set(journal.ids) == {"id-1"}
    assert path.read_bytes() == whole


def test_damage_in_the_middle_is_told_and_what_follows_is_done_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Journal(path, JOB) as journal:
        journal.append([line(number) for number in range(3)])
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = b"\0" * (len(lines[2]) - 1) + b"\n"
    path.write_bytes(b"".join(lines))
    with Journal(path, JOB) as journal:
        assert set(journal.ids) == {"id-0"}
    assert "is damaged" in caplog.text


def test_another_job_is_refused_with_the_difference(path: Path) -> None:
    Journal(path, JOB).close()
    before = path.read_bytes()
    with pytest.raises(BatchError, match='question = "What is this\\?", now it is "Where is it\\?"'):
        Journal(path, {**JOB, "question": "Where is it?"})
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"my own notes\n", b"my own", b'{"some": "json"}\n', b"\x89PNG\r\n"])
def test_a_file_that_is_no_journal_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(BatchError, match="no journal"):
        Journal(path, JOB)
    assert path.read_bytes() == content


def test_two_processes_cannot_share_one(path: Path) -> None:
    with Journal(path, JOB), pytest.raises(BatchError, match="in use by another"):
        Journal(path, JOB)
    Journal(path, JOB).close()


def test_failures_of_ours_are_not_final_and_the_last_result_counts(path: Path) -> None:
    with Journal(path, JOB) as journal:
        journal.append([line(1, 500), line(2, 400)])
    with Journal(path, JOB) as journal:
        assert not journal.is_final("id-1") and journal.is_final("id-2")
        journal.append([line(1, 200)])
        assert journal.is_final("id-1")
    with Journal(path, JOB) as journal:
        assert journal.is_final("id-1") and journal.read("id-1") == line(1)


def test_a_full_disk_leaves_whole_lines_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    with Journal(path, JOB) as journal:
        journal.append([line(1)])
        before = path.read_bytes()
        calls = iter([10])

        def short(file: int, data: Any, offset: int) -> int:
            for size in calls:
                return write(file, data[:size], offset)
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "pwrite", short)
        with pytest.raises(BatchError, match="No space left on device"):
            journal.append([line(2)])
        assert path.read_bytes() == before
        monkeypatch.undo()
        journal.append([line(3)])
    with Journal(path, JOB) as journal:
        assert set(journal.ids) == {"id-1", "id-3"}


def test_removed_it_leaves_nothing(path: Path) -> None:
    journal = Journal(path, JOB)
    journal.append([line(1)])
    journal.remove()
    assert list(path.parent.iterdir()) == []
