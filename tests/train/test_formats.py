"""Data as people bring it: five formats told by content, media found, bad rows named, an order that can be resumed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

from cpmv.errors import CpmvError
from cpmv.inputs.messages import Image, Message, Text, Video
from cpmv.train.formats import FORMATS, read_source, split_weight
from cpmv.train.mixture import Mixture
from cpmv.train.records import Record
from cpmv.train.rows import read_rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        PILImage.new("RGB", (60, 40), "red").save(tmp_path / name)
    (tmp_path / "frames").mkdir()
    for i in range(4):
        PILImage.new("RGB", (60, 40), (50 * i, 0, 0)).save(tmp_path / "frames" / f"{i}.png")
    return tmp_path


def write(folder: Path, rows: list[Any], name: str = "data.json") -> Path:
    path = folder / name
    text = json.dumps(rows, indent=1) if name.endswith(".json") else "\n".join(map(json.dumps, rows)) + "\n"
    path.write_text(text)
    return path


def shown(messages: list[Message] | None) -> list[tuple[str, list[str]]]:
    """A conversation as roles, words and the names of its media."""
    out = []
    for message in messages or []:
        parts = [p.text if isinstance(p, Text) else f"[{Path(p.source).name}]" for p in message.content]
        out.append((message.role, parts))
    return out


def only(path: Path, **options: Any) -> Record:
    source = read_source(path, **options)
    assert not source.problems, source.problems
    assert len(source.records) == 1
    return source.records[0]


USER, ANSWER = {"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "A cat."}
PLAIN = [("user", ["[a.png]", "What?"]), ("assistant", ["A cat."])]


def test_cookbook_takes_one_picture_with_or_without_a_tag(folder: Path) -> None:
    for content in ("<image>\nWhat?", "What?"):
        row = {"id": "0", "image": "a.png", "conversations": [{"role": "user", "content": content}, ANSWER]}
        path = write(folder, [row])
        record = only(path)
        assert read_source(path).format == "cookbook"
        assert shown(record.messages) == PLAIN and record.extra == {"id": "0"}
    text_only = {"conversations": [{"role": "user", "content": "Hi"}, ANSWER]}
    assert shown(only(write(folder, [text_only])).messages)[0] == ("user", ["Hi"])


def test_cookbook_places_named_pictures_anywhere(folder: Path) -> None:
    turns = [
        {"role": "user", "content": "First <image_00> then\n<image_01>\nWhich?"},
        ANSWER,
        {"role": "user", "content": "Again <image_00>"},
        {"role": "assistant", "content": "Yes."},
    ]
    row = {"image": {"<image_00>": "a.png", "<image_01>": "b.png"}, "conversations": turns}
    assert shown(only(write(folder, [row])).messages) == [
        ("user", ["First", "[a.png]", "then", "[b.png]", "Which?"]),
        ("assistant", ["A cat."]),
        ("user", ["Again", "[a.png]"]),
        ("assistant", ["Yes."]),
    ]
    row["image"] = {"<image_00>": "a.png"}
    problem = read_source(write(folder, [row])).problems[0]
    assert "<image_01> stands in the turns but image has only <image_00>" in problem.reason


def test_llama_factory_places_files_at_tags_in_order(folder: Path) -> None:
    turns = [{"role": "user", "content": "<image><image>Compare."}, ANSWER]
    path = write(folder, [{"messages": turns, "images": ["b.png", "a.png"]}])
    assert read_source(path).format == "llama-factory"
    assert shown(only(path).messages)[0] == ("user", ["[b.png]", "[a.png]", "Compare."])
    sharegpt = [{"from": "human", "value": "<video>What?"}, {"from": "gpt", "value": "Red."}]
    row = {"conversations": sharegpt, "videos": ["frames"], "system": "Be brief."}
    (folder / "frames" / "timestamps.txt").write_text("0\n1\n2\n3\n")
    record = only(write(folder, [row]))
    assert [m.role for m in record.messages] == ["system", "user", "assistant"]
    assert isinstance(record.media[0], Video)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [USER, ANSWER], "images": []}, "more <image> tags than the 0 files"),
        ({"messages": [USER, ANSWER], "images": ["a.png", "b.png"]}, "2 files are listed but the turns have 1"),
        ({"messages": [USER, ANSWER], "images": ["a.png"], "videos": ["frames"]}, "images and videos in one sample"),
        ({"messages": [USER, ANSWER], "images": ["c.png"]}, "c.png is missing"),
        ({"messages": [USER, ANSWER], "images": ["http://x/c.png"]}, "is an address; download it first"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "role 'bot'"),
        ({"messages": []}, "messages is missing or empty"),
        ({"messages": [USER, ANSWER], "images": [7]}, "picture or video is 7"),
        (["not", "an object"], "a sample is a list"),
    ],
)
def test_rows_that_do_not_fit_are_named_with_their_line(folder: Path, row: Any, reason: str) -> None:
    good = {"messages": [USER, ANSWER], "images": ["a.png"]}
    path = folder / "data.json"
    path.write_text("[\n" + ",\n".join(map(json.dumps, (good, row, good))) + "\n]\n")
    source = read_source(path)
    assert [record.line for record in source.records] == [2, 4] and len(source.problems) == 1
    assert source.problems[0].line == 3 and reason in source.problems[0].reason
    with pytest.raises(CpmvError, match="data.json:3: .*first bad sample, and --strict"):
        read_source(path, strict=True)


def test_llama_factory_reads_dataset_info_and_ranking(folder: Path) -> None:
    row = {
        "talk": [{"who": "person", "says": "<image>What?"}],
        "pics": ["a.png"],
        "good": {"who": "machine", "says": "Red."},
        "bad": {"who": "machine", "says": "Blue."},
        "note": 1,
    }
    path = write(folder, [row], "pairs.json")
    entry = {
        "file_name": "pairs.json",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "talk", "images": "pics", "chosen": "good", "rejected": "bad"},
        "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "person", "assistant_tag": "machine"},
    }
    info = folder / "dataset_info.json"
    info.write_text(json.dumps({"pairs": entry, "remote": {"hf_hub_url": "x/y"}}, indent=2))
    for spec in (path, info, f"{info}#pairs", f"{info}#pairs:2"):
        source = read_source(spec)
        assert source.format == "llama-factory" and not source.problems
        record = source.records[0]
        assert shown(record.messages) == [("user", ["[a.png]", "What?"]), ("assistant", ["Red."])]
        assert shown(record.rejected) == [("user", ["[a.png]", "What?"]), ("assistant", ["Blue."])]
        assert record.extra == {"note": 1}
    assert source.weight == 2.0
    entry["formatting"] = "alpaca"
    info.write_text(json.dumps({"pairs": entry}))
    with pytest.raises(CpmvError, match="has formatting 'alpaca'; only sharegpt is read"):
        read_source(info)


def test_ms_swift_in_lines_old_and_new(folder: Path) -> None:
    new = {"messages": [USER, ANSWER], "images": ["a.png"], "rejected_response": "A dog."}
    record = only(write(folder, [new], "d.jsonl"))
    assert shown(record.messages) == PLAIN and shown(record.rejected)[1] == ("assistant", ["A dog."])
    old = {"query": "What?", "response": "A cat.", "history": [["Hi", "Hello."]], "images": ["a.png"], "system": "S"}
    source = read_source(write(folder, [old], "d.jsonl"))
    assert source.format == "ms-swift"
    assert shown(source.records[0].messages) == [
        ("system", ["S"]),
        ("user", ["[a.png]", "Hi"]),
        ("assistant", ["Hello."]),
        ("user", ["What?"]),
        ("assistant", ["A cat."]),
    ]
    prompt = {"messages": [USER], "images": ["a.png"], "solution": "cat", "level": 3}
    record = only(write(folder, [prompt], "d.jsonl"))
    assert record.solution == "cat" and record.extra == {"level": 3} and record.messages[-1].role == "user"
    pair = {
        "messages": [USER, ANSWER],
        "images": ["a.png"],
        "rejected_messages": [USER, ANSWER],
        "rejected_images": ["b.png"],
    }
    assert shown(only(write(folder, [pair], "d.jsonl")).rejected)[0] == ("user", ["[b.png]", "What?"])


def test_rlpr_and_rlaif_v_in_parquet(folder: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    prompt = [{"role": "system", "content": "Think."}, {"role": "user", "content": "1+1?"}]
    rlpr = {"data_source": "maths", "prompt": prompt, "reward_model": {"ground_truth": "2", "style": "rule"}}
    parquet.write_table(pa.Table.from_pylist([rlpr]), folder / "r.parquet")
    source = read_source(folder / "r.parquet")
    assert source.format == "rlpr" and source.records[0].solution == "2"
    assert source.records[0].extra["data_source"] == "maths"
    picture = {"bytes": (folder / "a.png").read_bytes(), "path": None}
    pair = {"image": picture, "question": "What?", "chosen": "Red.", "rejected": "Blue.", "origin_dataset": "x"}
    parquet.write_table(pa.Table.from_pylist([pair, {**pair, "chosen": None}]), folder / "p.parquet")
    source = read_source(folder / "p.parquet")
    assert source.format == "rlaif-v" and len(source.records) == 1
    assert isinstance(source.records[0].media[0].source, bytes)
    assert source.problems[0].line == 2 and "chosen is None" in source.problems[0].reason
    (folder / "torn.parquet").write_bytes((folder / "p.parquet").read_bytes()[:200])
    assert "cannot be read from this row on" in read_source(folder / "torn.parquet").problems[0].reason


def test_videos_are_files_folders_or_lists_of_frames(folder: Path) -> None:
    frames = [f"frames/{i}.png" for i in range(4)]
    turns = [{"role": "user", "content": "<video>What?"}, ANSWER]

    def video(value: Any, **more: Any) -> Video:
        part = only(write(folder, [{"messages": turns, "videos": [value], **more}], "v.jsonl")).media[0]
        assert isinstance(part, Video)
        return part

    by_rate = video({"video": frames, "frame_fps": 2, "packing": 3})
    assert (by_rate.source.num_frames, by_rate.source.duration, by_rate.packing) == (4, 2.0, 3)
    assert video({"video": frames, "timestamps": [0, 1, 2, 5]}).source.frame_time(3) == 5
    whole = video(frames, fps=2, packing=2)
    assert (whole.fps, whole.packing, whole.source.duration) == (2, 2, 2.0)
    source = read_source(write(folder, [{"messages": turns, "videos": [frames]}], "v.jsonl"))
    assert "add frame_fps or timestamps" in source.problems[0].reason
    source = read_source(write(folder, [{"messages": turns, "videos": [frames], "fps": 2, "packing": 9}], "v.jsonl"))
    assert "packing is 9; give 1 to 6" in source.problems[0].reason


def test_torn_files_lose_only_what_is_torn(folder: Path) -> None:
    good = json.dumps({"messages": [{"role": "user", "content": "Hi"}, ANSWER]})
    lines = folder / "x.jsonl"
    lines.write_text(f"\ufeff{good}\n\n{good[:30]}\n{good}\n", encoding="utf-8")
    source = read_source(lines)
    assert [r.line for r in source.records] == [1, 4] and [p.line for p in source.problems] == [3]
    whole = folder / "x.json"
    whole.write_text(f"[\n  {good},\n\n  {good},\n  {good[:40]}")
    source = read_source(whole)
    assert [r.line for r in source.records] == [2, 4]
    assert source.problems[0].line == 5 and "what follows is not read" in source.problems[0].reason
    whole.write_text(f"[{good}\n{good}]")
    assert "a comma is missing" in read_source(whole).problems[0].reason
    whole.write_text("[]")
    assert list(read_rows(whole)) == []
    whole.write_text("hello")
    with pytest.raises(CpmvError, match="holds neither JSON nor parquet"):
        read_source(whole)
    with pytest.raises(CpmvError, match="cannot be read"):
        read_source(folder / "nothing.json")


def test_a_format_can_be_forced_and_unknown_fields_are_told(folder: Path) -> None:
    path = write(folder, [{"messages": [USER, ANSWER], "images": ["a.png"]}], "d.jsonl")
    assert read_source(path, format="llama-factory").format == "llama-factory"
    with pytest.raises(CpmvError, match=f"format 'alpaca' is unknown; use {', '.join(FORMATS)}"):
        read_source(path, format="alpaca")
    source = read_source(write(folder, [{"text": "x"}], "d.jsonl"))
    assert "fields text fit no known format; give --format" in source.problems[0].reason


def test_media_root_and_weights(folder: Path) -> None:
    other = folder / "elsewhere"
    other.mkdir()
    path = write(other, [{"messages": [USER, ANSWER], "images": ["a.png"]}], "d.jsonl")
    assert read_source(path).problems[0].kind == "missing"
    part = only(path, media_root=folder).media[0]
    assert isinstance(part, Image) and part.source == folder / "a.png"
    assert split_weight("x.json:0.5") == (Path("x.json"), 0.5)
    assert split_weight("C:/x.json") == (Path("C:/x.json"), 1.0)
    with pytest.raises(CpmvError, match="has weight 0"):
        split_weight("x.json:0")


def test_reasoning_is_seen_in_the_answer(folder: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nHello."}]
    assert only(write(folder, [{"messages": turns}])).thinks
    assert not only(write(folder, [{"messages": [turns[0], ANSWER]}])).thinks


def test_an_epoch_shows_each_source_by_its_weight_and_moves_on() -> None:
    mixture = Mixture([10, 4, 7], [1, 2.5, 0.5], batch_size=3, seed=5)
    assert mixture.epoch_size == 10 + 10 + 4
    counts = [Counter(mixture.index(p) for p in range(e * 24, (e + 1) * 24)) for e in range(2)]
    for count in counts:
        assert all(count[i] == 1 for i in range(10))
        assert sum(count[i] for i in range(10, 14)) == 10 and all(2 <= count[i] <= 3 for i in range(10, 14))
        assert sum(count[i] for i in range(14, 21)) == 4
    both = counts[0] + counts[1]
    assert all(both[i] == 5 for i in range(10, 14)) and all(both[i] >= 1 for i in range(14, 21))
    orders = [[mixture.index(p) for p in range(e * 24, (e + 1) * 24)] for e in range(2)]
    assert orders[0] != orders[1]


def test_steps_are_pure_and_shards_add_up() -> None:
    alone = Mixture([11], batch_size=4, seed=1)
    ranks = [Mixture([11], batch_size=4, seed=1, rank=r, world_size=2) for r in range(2)]
    for step in (7, 0, 3):
        whole = [alone.index(p) for p in alone.positions(step)]
        parts = [[m.index(p) for p in m.positions(step)] for m in ranks]
        assert sorted(whole) == sorted(parts[0] + parts[1]) and len(parts[0]) == 2
    assert alone.num_steps(2) == 6
    assert [Mixture([3], batch_size=1, shuffle=False).index(p) for p in range(6)] == [0, 1, 2, 0, 1, 2]
    with pytest.raises(CpmvError, match="batch of 4 cannot be split over 3 GPUs"):
        Mixture([11], batch_size=4, world_size=3)
    with pytest.raises(CpmvError, match="no usable sample is left"):
        Mixture([0], batch_size=4)
