"""Every accepted way to write a conversation becomes the same messages; every mistake has its line."""

from __future__ import annotations

import base64
import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from cpmv.errors import CpmvError, MediaError, MessageError
from cpmv.inputs.messages import Image, Message, Pdf, Text, Video, as_media, parse_messages
from cpmv.inputs.video import Video as Clip

PICTURE = PILImage.new("RGB", (8, 6), "red")


def encoded(form: str) -> bytes:
    buffer = io.BytesIO()
    PICTURE.save(buffer, form)
    return buffer.getvalue()


def uri(data: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


PNG, PDF = encoded("PNG"), encoded("PDF")
MKV = b"\x1a\x45\xdf\xa3" + bytes(1024)  # enough to be told by its first bytes; nothing decodes it here


def parts(content: Any) -> list[Any]:
    return parse_messages([{"role": "user", "content": content}])[0].content


def test_text_and_pictures_in_the_references_form() -> None:
    array = np.zeros((4, 5, 3), np.uint8)
    got = parse_messages(
        [
            {"role": "user", "content": [PICTURE, "what?", array]},
            {"role": "assistant", "content": "this"},
            {"role": "user", "content": "/etc/passwd"},
        ]
    )
    assert [m.role for m in got] == ["user", "assistant", "user"]
    assert got[0].content == [Image(PICTURE), Text("what?"), Image(array)]
    assert got[1].content == [Text("this")]
    assert got[2].content == [Text("/etc/passwd")]  # a string is text, even one that names a file


def test_dictionaries_in_openais_form() -> None:
    url = uri(PNG)
    assert parts([{"type": "text", "text": "a"}]) == [Text("a")]
    assert parts([{"type": "image_url", "image_url": {"url": url}}]) == [Image(url)]
    assert parts([{"type": "image_url", "image_url": {"url": url, "detail": "low"}}]) == [Image(url, 1)]
    assert parts([{"type": "image_url", "image_url": url}]) == [Image(url)]
    assert parts([{"type": "image", "image": "a.png", "max_slice_nums": 4}]) == [Image("a.png", 4)]
    assert parts([{"type": "video", "video": "a.mp4", "fps": 5, "packing": 6}]) == [Video("a.mp4", 5, 6)]
    assert parts([{"type": "pdf", "pdf": "a.pdf", "pages": "1-3", "dpi": 100}]) == [Pdf("a.pdf", "1-3", 100)]
    video_url = {"type": "video_url", "video_url": {"url": uri(MKV, "video/webm")}, "fps": 2}
    assert parts([video_url]) == [Video(MKV, 2)]
    assert parts([{"type": "file", "file": {"filename": "x", "file_data": uri(PDF)}}]) == [Pdf(uri(PDF))]
    assert parts([{"type": "file", "file": MKV}]) == [Video(MKV)]
    assert parts({"type": "text", "text": "alone"}) == [Text("alone")]


def test_media_are_told_apart_by_content(tmp_path: Path) -> None:
    misnamed = tmp_path / "movie.mp4"
    misnamed.write_bytes(PNG)
    clip = Clip([PICTURE, PICTURE], fps=2)
    assert parts([PNG, PDF, MKV, misnamed]) == [Image(PNG), Pdf(PDF), Video(MKV), Image(misnamed)]
    assert parts([clip]) == [Video(clip)] == [as_media(clip)]
    assert as_media(uri(MKV)) == Video(MKV) and as_media(uri(PNG)) == Image(uri(PNG))
    assert as_media(str(misnamed)) == Image(str(misnamed))
    assert as_media(Pdf(PDF, "2")) == Pdf(PDF, "2")


def test_our_own_parts_and_messages_pass_through() -> None:
    given = [Message("user", [Text("a"), Image(PICTURE)]), Message("assistant", [Text("b")], None, "why")]
    assert parse_messages(given) == given
    assert parse_messages([Message("user", "just text")])[0].content == [Text("just text")]  # type: ignore[arg-type]


def test_a_json_string_is_a_conversation() -> None:
    conversation = [{"role": "user", "content": ["看", {"type": "image_url", "image_url": {"url": uri(PNG)}}]}]
    assert parse_messages(json.dumps(conversation)) == parse_messages(conversation)


def test_tools_and_reasoning_are_kept() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "zoom", "arguments": '{"x": 1}'}}
    got = parse_messages(
        [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "why"},
            {"role": "tool", "content": ["seen", PICTURE], "tool_call_id": "1", "name": "zoom"},
            {"role": "tool", "content": "again"},
        ]
    )
    assert got[2] == Message("assistant", [Text("")], [call], "why")
    assert got[3].content == [Text("seen"), Image(PICTURE)]


def test_the_image_argument_goes_before_a_first_text() -> None:
    assert parse_messages([{"role": "user", "content": "q"}], PICTURE)[0].content == [Image(PICTURE), Text("q")]
    system = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    assert [m.content for m in parse_messages(system, PNG)] == [[Text("s")], [Image(PNG), Text("q")]]


def test_the_image_argument_is_ignored_with_a_warning_beside_a_list(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="cpmv"):
        assert parse_messages([{"role": "user", "content": ["q"]}], PICTURE)[0].content == [Text("q")]
    assert "image argument is ignored" in caplog.text


U = {"role": "user", "content": "q"}
A = {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("msgs", "message"),
    [
        ([], "msgs is empty"),
        ("", "not a JSON list"),
        ("hello", "not a JSON list"),
        ("[" * 100_000, "not a JSON list"),
        ('{"role": "user", "content": "q"}', "msgs is a dict"),
        (U, "msgs is a dict"),
        (None, "msgs is a NoneType"),
        ([[U]], "list of conversations"),
        (["hi"], r"msgs\[0\] is a str"),
        ([{"content": "q"}], "role None"),
        ([{"role": "robot", "content": "q"}], "role 'robot'; allowed are system, user, assistant, tool"),
        ([{"role": ["user"], "content": "q"}], "role"),
        ([A], "must be the user's"),
        ([{"role": "system", "content": "s"}], "only a system message"),
        ([{"role": "system", "content": "s"}, A], "must be the user's"),
        ([U, {"role": "system", "content": "s"}], "only the first message may be a system message"),
        ([U, {"role": "tool", "content": "r"}], "must follow the assistant"),
        ([{"role": "user"}], "content is None"),
        ([{"role": "user", "content": 5}], "content is 5"),
        ([{"role": "user", "content": ["a", 5]}], r"content\[1\] is a int"),
        ([{"role": "user", "content": ["a", None]}], r"content\[1\] is a NoneType"),
        ([{"role": "user", "content": [["nested"]]}], r"content\[0\] is a list"),
        ([{"role": "user", "content": "a\ud800"}], "surrogate"),
        ([{**U, "reasoning_content": "r"}], "reasoning_content"),
        ([U, {**A, "reasoning_content": 3}], "reasoning_content"),
        ([{**U, "weight": 0}], "unknown field 'weight'"),
        ([{**U, "tool_calls": [{"name": "f", "arguments": {}}]}], "only an assistant calls tools"),
        ([U, {**A, "tool_calls": "f()"}], "pass a list"),
        ([U, {**A, "tool_calls": ["f"]}], "no function name"),
        ([U, {**A, "tool_calls": [{"function": None}]}], "no function name"),
        ([U, {**A, "tool_calls": [{"name": "f"}]}], "needs arguments"),
        ([U, {**A, "tool_calls": [{"name": "f", "arguments": {"x": PICTURE}}]}], "written as JSON"),
    ],
)
def test_malformed_conversations_have_their_line(msgs: Any, message: str) -> None:
    with pytest.raises(MessageError, match=message) as caught:
        parse_messages(msgs)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"text": "a"}, "type None; allowed are text, image"),
        ({"type": "audio"}, "type 'audio'"),
        ({"type": "text"}, "text of type NoneType"),
        ({"type": "text", "text": "a", "cache": 1}, "unknown field 'cache'"),
        ({"type": "image"}, "has no 'image'"),
        ({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}, "only data: URIs"),
        ({"type": "image_url", "image_url": {"url": "/etc/passwd"}}, "only data: URIs"),
        ({"type": "image_url", "image_url": {"url": uri(PNG), "detail": "extreme"}}, "detail 'extreme'"),
        ({"type": "image_url"}, "only data: URIs"),
        ({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,@@"}}, "base64"),
        ({"type": "file", "file": {"file_id": "f-1"}}, "file_data"),
        ({"type": "file", "file": {"file_data": "/etc/passwd"}}, "not a data URI"),
        ({"type": "file", "file": b"plain text"}, "unsupported type"),
        (b"plain text", "unsupported type"),
        (b"", "empty"),
        (Path("/nowhere/at/all.png"), "no such file"),
    ],
)
def test_malformed_parts_have_their_line(part: Any, message: str) -> None:
    with pytest.raises(CpmvError, match=message) as caught:
        parts([part])
    assert "\n" not in str(caught.value)


def test_what_is_no_media_is_refused() -> None:
    with pytest.raises(MessageError, match="a int is not an image"):
        as_media(5)
    with pytest.raises(MediaError, match="no such file"):
        as_media("nowhere.png")
