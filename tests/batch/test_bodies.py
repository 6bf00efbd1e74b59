"""A line's body is read as the server reads it; media are local; the command's options fill what is left open."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cpmv.batch.bodies import Call, Defaults, media, read_call
from cpmv.errors import CpmvError
from cpmv.serve.errors import ApiError

PIXEL = b"\x89PNG\r\n\x1a\n and so on"
URI = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
NONE = Defaults()


def asked(content: Any, folder: Path = Path("/here"), defaults: Defaults = NONE, **body: Any) -> Any:
    return read_call(Call({"model": "m", "messages": [{"role": "user", "content": content}], **body}, folder), defaults)


def image(url: str, **options: Any) -> list[Any]:
    return [{"type": "image_url", "image_url": {"url": url, **options}}, {"type": "text", "text": "What?"}]


@pytest.mark.parametrize(
    ("url", "source"),
    [
        (URI, PIXEL),
        ("a b.png", Path("/here/a b.png")),
        ("/there/a.png", Path("/there/a.png")),
        ("file:///there/a%20b.png", Path("/there/a b.png")),
        ("file://localhost/a.png", Path("/a.png")),
    ],
)
def test_media_are_local(url: str, source: Any) -> None:
    assert asked(image(url)).job.turns[0].parts == [media("image", source), "What?"]


@pytest.mark.parametrize(
    ("url", "words"), [("https://a.b/c.png", "is not downloaded"), ("file://host/c.png", "another machine")]
)
def test_nothing_is_downloaded(url: str, words: str) -> None:
    with pytest.raises(CpmvError, match=words):
        asked(image(url))


def test_options_of_media() -> None:
    part = {"type": "video_url", "video_url": {"url": "a.mp4", "fps": 2}}
    job = asked([part], mm_processor_kwargs={"fps": 5, "packing": 6, "max_slice_nums": 4}).job
    assert job.turns[0].parts == [media("video", Path("/here/a.mp4"), fps=2, packing=6)]
    assert job.max_slice_nums == 4
    assert asked(image("a.png", detail="low")).job.turns[0].parts[0].max_slice_nums == 1
    pdf = asked([{"type": "file", "file": {"file_data": "a.pdf", "pages": "1-3"}}]).job.turns[0].parts[0]
    assert (pdf.kind, pdf.pages) == ("file", "1-3")


def test_defaults_fill_what_a_body_leaves_open() -> None:
    defaults = Defaults({"temperature": 0, "max_completion_tokens": 7}, {"enable_thinking": True}, {"packing": 3})
    ask = asked("Hi?", defaults=defaults)
    (params,) = ask.params(100)
    assert params.greedy and params.max_new_tokens == 7 and ask.request.thinking
    ask = asked(
        "Hi?",
        defaults=defaults,
        temperature=0.5,
        max_tokens=9,
        chat_template_kwargs={"enable_thinking": False},
        mm_processor_kwargs={"fps": 1},
        seed=4,
        n=2,
    )
    params = ask.params(100)
    assert [one.seed for one in params] == [4, 5]
    assert params[0].temperature == 0.5 and params[0].max_new_tokens == 9 and not ask.request.thinking
    assert (ask.request.mm_processor_kwargs.fps, ask.request.mm_processor_kwargs.packing) == (1, 3)
    assert not asked("Hi?", defaults=defaults, reasoning_effort="none").request.thinking


def test_conversations_keep_their_roles_calls_and_reasoning() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": 3}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "I should look."},
        {"role": "tool", "content": "A cat.", "tool_call_id": "1"},
    ]
    turns = read_call(Call({"messages": messages}, Path(".")), NONE).job.turns
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "tool"]
    assert turns[2].tool_calls == [{"type": "function", "function": {"name": "look", "arguments": {"at": 3}}}]
    assert turns[2].reasoning == "I should look." and turns[3].parts == ["A cat."]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"surprise": 1}, "no field 'surprise'"),
        ({"stream": True}, "stream has no place"),
        ({"temperature": -1}, "temperature"),
        ({"messages": []}, "messages"),
        ({"n": 1000}, "n "),
        ({"top_logprobs": 2}, "needs logprobs"),
        ({"tool_choice": "required"}, "no tools"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"metadata": {"\ud800": "x"}}, "cannot be read"),
    ],
)
def test_what_cannot_be_asked_is_named(body: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError) as caught:
        asked("Hi?", **body).params(10)
    assert words in caught.value.message and caught.value.status == 400


def test_a_question_about_files_is_a_request_like_any_other() -> None:
    call = Call({}, Path("/here"), [media("file", Path("/here/a.mp4")), "What happens?"], "Be brief.")
    ask = read_call(call, Defaults({}, {}, {"fps": 2, "packing": 6}))
    system, user = ask.job.turns
    assert (system.role, system.parts) == ("system", ["Be brief."])
    assert user.parts == [media("file", Path("/here/a.mp4"), fps=2, packing=6), "What happens?"]


RACE = """
import sys, threading
from pathlib import Path
from cpmv.batch.bodies import Call, Defaults, make_ready, read_call
make_ready()
call = Call({"messages": [{"role": "user", "content": "Hi?"}]}, Path("."))
together, done = threading.Barrier(8), []
def read():
    together.wait()
    done.append(read_call(call, Defaults()))
sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=read) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
sys.exit(len(done) != 8)
"""


def test_many_threads_may_read_at_once() -> None:
    # Without make_ready this process crashes about one time in three: msgspec's first look at a type is not safe.
    assert subprocess.run([sys.executable, "-c", RACE]).returncode == 0
