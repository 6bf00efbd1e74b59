"""Every kind of IN lists its inputs in order, knows them again, and says what is wrong with which."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from conftest import synthetic_image

from cpmv.batch.bodies import Call, media
from cpmv.batch.journal import BatchError
from cpmv.batch.sources import Question, open_source
from cpmv.errors import CpmvError

QUESTION = Question("What is this?")


def png(seed: int = 1) -> bytes:
    file = io.BytesIO()
    synthetic_image(40, 30, seed).save(file, "PNG")
    return file.getvalue()


def data_uri(seed: int = 1) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(seed)).decode()}"


def request(custom_id: Any, content: Any = "Hello?", **extra: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": content}]}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body, **extra}


def write_lines(path: Path, *lines: Any) -> str:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
    return str(path)


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "media"
        for name in ("b.png", "a/2.png", "a/1.png", ".hidden/x.png", "c.png"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(png())
        (folder / ".DS_Store").write_bytes(b"x")
        return folder

    def test_files_come_in_the_order_of_their_paths(self, folder: Path) -> None:
        items = open_source(str(folder), QUESTION, {}).items()
        assert [item.custom_id for item in items] == ["a/1.png", "a/2.png", "b.png", "c.png"]

    def test_the_output_is_no_input(self, folder: Path) -> None:
        items = open_source(str(folder), QUESTION, {}, (folder / "c.png",)).items()
        assert "c.png" not in [item.custom_id for item in items]

    def test_the_request_shows_the_file_and_asks_the_question(self, folder: Path) -> None:
        source = open_source(str(folder), Question("What is this?", "Be brief."), {})
        call = source.read(source.items()[0])
        assert call == Call({}, folder, [media("file", folder / "a/1.png"), "What is this?"], "Be brief.")

    def test_an_id_changes_with_the_file_and_the_job_and_with_nothing_else(self, folder: Path) -> None:
        ids = [item.id for item in open_source(str(folder), QUESTION, {"seed": 1}).items()]
        assert len(set(ids)) == 4 and all(id.startswith("batch_req_") for id in ids)
        (folder / "d.png").write_bytes(png())
        os.utime(folder / "b.png", ns=(1, 1))
        now = [item.id for item in open_source(str(folder), QUESTION, {"seed": 1}).items()]
        assert [now[i] == ids[i] for i in range(4)] == [True, True, False, True]
        assert not set(ids) & {item.id for item in open_source(str(folder), QUESTION, {"seed": 2}).items()}

    def test_a_name_that_is_no_unicode_is_an_input_like_any_other(self, folder: Path) -> None:
        try:
            Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png")).write_bytes(png())
        except OSError:
            pytest.skip("the file system takes only Unicode names")
        source = open_source(str(folder), QUESTION, {})
        item = source.items()[-1]
        assert item.custom_id == "\\xff.png" and json.dumps(item.custom_id)
        assert source.read(item).parts[0].data.is_file()

    def test_a_question_is_needed(self, folder: Path) -> None:
        with pytest.raises(BatchError, match="add -q"):
            open_source(str(folder), Question(), {})


class TestJsonLines:
    def open(self, tmp_path: Path, *lines: Any) -> Any:
        return open_source(write_lines(tmp_path / "in.jsonl", *lines), Question(), {})

    def test_lines_are_read_by_place(self, tmp_path: Path) -> None:
        source = self.open(tmp_path, request("one"), "", request("zwei ü", [{"type": "text", "text": "Hi?"}]))
        items = source.items()
        assert [item.custom_id for item in items] == ["one", "zwei ü"]
        assert source.read(items[1]).body["messages"][0]["content"] == [{"type": "text", "text": "Hi?"}]
        assert source.read(items[0]) == Call(request("one")["body"], tmp_path)

    @pytest.mark.parametrize(
        ("line", "code"),
        [
            ("{broken", "invalid_json_line"),
            ("[1, 2]", "invalid_json_line"),
            ("[" * 100_000, "invalid_json_line"),
            ({"body": {}}, "missing_custom_id"),
            (request(7), "missing_custom_id"),
            ('{"custom_id": "\\ud800", "body": {}}', "missing_custom_id"),
        ],
    )
    def test_a_line_that_is_no_request_is_named_by_its_number(self, tmp_path: Path, line: Any, code: str) -> None:
        items = self.open(tmp_path, request("one"), line).items()
        assert items[1].custom_id == "line-2" and items[1].problem is not None
        assert items[1].problem[0] == code and items[1].problem[1].startswith("line 2 ")

    def test_a_custom_id_that_repeats_is_an_error_of_its_own(self, tmp_path: Path) -> None:
        items = self.open(tmp_path, request("one"), request("two"), request("one")).items()
        assert items[0].problem is None and items[2].custom_id == "one#line-3"
        assert items[2].problem == (
            "duplicate_custom_id",
            "line 3 repeats the custom_id 'one' of line 1; each must be its own",
        )
        assert len({item.id for item in items}) == 3

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            (request("x", method="GET"), "method 'GET'"),
            (request("x", url="/v1/embeddings"), "url '/v1/embeddings'"),
            (request("x", extra=1), "unknown field 'extra'"),
            ({"custom_id": "x", "method": "POST", "url": "/v1/chat/completions"}, "there is no body"),
            ({"custom_id": "x", "body": 7}, "there is no body"),
        ],
    )
    def test_what_cannot_be_asked_is_said(self, tmp_path: Path, line: Any, words: str) -> None:
        source = self.open(tmp_path, line)
        with pytest.raises(CpmvError, match=words):
            source.read(source.items()[0])

    def test_a_question_on_the_command_line_has_no_place(self, tmp_path: Path) -> None:
        with pytest.raises(BatchError, match="leave out -q"):
            open_source(write_lines(tmp_path / "in.jsonl", request("x")), QUESTION, {})


def test_what_is_no_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(BatchError, match="neither a folder nor JSONL nor Parquet"):
        open_source(str(tmp_path / "a.txt"), Question(), {})
    with pytest.raises(BatchError, match="cannot be read"):
        open_source(str(tmp_path / "missing.jsonl"), Question(), {})


class TestParquet:
    def write(self, path: Path, rows: list[dict[str, Any]], **options: Any) -> str:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet

        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path, **options)
        return str(path)

    def test_rows_with_media_and_a_question_column(self, tmp_path: Path) -> None:
        (tmp_path / "here.png").write_bytes(png())
        rows = [
            {"id": 7, "image": {"bytes": png(), "path": None}, "question": "One?"},
            {"id": 8, "image": {"bytes": None, "path": "here.png"}, "question": "Two?"},
            {"id": 7, "image": None, "question": "Three?"},
            {"id": None, "image": None, "question": None},
        ]
        source = open_source(self.write(tmp_path / "in.parquet", rows, row_group_size=3), Question(), {})
        items = source.items()
        assert [item.custom_id for item in items] == ["7", "8", "7#row-3", "row-4"]
        assert items[2].problem is not None and "repeats the id '7' of row 1" in items[2].problem[1]
        assert source.read(items[0]).parts == [media("image", png()), "One?"]
        assert source.read(items[1]).parts == [media("image", tmp_path / "here.png"), "Two?"]
        with pytest.raises(CpmvError, match="no question"):
            source.read(items[3])
        again = pickle.loads(pickle.dumps(source))  # as it goes to another machine
        assert again.read(items[1]) == source.read(items[1])

    def test_lists_of_media_and_one_question_for_all(self, tmp_path: Path) -> None:
        source = open_source(
            self.write(tmp_path / "in.parquet", [{"images": [png(1), png(2)]}, {"images": []}]), QUESTION, {}
        )
        items = source.items()
        assert source.read(items[0]).parts == [media("image", png(1)), media("image", png(2)), "What is this?"]
        assert source.read(items[1]).parts == ["What is this?"]

    @pytest.mark.parametrize("as_text", [True, False])
    def test_rows_in_the_batch_format(self, tmp_path: Path, as_text: bool) -> None:
        line = request("a", [{"type": "text", "text": "Hi?"}])
        other = request("b", [{"type": "image_url", "image_url": {"url": data_uri()}}])
        rows = [{**one, "body": json.dumps(one["body"]) if as_text else one["body"]} for one in (line, other)]
        source = open_source(self.write(tmp_path / "in.parquet", rows), Question(), {})
        bodies = [source.read(item).body for item in source.items()]
        assert bodies == [line["body"], other["body"]]

    def test_what_does_not_go_together(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "in.parquet", [{"image": png(), "question": "One?"}])
        with pytest.raises(BatchError, match="drop one of the two"):
            open_source(path, QUESTION, {})
        path = self.write(tmp_path / "in2.parquet", [{"image": png()}])
        with pytest.raises(BatchError, match="add -q"):
            open_source(path, Question(), {})
        (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing more")
        with pytest.raises(BatchError, match="no Parquet file that can be read"):
            open_source(str(tmp_path / "broken.parquet"), QUESTION, {})
