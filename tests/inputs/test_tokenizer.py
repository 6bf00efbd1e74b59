"""The tokenizer equals the library's, streams never show half a character, and thinking is told from the answer."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
import tokenizers
from conftest import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st

from cpmv.errors import CheckpointError, MessageError
from cpmv.inputs.text import AddedToken, Detokenizer, ThinkingSplitter, Tokenizer

FOLDERS = ["tiny_a", "tokenizer_full"]
SAMPLES = json.loads((GOLDEN / "chat.json").read_text())["tokenizer"]
TINY = Tokenizer.from_folder(GOLDEN / "tiny_a")
FULL = Tokenizer.from_folder(GOLDEN / "tokenizer_full")

PIECES = ["<|im_start|>", "<|im_end|>", "<image>", "</image>", "<unk>", "<think>", "</think>", "<box>", "<tool_call>"]
PIECES += [
    "<",
    ">",
    "<|im",
    "_end|>",
    "e\u0301",
    "\u0338",
    "'S",
    "'ll",
    "\r\n",
    "  ",
    "\n\n",
    "你好",
    "1234",
    "😀",
    "!",
]
texts = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), max_size=12).map("".join)


def library(folder: str) -> tokenizers.Tokenizer:
    """The library's own tokenizer with its own handling of added tokens."""
    if folder == "tiny_a":
        return tokenizers.Tokenizer.from_file(str(GOLDEN / folder / "tokenizer.json"))
    vocab = json.loads(gzip.decompress((GOLDEN / folder / "vocab.json.gz").read_bytes()))
    lines = gzip.decompress((GOLDEN / folder / "merges.txt.gz").read_bytes()).decode().split("\n")
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    whole = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=merges))
    layout = tokenizers.Tokenizer.from_file(str(GOLDEN / "tiny_a" / "tokenizer.json"))
    whole.normalizer, whole.pre_tokenizer, whole.decoder = layout.normalizer, layout.pre_tokenizer, layout.decoder
    entries = json.loads((GOLDEN / folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    for _, entry in sorted(entries.items(), key=lambda item: int(item[0])):
        token = tokenizers.AddedToken(entry["content"], normalized=False, special=entry["special"])
        (whole.add_special_tokens if entry["special"] else whole.add_tokens)([token])
    return whole


OURS = {"tiny_a": TINY, "tokenizer_full": FULL}
THEIRS = {folder: library(folder) for folder in FOLDERS}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: repr(sample["text"])[:24])
def test_reference_samples_encode_and_decode(sample: dict) -> None:
    for name, tokenizer in (("tiny", TINY), ("full", FULL)):
        assert tokenizer.encode(sample["text"]) == sample[name]
        assert tokenizer.decode(sample[name]) == sample[f"{name}_decoded"]


@pytest.mark.parametrize("folder", FOLDERS)
@settings(max_examples=150, deadline=None)
@given(text=texts)
def test_encoding_equals_the_library(folder: str, text: str) -> None:
    assert OURS[folder].encode(text) == THEIRS[folder].encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("folder", FOLDERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_decoding_equals_the_library(folder: str, data: st.DataObject, skip: bool) -> None:
    ids = data.draw(st.lists(st.integers(0, OURS[folder].vocab_size + 3), max_size=20))
    ids += data.draw(st.lists(st.integers(0, 255), max_size=12))  # single bytes: broken characters
    assert OURS[folder].decode(ids, skip_special_tokens=skip) == THEIRS[folder].decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("tokenizer", [TINY, FULL], ids=FOLDERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_stream_adds_up_to_the_whole_decode(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.one_of(st.integers(0, 255), st.integers(0, tokenizer.vocab_size - 1)), max_size=24))
    skip = data.draw(st.sets(st.sampled_from(ids))) if ids else set()
    stream = Detokenizer(tokenizer, skip=skip)
    pieces = [stream.put(token) for token in ids] + [stream.flush()]
    assert "".join(pieces) == tokenizer.decode([token for token in ids if token not in skip])


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet="aé你😀👍🏽 \n", max_size=20))
def test_a_stream_never_shows_half_a_character(text: str) -> None:
    stream, seen = Detokenizer(TINY), ""
    for token in TINY.encode(text):
        seen += stream.put([token])
        assert "\ufffd" not in seen and TINY.decode(TINY.encode(text)).startswith(seen)


def test_a_character_cut_off_at_the_end_becomes_a_replacement_character() -> None:
    ids = TINY.encode("😀")[:-1]
    stream = Detokenizer(TINY)
    assert stream.put(ids) == "" and stream.flush() == "\ufffd" == TINY.decode(ids)


def test_special_tokens_are_skipped_only_when_asked() -> None:
    ids = TINY.encode("<|im_start|><think>a</think><box><|im_end|>")
    assert TINY.decode(ids) == "<|im_start|><think>a</think><box><|im_end|>"
    assert TINY.decode(ids, skip_special_tokens=True) == "<think>a</think>"


def test_ids_and_names_are_those_of_the_files() -> None:
    assert (len(TINY), TINY.vocab_size, FULL.vocab_size) == (1105, 1105, 151748)
    assert FULL.eos_token_ids == (151645, 151643) and FULL.token_id("<unk>") == 128244
    assert (FULL.bos_token, FULL.eos_token, FULL.pad_token, FULL.unk_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<unk>",
    )
    assert [FULL.bos_token_id, FULL.eos_token_id, FULL.pad_token_id, FULL.unk_token_id] == [
        151644,
        151645,
        151643,
        128244,
    ]
    assert FULL.convert_tokens_to_ids(["<image>", "</image>"]) == [151669, 151670]
    assert FULL.convert_tokens_to_ids("<image>") == 151669
    assert FULL("a<image>") == {"input_ids": [64, 151669], "attention_mask": [1, 1]}
    with pytest.raises(CheckpointError, match="no token '<imag>'"):
        FULL.token_id("<imag>")


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(MessageError, match="surrogate"):
        TINY.encode("a\ud83d")


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_saved_tokenizer_loads_again_here_and_in_the_library(folder: str, tmp_path: Path) -> None:
    tokenizer = OURS[folder]
    tokenizer.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer.json").unlink()  # now from vocab.json, merges.txt and the configuration
    in_parts = Tokenizer.from_folder(tmp_path)
    for sample in SAMPLES:
        want = tokenizer.encode(sample["text"])
        assert again.encode(sample["text"]) == want == in_parts.encode(sample["text"])
        assert theirs.encode(sample["text"], add_special_tokens=False).ids == want
    for other in (again, in_parts):
        assert other.added_tokens == tokenizer.added_tokens
        assert other.chat_template == tokenizer.chat_template
        assert other.special_tokens_map == tokenizer.special_tokens_map


def test_a_tokenizer_of_parts_equals_that_of_files() -> None:
    spec = json.loads((GOLDEN / "tiny_a" / "tokenizer.json").read_text())
    added = [AddedToken(t["id"], t["content"], t["special"]) for t in spec["added_tokens"]]
    vocab = spec["model"]["vocab"] | {token.content: token.id for token in added}  # as a GGUF file lists them
    made = Tokenizer.from_parts(vocab, [tuple(m) for m in spec["model"]["merges"]], added, "{{ 1 }}", {})
    assert made.chat_template == "{{ 1 }}" and made.eos_token_ids == TINY.eos_token_ids and len(made) == len(TINY)
    for sample in SAMPLES:
        assert made.encode(sample["text"]) == sample["tiny"]
        assert made.encode_plain(sample["text"]) == TINY.encode_plain(sample["text"])


def copy_of(folder: str, target: Path, *names: str) -> Path:
    for name in names:
        shutil.copy(GOLDEN / folder / name, target / name)
    return target


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer.json and no vocab.json"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"{", "tokenizer.json"),
        ("tokenizer.json", b"\xff\xfe", "tokenizer.json"),
        ("tokenizer_config.json", b"[1]", "holds a list"),
        ("tokenizer_config.json", b"{not json", "is not JSON"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": 1}}', "malformed"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"3": {"content": "<new>"}}}', "do not belong together"),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "rag", "template": "x"}]}', "named 'default'"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    copy_of("tiny_a", tmp_path, "tokenizer.json")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", b"[]", "vocab.json"),
        ("vocab.json", b'{"a": "b"}', "vocab.json"),
        ("merges.txt", b"a b c", "line 1"),
        ("merges.txt", b"#version: 0.2\nsolo", "line 2"),
        ("merges.txt", b"#version: 0.2\nabsent nowhere", "do not fit together"),
        ("vocab.json.gz", b"\x1f\x8b\x08\x00broken", "cannot be read"),
    ],
)
def test_damaged_vocabularies_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    copy_of("tiny_a", tmp_path, "vocab.json", "merges.txt", "tokenizer_config.json")
    if name.endswith(".gz"):
        (tmp_path / "vocab.json").unlink()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.from_folder(tmp_path)


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="not a byte-level"):
        Tokenizer.from_folder(tmp_path)


def test_chat_templates_come_from_files_lists_and_strings(tmp_path: Path) -> None:
    copy_of("tiny_a", tmp_path, "tokenizer.json")
    assert Tokenizer.from_folder(tmp_path).chat_template is None
    named = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert (tokenizer.chat_template, tokenizer.template_for([{}]), tokenizer.template_for(None)) == ("d", "t", "d")
    tokenizer.save(tmp_path / "saved")
    assert Tokenizer.from_folder(tmp_path / "saved").template_for([{}]) == "t"
    (tmp_path / "chat_template.json").write_text('{"chat_template": "from json"}')
    assert Tokenizer.from_folder(tmp_path).chat_template == "from json"
    (tmp_path / "chat_template.jinja").write_text("from jinja")
    assert Tokenizer.from_folder(tmp_path).chat_template == "from jinja"


def split(text: str, thinking: bool, cuts: list[int] | None = None) -> tuple[str, str]:
    """(thinking, answer) of a text streamed in pieces, one character each unless told."""
    splitter = ThinkingSplitter(thinking)
    edges = [0, *cuts, len(text)] if cuts is not None else list(range(len(text) + 1))
    pieces = [piece for a, b in zip(edges, edges[1:], strict=False) for piece in splitter.put(text[a:b])]
    pieces += splitter.flush()
    assert all(kind in ("thinking", "answer") and piece for kind, piece in pieces)
    return tuple("".join(p for kind, p in pieces if kind == want) for want in ("thinking", "answer"))  # type: ignore


@pytest.mark.parametrize(
    ("text", "thinking", "want"),
    [
        ("hello", False, ("", "hello")),
        (" \n hello \n", False, ("", " \n hello \n")),
        ("<think>\nwhy\n</think>\n\nbecause", False, ("why", "because")),
        (" <think>why</think>because", False, ("why", "because")),
        ("<think>\n\n</think>\n\nbecause", False, ("", "because")),
        ("why\nso\n</think>\n\nbecause\n", True, ("why\nso", "because\n")),
        ("<think>\nwhy\n</think>\n\nbecause", True, ("why", "because")),
        ("cut off\n", True, ("cut off", "")),
        ("cut off\n</thi", True, ("cut off\n</thi", "")),
        ("a </think> b </think> c", True, ("a ", " b </think> c")),
        ("no <think>tag</think> inside", False, ("", "no <think>tag</think> inside")),
        ("<thin", False, ("", "<thin")),
        ("<thing>", False, ("", "<thing>")),
        ("a </thinks> b</think>c", True, ("a </thinks> b", "c")),
        ("</<//think</think>x", True, ("</<//think", "x")),
        ("", True, ("", "")),
    ],
)
def test_thinking_is_split_from_the_answer(text: str, thinking: bool, want: tuple[str, str]) -> None:
    assert split(text, thinking) == want == split(text, thinking, [])


@settings(max_examples=200, deadline=None)
@given(
    text=st.lists(st.sampled_from(["<think>", "</think>", "\n", " ", "a", "<", "</", "thi"]), max_size=10).map("".join),
    thinking=st.booleans(),
    data=st.data(),
)
def test_thinking_splits_alike_however_the_text_arrives(text: str, thinking: bool, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    assert split(text, thinking, cuts) == split(text, thinking, [])


def test_thoughts_are_given_out_while_they_come() -> None:
    splitter = ThinkingSplitter(True)
    assert splitter.put("step one") == [("thinking", "step one")]
    assert splitter.put("\n</th") == []
    assert splitter.put("ink>\n") == []
    assert splitter.put("\nanswer") == [("answer", "answer")]
