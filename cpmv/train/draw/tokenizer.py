"""Build the tokenizer of the bundled model: byte-level BPE in the released layout, one token a character.

The pre-tokenizer, decoder, added-token texts and chat template are those of the released files; only the vocabulary is
ours. Merges are forced for Han characters, their punctuation and the accented letters, so that each is one token, and
for the blank line of the think block. Latin letters and digits stay bytes: a merged piece depends on several glyphs at
once, which slows learning to read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .charset import CJK_SIGNS, LATIN, han_by_frequency

VOCAB_SIZE = 4096
_ASCII_END = 128
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_EXTRA_SIGNS = "“”‘’…—·×÷"  # written in answers, never drawn


def byte_symbols() -> list[str]:
    """The printable stand-in of each byte value, as byte-level BPE files write them."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    symbols = {value: chr(value) for value in kept}
    rest = [value for value in range(256) if value not in symbols]
    symbols |= {value: chr(256 + index) for index, value in enumerate(rest)}
    return [symbols[value] for value in range(256)]


def build_vocabulary(num_ids: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Ids 0-255 are the bytes in order; then merges until `num_ids` are used, Han characters by frequency last.

    Byte 0 has id 0, the id that padding uses, so padding never looks like a written character.
    """
    symbols = byte_symbols()
    vocab = {symbol: value for value, symbol in enumerate(symbols)}
    merges: list[tuple[str, str]] = []

    def merge(left: str, right: str) -> str:
        if left + right not in vocab:
            vocab[left + right] = len(vocab)
            merges.append((left, right))
        return left + right

    merge(symbols[ord("\n")], symbols[ord("\n")])
    signs = [c for c in LATIN + CJK_SIGNS + _EXTRA_SIGNS if ord(c) >= _ASCII_END]
    for character in [*signs, *han_by_frequency()]:
        encoded = [symbols[value] for value in character.encode("utf-8")]
        if len(vocab) + len(encoded) - 1 > num_ids:
            break
        token = encoded[0]
        for symbol in encoded[1:]:
            token = merge(token, symbol)
    return vocab, merges


def write_tokenizer(folder: str | Path, released: dict[str, Any], *, vocab_size: int = VOCAB_SIZE) -> int:
    """Write tokenizer.json and tokenizer_config.json; return the number of ids.

    released: a released `tokenizer_config.json`, parsed; gives the added-token texts, their order and the chat
    template.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    added = [entry for _, entry in sorted(released["added_tokens_decoder"].items(), key=lambda item: int(item[0]))]
    vocab, merges = build_vocabulary(vocab_size - len(added))
    numbered = [{"id": len(vocab) + index, **entry} for index, entry in enumerate(added)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": _PATTERN}, "behavior": "Isolated", "invert": False}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": numbered,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [list(pair) for pair in merges],
        },
    }
    config = dict(released)
    config["added_tokens_decoder"] = {
        str(entry["id"]): {k: v for k, v in entry.items() if k != "id"} for entry in numbered
    }
    _write_json(folder / "tokenizer.json", tokenizer)
    _write_json(folder / "tokenizer_config.json", config)
    return len(vocab) + len(added)


def write_preprocessor(
    folder: str | Path, released: dict[str, Any], *, scale_resolution: int = 224, query_num: int = 16
) -> None:
    """Write preprocessor_config.json: the released one at the bundled model's geometry."""
    config = released | {"scale_resolution": scale_resolution, "image_feature_size": query_num}
    _write_json(Path(folder) / "preprocessor_config.json", config)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cpmv.train.draw.tokenizer", description="Write the tokenizer.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--released", type=Path, required=True, help="folder with a checkpoint in the released layout")
    options = parser.parse_args(argv)
    read = {name: options.released / f"{name}_config.json" for name in ("tokenizer", "preprocessor")}
    released = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in read.items()}
    size = write_tokenizer(options.out, released["tokenizer"])
    write_preprocessor(options.out, released["preprocessor"])
    print(f"{options.out}: {size} ids")
    return 0


if __name__ == "__main__":
    sys.exit(main())
