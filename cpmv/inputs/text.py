"""Text to token ids and back: the tokenizer, and what a stream of generated ids needs to become readable pieces.

The tokenizer is Qwen2's byte-level BPE with the checkpoint's own added tokens. The BPE itself is the `tokenizers`
library's; added tokens are split off here (leftmost, longest), so that `markup` can keep a literal that a person typed
as ordinary characters on the same path. Decoding is ours as well, because a stream must hold back half a character.
"""

from __future__ import annotations

import codecs
import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tokenizers

from ..errors import CheckpointError, MessageError
from .template import render_chat
from .tokenizer_files import NAMED_TOKENS, AddedToken, build_bpe, read_chat_templates, read_config, read_tokens

__all__ = ["AddedToken", "Detokenizer", "ThinkingSplitter", "Tokenizer", "render_chat"]

log = logging.getLogger("cpmv")

END_OF_TURN = ("<|im_end|>", "<|endoftext|>")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's table: which printable character stands for each byte in the vocabulary's entries."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    return table | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()


class Tokenizer:
    """Byte-level BPE with added tokens.

    `vocab_size` and `len()` are the highest id plus one, added tokens included. `chat_template` is the checkpoint's
    Jinja source or None; `config` is tokenizer_config.json as read. `eos_token_ids` end an answer.
    """

    def __init__(
        self,
        bpe: tokenizers.Tokenizer,
        added: Iterable[AddedToken],
        chat_templates: Mapping[str, str],
        config: Mapping[str, Any],
    ) -> None:
        self._bpe = bpe
        self._chat_templates = dict(chat_templates)
        self.config = dict(config)
        self.added_tokens = tuple(sorted(added, key=lambda token: token.id))
        self._check_added()
        self._added_ids = {token.content: token.id for token in self.added_tokens}
        self._added_contents = {token.id: token.content for token in self.added_tokens}
        longest_first = sorted(filter(None, self._added_ids), key=len, reverse=True)
        self._added_pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._bytes: dict[int, bytes] = {}
        self.vocab_size = max([bpe.get_vocab_size(), *(token.id + 1 for token in self.added_tokens)])

    @classmethod
    def from_folder(cls, path: str | Path) -> Tokenizer:
        """Read tokenizer.json, or else vocab.json and merges.txt (either may be gzipped), and their companions."""
        folder = Path(path)
        config = read_config(folder)
        bpe, added = read_tokens(folder, config)
        return cls(bpe, added, read_chat_templates(folder, config), config)

    @classmethod
    def from_parts(
        cls,
        vocab: dict[str, int],
        merges: list[tuple[str, str]],
        added_tokens: list[AddedToken],
        chat_template: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Tokenizer:
        """Build one from what a GGUF file holds. `vocab` may list the added tokens too."""
        templates = {} if chat_template is None else {"default": chat_template}
        return cls(build_bpe(vocab, merges), added_tokens, templates, config or {})

    def base_vocabulary(self) -> tuple[dict[str, int], list[tuple[str, str]]]:
        """Return what `from_parts` takes: tokens of the byte-level vocabulary with their ids, and merges in order."""
        model = json.loads(self._bpe.to_str())["model"]
        merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
        return model["vocab"], merges

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, added tokens recognised; nothing is put before or after."""
        ids: list[int] = []
        for piece, token in self.split_added(text):
            if token is None:
                ids += self.encode_plain(piece)
            else:
                ids.append(token)
        return ids

    def split_added(self, text: str) -> Iterator[tuple[str, int | None]]:
        """Cut `text` at added tokens, leftmost and longest; yield (piece, its id, or None for other text)."""
        end = 0
        for match in self._added_pattern.finditer(text):
            if match.start() > end:
                yield text[end : match.start()], None
            yield match[0], self._added_ids[match[0]]
            end = match.end()
        if end < len(text):
            yield text[end:], None

    def encode_plain(self, text: str) -> list[int]:
        """Return the ids of `text` as if there were no added tokens."""
        try:
            return self._bpe.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError):  # what the library says to half of a surrogate pair
            raise MessageError("the text holds half of a surrogate pair; repair its decoding") from None

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """Return the text of `ids`. Bytes that are not UTF-8 become U+FFFD; ids outside the vocabulary are nothing."""
        skip = set(self.all_special_ids) if skip_special_tokens else ()
        return b"".join(self.token_bytes(int(i)) for i in ids if int(i) not in skip).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that one id stands for."""
        found = self._bytes.get(token_id)
        if found is None:
            if token_id in self._added_contents:
                found = self._added_contents[token_id].encode()
            else:
                token = (self._bpe.id_to_token(token_id) if 0 <= token_id < 2**32 else None) or ""
                in_alphabet = all(char in BYTE_OF for char in token)
                found = bytes(BYTE_OF[char] for char in token) if in_alphabet else token.encode()
            self._bytes[token_id] = found
        return found

    def token_id(self, content: str) -> int:
        """Return the id of one token; CheckpointError when the vocabulary lacks it."""
        found = self._added_ids.get(content)
        found = self._bpe.token_to_id(content) if found is None else found
        if found is None:
            raise CheckpointError(f"the tokenizer has no token {content!r}; use the tokenizer files of this checkpoint")
        return int(found)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Ids that end an answer: <|im_end|> and <|endoftext|>, as far as the vocabulary has them."""
        ids = tuple(self._added_ids[token] for token in END_OF_TURN if token in self._added_ids)
        if not ids:
            raise CheckpointError(f"the tokenizer has none of the end tokens {' '.join(END_OF_TURN)}; wrong tokenizer?")
        return ids

    @property
    def all_special_ids(self) -> list[int]:
        return [token.id for token in self.added_tokens if token.special]

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The named tokens the configuration sets, such as {"eos_token": "<|im_end|>"}."""
        values = {name: self.config.get(name) for name in NAMED_TOKENS}
        contents = {name: v.get("content") if isinstance(v, Mapping) else v for name, v in values.items()}
        return {name: content for name, content in contents.items() if isinstance(content, str)}

    @property
    def bos_token(self) -> str | None:
        return self.special_tokens_map.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        return self.special_tokens_map.get("eos_token")

    @property
    def pad_token(self) -> str | None:
        return self.special_tokens_map.get("pad_token")

    @property
    def unk_token(self) -> str | None:
        return self.special_tokens_map.get("unk_token")

    @property
    def bos_token_id(self) -> int | None:
        return None if self.bos_token is None else self.token_id(self.bos_token)

    @property
    def eos_token_id(self) -> int | None:
        return None if self.eos_token is None else self.token_id(self.eos_token)

    @property
    def pad_token_id(self) -> int | None:
        return None if self.pad_token is None else self.token_id(self.pad_token)

    @property
    def unk_token_id(self) -> int | None:
        return None if self.unk_token is None else self.token_id(self.unk_token)

    def __len__(self) -> int:
        return self.vocab_size

    def __call__(self, text: str) -> dict[str, list[int]]:
        """Encode in the field's form: a dictionary with input_ids and attention_mask."""
        ids = self.encode(text)
        return {"input_ids": ids, "attention_mask": [1] * len(ids)}

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> int | list[int]:
        return self.token_id(tokens) if isinstance(tokens, str) else [self.token_id(token) for token in tokens]

    @property
    def chat_template(self) -> str | None:
        return self._chat_templates.get("default")

    def template_for(self, tools: Sequence[Any] | None) -> str | None:
        """Return the template to render with: the one named "tool_use" when there is one and tools are given."""
        return (self._chat_templates.get("tool_use") if tools else None) or self.chat_template

    def save(self, folder: str | Path) -> None:
        """Write the released file names, which load again here and elsewhere."""
        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        whole = json.loads(self._bpe.to_str())
        whole["added_tokens"] = [asdict(token) for token in self.added_tokens]
        config = {"tokenizer_class": "Qwen2Tokenizer", **self.config, "added_tokens_decoder": {}}
        for token in self.added_tokens:
            config["added_tokens_decoder"][str(token.id)] = {k: v for k, v in asdict(token).items() if k != "id"}
        if len(self._chat_templates) > 1:
            config["chat_template"] = [{"name": k, "template": v} for k, v in self._chat_templates.items()]
        elif self._chat_templates:
            config["chat_template"] = self.chat_template
        extra = [token.content for token in self.added_tokens if token.special]
        special = {**self.special_tokens_map, "additional_special_tokens": extra}
        merges = [" ".join(m) if isinstance(m, list) else m for m in whole["model"]["merges"]]
        (out / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        for name, content in {
            "tokenizer.json": whole,
            "tokenizer_config.json": config,
            "special_tokens_map.json": special,
            "added_tokens.json": self._added_ids,
            "vocab.json": whole["model"]["vocab"],
        }.items():
            (out / name).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")

    def _check_added(self) -> None:
        for token in self.added_tokens:
            base = self._bpe.id_to_token(token.id)
            if base is not None and base != token.content:
                raise CheckpointError(
                    f"added token {token.content!r} has id {token.id}, which the vocabulary gives to {base!r}; "
                    "the tokenizer files do not belong together"
                )
        odd = [token.content for token in self.added_tokens if token.lstrip or token.rstrip or token.single_word]
        if odd:
            log.warning("added tokens with lstrip, rstrip or single_word are matched exactly instead: %s", odd[:5])


class Detokenizer:
    """Turn generated ids into text piece by piece, never half a character.

    The pieces and `flush()` together equal `decode` of all ids not in `skip`.
    """

    def __init__(self, tokenizer: Tokenizer, skip: Collection[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._skip = frozenset(skip)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def put(self, ids: int | Iterable[int]) -> str:
        """Take more ids; return the characters that are now complete."""
        new = ids if isinstance(ids, Iterable) else (ids,)
        data = b"".join(self._tokenizer.token_bytes(int(i)) for i in new if int(i) not in self._skip)
        return self._decoder.decode(data)

    def flush(self) -> str:
        """Return what is left at the end: U+FFFD for a character that was never completed."""
        return self._decoder.decode(b"", final=True)


class ThinkingSplitter:
    """Separate `<think>...</think>` at the beginning of an answer from the answer itself, as the text streams in.

    thinking: whether the stream begins inside thinking, because the prompt ended with "<think>\\n". Newlines at the
    edges of the thinking and at the start of the answer after it belong to neither; without thinking nothing is
    removed. Later `<think>` tags are the answer's own text.
    """

    OPEN, CLOSE = "<think>", "</think>"

    def __init__(self, thinking: bool) -> None:
        self._thinking = thinking
        self._held = ""
        self._step: Callable[[], None] = self._opening
        self._out: list[tuple[str, str]] = []

    def put(self, text: str) -> list[tuple[str, str]]:
        """Take more text; return pieces ("thinking" or "answer", text), none of them empty."""
        self._held += text
        while self._held:
            step = self._step
            step()
            if self._step == step:
                break
        return self._take()

    def flush(self) -> list[tuple[str, str]]:
        """Return what was held back, at the end of the stream."""
        inside = self._step == self._thinks or (self._step == self._opening and self._thinking)
        self._emit("thinking" if inside else "answer", self._held.rstrip("\n") if inside else self._held)
        self._held = ""
        return self._take()

    def _take(self) -> list[tuple[str, str]]:
        out, self._out = self._out, []
        return out

    def _emit(self, kind: str, text: str) -> None:
        if text:
            self._out.append((kind, text))

    def _opening(self) -> None:
        """Nothing but white space and perhaps a part of the opening tag has been seen."""
        text = self._held.lstrip()
        if text.startswith(self.OPEN):
            self._held, self._step = text[len(self.OPEN) :], self._before_thoughts
        elif not self.OPEN.startswith(text):
            self._step = self._before_thoughts if self._thinking else self._answers

    def _before_thoughts(self) -> None:
        self._held = self._held.lstrip("\n")
        if self._held:
            self._step = self._thinks

    def _thinks(self) -> None:
        thoughts, tag, rest = self._held.partition(self.CLOSE)
        if tag:
            self._emit("thinking", thoughts.rstrip("\n"))
            self._held, self._step = rest, self._before_answer
            return
        partial = next(k for k in range(len(self.CLOSE) - 1, -1, -1) if thoughts.endswith(self.CLOSE[:k]))
        ready = thoughts[: len(thoughts) - partial].rstrip("\n")
        self._emit("thinking", ready)
        self._held = thoughts[len(ready) :]

    def _before_answer(self) -> None:
        self._held = self._held.lstrip("\n")
        if self._held:
            self._step = self._answers

    def _answers(self) -> None:
        self._emit("answer", self._held)
        self._held = ""
