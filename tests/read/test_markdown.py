"""Blocks written as Markdown."""

from __future__ import annotations

import pytest

from cpmv.read.markdown import write_page
from cpmv.read.page import ReadBlock, ReadLine


def text(*lines: str, scale: float = 1.0, bullet: bool = False) -> ReadBlock:
    return ReadBlock("text", [ReadLine(line) for line in lines], scale=scale, bullet=bullet)


@pytest.mark.parametrize(("scale", "sign"), [(2.0, "# "), (1.5, "## "), (1.2, "### "), (1.1, ""), (0.6, "")])
def test_larger_letters_are_headings(scale: float, sign: str) -> None:
    assert write_page([text("Opening", "hours", scale=scale)]) == f"{sign}Opening hours"


def test_many_large_lines_are_a_paragraph() -> None:
    assert write_page([text("a", "b", "c", "d", scale=2)]) == "a b c d"


def test_lists_stand_close_and_paragraphs_apart() -> None:
    blocks = [text("before"), text("one", bullet=True), text("two", bullet=True), text("after")]
    assert write_page(blocks) == "before\n\n- one\n- two\n\nafter"


def test_numbered_lines_of_one_block_are_items() -> None:
    assert write_page([text("You need:", "1. tea", "2) milk", "and sugar", "(3) time")]) == (
        "You need:\n\n1. tea\n2. milk and sugar\n3. time"
    )
    assert write_page([text("12.50 in all", "and 3.20 more")]) == "12.50 in all and 3.20 more"
    assert write_page([text("1、苹果", "2、面包")]) == "1. 苹果\n2. 面包"


@pytest.mark.parametrize("line", ["# 4", "- 5 degrees", "> 3", "| x", "---"])
def test_words_that_look_like_markdown_stay_words(line: str) -> None:
    assert write_page([text(line)]) == f"\\{line}"


def test_tables_keep_empty_cells_and_bars() -> None:
    rows = [[ReadLine("a"), ReadLine("b|c")], [ReadLine(""), ReadLine("2")]]
    assert write_page([ReadBlock("table", rows=rows)]) == "| a | b\\|c |\n|---|---|\n|  | 2 |"
    assert write_page([ReadBlock("table", rows=[[ReadLine("")]])]) == ""


def test_pictures_and_unread_text_are_told() -> None:
    blocks = [ReadBlock("picture", size=(300, 200)), ReadBlock("unread", [ReadLine("", problem="not read: x")])]
    assert write_page(blocks) == "<!-- picture, 300 x 200 px -->\n\n<!-- doubtful: not read: x -->"


def test_a_comment_cannot_be_ended_by_what_was_read() -> None:
    line = ReadLine("a --> b", doubt="<!-- x -->")
    mark = write_page([ReadBlock("text", [line])]).split("\n\n")[1]
    assert mark.count("-->") == 1 and mark.endswith("-->")
