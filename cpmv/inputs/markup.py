"""Keep structure apart from what people typed, from the chat template through to token ids.

Before a template runs, every literal in supplied text that would read as structure (`<image>`, `<unk>`, `<|im_end|>`,
...) is exchanged for a marker, and every picture is a marker from the start. A marker is two Unicode noncharacters
around a letter and a number, so templates may strip, split and join around it. Afterwards `PromptBuilder` writes the
ids: what is still spelled out as structure is the template's own, literals join their neighbours as ordinary
characters, and pictures become placeholders whose positions are recorded as they are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import CheckpointError, MessageError
from ..model.config import ImageConfig
from .text import END_OF_TURN, Tokenizer
from .visuals import Block

OPEN, CLOSE = "\ufdd0", "\ufdd1"
LEARN, STOP = f"{OPEN}s{CLOSE}", f"{OPEN}e{CLOSE}"  # around what an assistant wrote, for training
IGNORED = -100  # label of a token that is not learnt

_MARKER = re.compile(f"{OPEN}(l[0-9]{{1,9}}|m[0-9]{{1,9}}|[se]){CLOSE}")
_MEDIA = re.compile(f"{OPEN}m([0-9]{{1,9}}){CLOSE}")
_END_OF_TURN = re.compile("|".join(map(re.escape, END_OF_TURN)))


def media_marker(index: int) -> str:
    """Return what stands for the picture of this number in text given to a template."""
    return f"{OPEN}m{index}{CLOSE}"


class Guard:
    """Exchange protected literals for markers and back. The marker characters themselves are protected as well."""

    def __init__(self, protected: Iterable[str]) -> None:
        self.literals = sorted({*protected, OPEN, CLOSE} - {""}, key=lambda literal: (-len(literal), literal))
        self._numbers = {literal: i for i, literal in enumerate(self.literals)}
        self._pattern = re.compile("|".join(map(re.escape, self.literals)))

    def hide(self, text: str) -> str:
        return self._pattern.sub(lambda match: f"{OPEN}l{self._numbers[match[0]]}{CLOSE}", text)

    def hide_all(self, value: Any) -> Any:
        """Hide literals in every string, keys included, of a JSON value."""
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, Mapping):
            return {self.hide_all(key): self.hide_all(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.hide_all(item) for item in value]
        return value


def place_blocks(rendered: str, blocks: Sequence[Block]) -> str:
    """Check that the template kept every picture, in order, and take out those without text of their own.

    A later frame of a group has no placeholder, and the text between it and the picture before is stripped of
    surrounding white space, as the reference does.
    """
    texts, found = _MEDIA.split(rendered)[::2], [int(number) for number in _MEDIA.findall(rendered)]
    if found != list(range(len(blocks))):
        lost = next((i for i in range(len(blocks)) if i not in found), None)
        did = "moved or repeated a picture" if lost is None else f"left out picture {lost + 1} of {len(blocks)}"
        raise MessageError(f"the chat template {did}; keep pictures out of an assistant's thinking, or mend it")
    out = []
    for i, block in enumerate(blocks):
        out.append(texts[i].strip() if block.is_absorbed else texts[i] + media_marker(i))
    return "".join([*out, texts[-1]])


def mark_answers(rendered: str, header: str, mode_prefix: str) -> tuple[str, int]:
    """Put LEARN and STOP around what the assistant writes in each turn; return the text and the number of turns.

    header: what a template puts before every answer. mode_prefix: what the prompt adds after it in this thinking mode;
    where a turn begins with that, it is prompt and not learnt. An answer ends with, and includes, its end marker.
    """
    out, end, turns = [], 0, 0
    for match in re.finditer(f"{re.escape(header)}(?:{re.escape(mode_prefix)})?", rendered):
        stop = _END_OF_TURN.search(rendered, match.end())
        if stop is None:  # the generation prompt
            break
        out += [rendered[end : match.end()], LEARN, rendered[match.end() : stop.end()], STOP]
        end, turns = stop.end(), turns + 1
    return "".join([*out, rendered[end:]]), turns


class PromptBuilder:
    """Write a prompt: its ids, its text spelled out, where the pictures' features go, and what is learnt."""

    def __init__(self, tokenizer: Tokenizer, image: ImageConfig) -> None:
        self._tokenizer, self._image = tokenizer, image
        self._query_ids = [tokenizer.token_id(image.unk)] * image.image_feature_size
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.bounds: list[tuple[int, int]] = []
        self._texts: list[str] = []
        self._run: list[str] = []  # neighbouring text that is encoded together
        self._learning = False

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def write(self, marked: str, guard: Guard, blocks: Sequence[Block]) -> None:
        """Write rendered text with its markers. Raises CheckpointError when the template has damaged one."""
        for kind, value in _segments(marked):
            if kind == "text":
                self._write_text(value)
            elif kind == "l" and int(value) < len(guard.literals):
                self._run.append(guard.literals[int(value)])
            elif kind == "m" and int(value) < len(blocks):
                self._write_block(blocks[int(value)])
            elif kind in "se":
                self._flush()  # so that no token lies across the edge of an answer
                self._learning = kind == "s"
            else:
                raise CheckpointError("the chat template writes a damaged marker; use another template")
        self._flush()

    def _write_text(self, text: str) -> None:
        for piece, token in self._tokenizer.split_added(text):
            if token is None:
                self._run.append(piece)
            else:
                self._add(piece, [token])

    def _write_block(self, block: Block) -> None:
        image = self._image
        self._flush()
        learning, self._learning = self._learning, False
        if block.image_id is not None:
            self._token(image.im_id_start)
            self._run.append(str(block.image_id))
            self._token(image.im_id_end)
        self._write_queries(image.im_start, image.im_end)
        columns, rows = block.grid or (0, 0)
        for row in range(rows):
            if row:
                self._run.append("\n")
            for _ in range(columns):
                self._write_queries(image.slice_start, image.slice_end)
        self._flush()
        self._learning = learning

    def _write_queries(self, start: str, end: str) -> None:
        self._token(start)
        first = len(self.ids)
        self._add(self._image.unk * len(self._query_ids), self._query_ids)
        self.bounds.append((first, len(self.ids)))
        self._token(end)

    def _token(self, content: str) -> None:
        self._add(content, [self._tokenizer.token_id(content)])

    def _add(self, text: str, ids: list[int]) -> None:
        self._flush()
        self._append(text, ids)

    def _flush(self) -> None:
        if self._run:
            text = "".join(self._run)
            self._run.clear()
            self._append(text, self._tokenizer.encode_plain(text))

    def _append(self, text: str, ids: list[int]) -> None:
        self._texts.append(text)
        self.ids += ids
        self.labels += ids if self._learning else [IGNORED] * len(ids)


def _segments(marked: str) -> Iterator[tuple[str, str]]:
    """Cut at markers: ("text", text) or (the marker's letter, its number)."""
    end = 0
    for match in _MARKER.finditer(marked):
        yield from _plain_segment(marked[end : match.start()])
        yield match[1][0], match[1][1:]
        end = match.end()
    yield from _plain_segment(marked[end:])


def _plain_segment(text: str) -> Iterator[tuple[str, str]]:
    if OPEN in text or CLOSE in text:
        raise CheckpointError("the chat template cuts markers apart or writes the characters U+FDD0 and U+FDD1 itself")
    if text:
        yield "text", text
