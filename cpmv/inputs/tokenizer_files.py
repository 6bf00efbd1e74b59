"""Read the files a tokenizer comes in, in each of the forms checkpoints use, into the parts `text.Tokenizer` holds.

tokenizer.json is complete by itself except for the chat template; older checkpoints have vocab.json and merges.txt
(gzipped in test data), added_tokens.json and tokenizer_config.json. Any unreadable file is a CheckpointError.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from ..errors import CheckpointError

# How Qwen2 and Qwen3 cut text before BPE: contractions, words, single digits, punctuation, line ends, spaces.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NAMED_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True)
class AddedToken:
    """A token found in text before BPE. `special` ones are left out when decoding with skip_special_tokens."""

    id: int
    content: str
    special: bool = False
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False


def read_config(folder: Path) -> dict[str, Any]:
    """Return tokenizer_config.json, its named tokens completed from special_tokens_map.json."""
    config = dict(_read_json(folder, "tokenizer_config.json"))
    special = _read_json(folder, "special_tokens_map.json")
    for name in NAMED_TOKENS:
        if config.get(name) is None and special.get(name) is not None:
            config[name] = special[name]
    return config


def read_tokens(folder: Path, config: Mapping[str, Any]) -> tuple[tokenizers.Tokenizer, list[AddedToken]]:
    """Return the BPE without added tokens, and the added tokens of all files together."""
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            whole = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"{path} cannot be read: {_one_line(error)}") from None
        if not isinstance(whole.decoder, decoders.ByteLevel):
            raise CheckpointError(f"{path} is not a byte-level tokenizer; it belongs to another model")
        bpe, added = _without_added_tokens(whole), _library_tokens(whole)
    else:
        bpe, added = build_bpe(_read_vocab(folder), _read_merges(folder)), []
    known = {token.id for token in added}
    return bpe, added + [token for token in _configured_tokens(folder, config) if token.id not in known]


def read_chat_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the chat templates by name; a chat_template.jinja or .json file goes before tokenizer_config.json."""
    if (folder / "chat_template.jinja").is_file():
        return {"default": _read_text(folder / "chat_template.jinja")}
    found = _read_json(folder, "chat_template.json").get("chat_template", config.get("chat_template"))
    if found is None:
        return {}
    if isinstance(found, str):
        return {"default": found}
    entries = found if isinstance(found, list) else []
    named = [(x.get("name"), x.get("template")) for x in entries if isinstance(x, Mapping)]
    templates = {name: text for name, text in named if isinstance(name, str) and isinstance(text, str)}
    if len(templates) < len(entries) or "default" not in templates:
        raise CheckpointError(f"the chat_template of {folder} is neither text nor a list with one named 'default'")
    return templates


def build_bpe(vocab: dict[str, int], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    """Build Qwen2's byte-level BPE: NFC, its pre-tokenizer, no added tokens."""
    try:
        bpe = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    except Exception as error:
        raise CheckpointError(f"the vocabulary and the merges do not fit together: {_one_line(error)}") from None
    bpe.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(tokenizers.Regex(QWEN2_SPLIT), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    bpe.decoder = decoders.ByteLevel()
    return bpe


def _without_added_tokens(whole: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same BPE, sharing its vocabulary in memory."""
    bpe = tokenizers.Tokenizer(whole.model)
    if whole.normalizer is not None:
        bpe.normalizer = whole.normalizer
    if whole.pre_tokenizer is not None:
        bpe.pre_tokenizer = whole.pre_tokenizer
    if whole.post_processor is not None:
        bpe.post_processor = whole.post_processor
    bpe.decoder = whole.decoder
    return bpe


def _library_tokens(whole: tokenizers.Tokenizer) -> list[AddedToken]:
    return [
        AddedToken(i, t.content, t.special, t.single_word, t.lstrip, t.rstrip, t.normalized)
        for i, t in whole.get_added_tokens_decoder().items()
    ]


def _configured_tokens(folder: Path, config: Mapping[str, Any]) -> list[AddedToken]:
    """The added tokens of tokenizer_config.json, then those only added_tokens.json has."""
    special = set(_contents(_read_json(folder, "special_tokens_map.json").values()))
    flags = ("special", "single_word", "lstrip", "rstrip", "normalized")
    try:
        tokens = {
            int(i): AddedToken(int(i), str(t["content"]), **{flag: bool(t.get(flag, False)) for flag in flags})
            for i, t in (config.get("added_tokens_decoder") or {}).items()
        }
        for content, i in _read_json(folder, "added_tokens.json").items():
            tokens.setdefault(int(i), AddedToken(int(i), content, content in special))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the added tokens of {folder} are malformed: {_one_line(error)}") from None
    return list(tokens.values())


def _contents(values: Iterable[Any]) -> Iterator[str]:
    """The texts in special_tokens_map.json, whose values are strings, dictionaries, or lists of them."""
    for value in values:
        if isinstance(value, list):
            yield from _contents(value)
        elif isinstance(value, Mapping):
            yield str(value.get("content"))
        else:
            yield str(value)


def _read_vocab(folder: Path) -> dict[str, int]:
    text = _read_text(_one_of(folder, "vocab.json", "vocab.json.gz"))
    try:
        return {str(token): int(i) for token, i in json.loads(text).items()}
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"vocab.json of {folder} is malformed: {_one_line(error)}") from None


def _read_merges(folder: Path) -> list[tuple[str, str]]:
    path = _one_of(folder, "merges.txt", "merges.txt.gz")
    merges = []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        line = line.rstrip("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, _, right = line.partition(" ")
        if not right or " " in right:
            raise CheckpointError(f"line {number} of {path} is not a pair of tokens: {line[:60]!r}")
        merges.append((left, right))
    return merges


def _one_of(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder} has no tokenizer.json and no {names[0]}; download the tokenizer files as well")


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {_one_line(error)}") from None


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return a JSON object, empty when the file is absent."""
    if not (folder / name).is_file():
        return {}
    try:
        content = json.loads(_read_text(folder / name))
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{folder / name} is not JSON: {_one_line(error)}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{folder / name} holds a {type(content).__name__}, not an object")
    return content


def _one_line(error: object) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]
