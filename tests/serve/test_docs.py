"""The guide speaks of flags, fields and routes that there are, in both languages alike."""

from __future__ import annotations

import dataclasses
import json
import re

import msgspec
import pytest
from serve_process import ROOT

from cpmv.cli.serve import Serve
from cpmv.serve.protocol import ChatRequest, ImagePart, Part

GUIDES = [ROOT / "docs" / name for name in ("serving.md", "serving.zh.md")]
FLAGS = {"--" + field.name.replace("_", "-") for field in dataclasses.fields(Serve)}
FOREIGN = {"--add-host", "--gpus"}  # docker's, in its commands


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", text)) - FOREIGN


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_every_flag_exists(guide) -> None:
    assert flags_in(guide.read_text(encoding="utf-8")) <= FLAGS


def test_both_languages_name_the_same_flags_and_fields() -> None:
    english, chinese = (guide.read_text(encoding="utf-8") for guide in GUIDES)
    assert flags_in(english) == flags_in(chinese)
    codes = [set(re.findall(r"`([a-z_.]+)`", text)) for text in (english, chinese)]
    assert codes[0] == codes[1]


def test_fields_of_the_table_are_fields_of_a_request() -> None:
    text = GUIDES[0].read_text(encoding="utf-8")
    table = text[text.index("| field | |") : text.index("What the model cannot do")]
    fields = {field.name for field in msgspec.structs.fields(ChatRequest)}
    for row in [line for line in table.splitlines()[2:] if line.startswith("|")]:
        for name in re.findall(r"`([a-z_.]+)`", row.split("|")[1]):
            assert name.split(".")[0] in fields


def test_content_parts_are_written_as_they_are_read() -> None:
    text = GUIDES[0].read_text(encoding="utf-8")
    shown = re.findall(r'^\| `(\{"type".*\})` \|', text, re.M)
    parts = [msgspec.json.decode(one.replace("...", '"data:,"'), type=Part) for one in shown]
    assert len(parts) == 4 and isinstance(parts[1], ImagePart)
    example = re.search(r"-d '(\{.*?\}\]\}\]\})'", text, re.S)
    assert example is not None
    body = re.sub(r"""'"\$\(.*?\)"'""", "AAAA", example[1])
    assert msgspec.json.decode(json.dumps(json.loads(body)), type=ChatRequest).messages
