"""Every kind of bad input ends in one clear line and exit code 2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import MODEL, PICTURE, Command, write_pdf, write_sound, write_video
from conftest import synthetic_image
from safetensors.torch import load_file, save_file

import cpmv
from cpmv.errors import CpmvError, MediaError, MessageError, OutOfMemoryError
from cpmv.weights import checkpoint

ASK = ("-q", "What is this?", "--model", MODEL, "--greedy", "--max-new-tokens", "4")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capsys, monkeypatch)


@pytest.fixture(scope="module")
def model() -> cpmv.Model:
    return cpmv.load(MODEL)


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def a_corrupt_video(folder: Path) -> str:
    """An MP4 whose index and pictures are overwritten."""
    whole = Path(write_video(folder / "whole.mp4")).read_bytes()
    return write(folder / "corrupt.mp4", whole[:48] + bytes(len(whole) - 48))


def a_corrupt_pdf(folder: Path) -> str:
    return write(folder / "corrupt.pdf", Path(write_pdf(folder / "whole.pdf")).read_bytes()[:2000])


BAD_MEDIA: dict[str, tuple[Callable[[Path], str], str]] = {
    "missing file": (lambda folder: str(folder / "nothing.png"), "no such file"),
    "unsupported type": (lambda folder: write(folder / "notes.png", b"only words"), "is of an unsupported type"),
    "empty file": (lambda folder: write(folder / "empty.png", b""), "is empty"),
    "corrupt image": (lambda folder: write(folder / "half.png", Path(PICTURE).read_bytes()[:5000]), "half.png"),
    "corrupt video": (a_corrupt_video, "corrupt.mp4"),
    "corrupt PDF": (a_corrupt_pdf, "corrupt.pdf"),
    "no video stream": (lambda folder: write_sound(folder / "sound.mkv"), "no video stream"),
    "zero frames": (lambda folder: write_video(folder / "still.avi", num_frames=0), "no frame"),
    "folder without images": (lambda folder: str(folder), "holds no images"),
    "URL": (lambda folder: "https://example.com/a.png", "is a URL and nothing is downloaded here"),
}


@pytest.mark.parametrize("case", BAD_MEDIA)
def test_bad_media(case: str, command: Command, tmp_path: Path) -> None:
    make, line = BAD_MEDIA[case]
    assert line in command.mistake("chat", make(tmp_path), *ASK)


def test_pages_that_the_document_does_not_have(command: Command, tmp_path: Path) -> None:
    document = write_pdf(tmp_path / "two.pdf")
    assert "page 9 asked for; the document has pages 1 to 2" in command.mistake("chat", document, "--pages", "9", *ASK)
    assert "pages is 'one'" in command.mistake("chat", document, "--pages", "one", *ASK)


def test_no_frames_at_all() -> None:
    with pytest.raises(CpmvError, match="frame"):
        cpmv.encode_video([])


@pytest.mark.parametrize(
    "groups",
    [[[0, 1]], [[0, 1, 2, 3]], [[0], [1], [2], [3]], [0, 1, 2], [[0, 1], "2"], [[0, 1], [2.5]], [[], [0, 1, 2]]],
    ids=str,
)
def test_temporal_ids_of_a_wrong_length_or_kind(groups: Any, model: cpmv.Model) -> None:
    frames = [synthetic_image(60, 40, seed) for seed in range(3)]
    messages = [{"role": "user", "content": [*frames, "What happens?"]}]
    with pytest.raises(MessageError) as caught:
        model.chat(msgs=messages, temporal_ids=groups, max_slice_nums=1, max_new_tokens=4)
    assert "temporal_ids" in str(caught.value) and "\n" not in str(caught.value)


def test_temporal_ids_for_more_conversations_than_there_are(model: cpmv.Model) -> None:
    conversations = [[{"role": "user", "content": "Hello?"}]] * 2
    with pytest.raises(MessageError, match="1 entries for 2 conversations"):
        model.chat(msgs=conversations, temporal_ids=[None], max_new_tokens=4)


def test_a_prompt_longer_than_the_context_is_refused_with_the_numbers(command: Command, model: cpmv.Model) -> None:
    question = "word " * 50_000
    num_tokens = len(model.tokenizer.encode(question.strip()))
    line = command.mistake("chat", *ASK[2:], stdin=question + "\n")
    words = line.split()
    stated = int(words[words.index("tokens") - 1])
    assert 0 < stated - num_tokens < 40 and "the context allows 40960" in line


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nothing-here", "nothing-here does not exist; give a folder, a .gguf file, or an id"),
        ("/nowhere/model.gguf", "does not exist"),
        (PICTURE, "is no checkpoint"),
        ("nobody/knows-this", "is not in the local cache and offline mode is on"),
    ],
)
def test_an_unknown_checkpoint(name: str, line: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPMV_OFFLINE", "1")
    for argv in (("chat", "-q", "Hello?", "--model", name), ("info", name), ("check", name)):
        assert line in command.mistake(*argv)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODEL, tmp_path / "copy"))


def test_a_missing_tensor(copy: Path, command: Command) -> None:
    for file in copy.glob("*.safetensors"):
        tensors = load_file(file)
        if tensors.pop("resampler.ln_q.weight", None) is not None:
            save_file(tensors, file)
    index = copy / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    del listed["weight_map"]["resampler.ln_q.weight"]
    index.write_text(json.dumps(listed))
    assert "1 tensor missing: resampler.ln_q.weight" in command.mistake("chat", "-q", "Hello?", "--model", str(copy))
    assert "1 tensor missing: resampler.ln_q.weight" in command.mistake("info", str(copy))


def test_a_shard_that_is_cut_off(copy: Path, command: Command) -> None:
    shard = sorted(copy.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-1000])
    assert shard.name in command.mistake("chat", "-q", "Hello?", "--model", str(copy))


@pytest.mark.parametrize("place", ["in a folder", "by its path"])
def test_a_pickle_checkpoint_is_refused_and_never_loaded(
    place: str, copy: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in [*copy.glob("*.safetensors"), copy / "model.safetensors.index.json"]:
        file.unlink()
    torch.save({"llm.model.norm.weight": torch.ones(3)}, copy / "pytorch_model.bin")

    def load(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a pickle was loaded")

    monkeypatch.setattr(torch, "load", load)
    model = copy if place == "in a folder" else copy / "pytorch_model.bin"
    assert "pickle" in command.mistake("chat", "-q", "Hello?", "--model", str(model))


def test_too_little_memory_is_found_before_loading(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*args: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(checkpoint, "fill", fill)
    line = command.mistake("chat", "--max-memory", "100MB", *ASK)
    assert "needs about" in line and "max_memory allows" in line
    monkeypatch.setattr("cpmv.weights.plan.free_memory", lambda device: 10**6)
    line = command.mistake("chat", *ASK)
    assert "needs about" in line and "1.0 MB are free" in line
    with pytest.raises(OutOfMemoryError):
        cpmv.load(MODEL)


@pytest.mark.parametrize(
    ("option", "value", "line"),
    [
        ("--device", "tpu", "device 'tpu' is unknown; use auto, cpu, cuda"),
        ("--dtype", "int3", "dtype int3 is unknown; use one of auto"),
        ("--max-memory", "lots", "max_memory 'lots' is no size"),
        ("--mmproj", "eyes.gguf", "mmproj was given"),
    ],
)
def test_options_that_name_nothing(option: str, value: str, line: str, command: Command) -> None:
    assert line in command.mistake("chat", option, value, *ASK)


def test_all_of_our_errors_are_value_errors_of_one_family() -> None:
    assert issubclass(CpmvError, ValueError)
    assert {MediaError, MessageError, OutOfMemoryError} <= set(CpmvError.__subclasses__())
