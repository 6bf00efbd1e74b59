"""Finding a checkpoint: what is on disk wins, ids go to the right hub with the right patterns, errors are one line."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import pytest

from cpmv.errors import CheckpointError
from cpmv.weights import hub

GOLDEN = Path(__file__).parents[1] / "golden"
PAIR = GOLDEN / "tiny_gguf"
LANGUAGE, VISION = "ggml-model-Q4_K_M.gguf", "mmproj-model-f16.gguf"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CPMV_HUB", "CPMV_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


class Download:
    """Stands for a hub library's snapshot_download: remembers what was asked, answers with a folder or an error."""

    def __init__(self, result: Path | Exception) -> None:
        self.result = result
        self.calls: list[dict[str, Any]] = []

    def __call__(self, repo: str, **kwargs: Any) -> str:
        self.calls.append({"repo": repo, **kwargs})
        if isinstance(self.result, Exception):
            raise self.result
        return str(self.result)


@pytest.fixture
def huggingface(monkeypatch: pytest.MonkeyPatch) -> Download:
    download = Download(GOLDEN / "tiny_a")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return download


@pytest.fixture
def modelscope(monkeypatch: pytest.MonkeyPatch) -> Download:
    download = Download(GOLDEN / "tiny_a")
    module = ModuleType("modelscope.hub.snapshot_download")
    module.snapshot_download = download  # type: ignore[attr-defined]
    for name in ("modelscope", "modelscope.hub"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "modelscope.hub.snapshot_download", module)
    return download


def test_a_folder_wins_over_an_id_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, huggingface: Download
) -> None:
    shutil.copytree(GOLDEN / "tiny_a", tmp_path / "openbmb" / "MiniCPM-V-4_5")
    monkeypatch.chdir(tmp_path)
    source = hub.resolve("openbmb/MiniCPM-V-4_5")
    assert source.kind == "folder" and source.path == Path("openbmb/MiniCPM-V-4_5") and not huggingface.calls


def test_an_id_fetches_only_what_is_needed(huggingface: Download) -> None:
    source = hub.resolve("openbmb/MiniCPM-V-4_5", revision="v1")
    assert source == hub.Source("folder", GOLDEN / "tiny_a")
    (call,) = huggingface.calls
    assert call["repo"] == "openbmb/MiniCPM-V-4_5" and call["revision"] == "v1"
    assert call["allow_patterns"] == ["*.safetensors", "*.json", "*.txt", "*.jinja"]
    assert call["local_files_only"] is False and call["tqdm_class"] is None


@pytest.mark.parametrize("switch", ["CPMV_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_switches_stay_with_the_cache(
    monkeypatch: pytest.MonkeyPatch, huggingface: Download, switch: str
) -> None:
    monkeypatch.setenv(switch, "1")
    hub.resolve("openbmb/MiniCPM-V-4_5")
    assert huggingface.calls[0]["local_files_only"] is True
    huggingface.result = FileNotFoundError("long\nstory")
    with pytest.raises(CheckpointError, match="offline mode is on"):
        hub.resolve("openbmb/MiniCPM-V-4_5")


def test_bars_can_be_silenced(huggingface: Download) -> None:
    hub.resolve("openbmb/MiniCPM-V-4_5", progress=False)
    bar = huggingface.calls[0]["tqdm_class"](total=3)
    assert bar.disable


@pytest.mark.parametrize("by_prefix", [True, False])
def test_modelscope_by_prefix_or_environment(
    monkeypatch: pytest.MonkeyPatch, modelscope: Download, huggingface: Download, by_prefix: bool
) -> None:
    if not by_prefix:
        monkeypatch.setenv("CPMV_HUB", "modelscope")
    hub.resolve("modelscope:OpenBMB/MiniCPM-V-4_5" if by_prefix else "OpenBMB/MiniCPM-V-4_5")
    assert modelscope.calls[0]["repo"] == "OpenBMB/MiniCPM-V-4_5" and not huggingface.calls
    assert "*.bin" not in str(modelscope.calls)


def test_modelscope_without_its_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    monkeypatch.setitem(sys.modules, "modelscope.hub.snapshot_download", None)
    with pytest.raises(CheckpointError, match=r"pip install 'cpmv\[modelscope\]'"):
        hub.resolve("modelscope:OpenBMB/MiniCPM-V-4_5")


def test_an_unknown_hub_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPMV_HUB", "elsewhere")
    with pytest.raises(CheckpointError, match="'huggingface' or 'modelscope'"):
        hub.resolve("a/b")


class RepositoryNotFoundError(Exception):
    pass


class GatedRepoError(RepositoryNotFoundError):
    pass


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (RepositoryNotFoundError("404\nrequest id"), "neither a folder here nor a model"),
        (GatedRepoError("403"), "consent"),
        (ConnectionError("no route\nto host"), r"could not be fetched .*no route\)"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_whatever_the_library_raises_is_one_line(huggingface: Download, error: Exception, word: str) -> None:
    huggingface.result = error
    with pytest.raises(CheckpointError, match=word) as caught:
        hub.resolve("a/b")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing", "./missing", "/missing/folder", "a/b/c", "missing.gguf", "../x", ""])
def test_what_is_neither_file_nor_id_is_refused(name: str, huggingface: Download, tmp_path: Path) -> None:
    if name == "":
        name = str(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="does not exist"):
        hub.resolve(name)
    assert not huggingface.calls


def test_no_name_is_the_bundled_model() -> None:
    assert (hub.resolve(None).path / "config.json").is_file()
    with pytest.raises(CheckpointError, match="none was named"):
        hub.resolve(None, revision="main")


def test_a_gguf_file_finds_its_vision_half(tmp_path: Path) -> None:
    source = hub.Source("gguf", PAIR / LANGUAGE, PAIR / VISION)
    assert hub.resolve(PAIR / LANGUAGE) == source
    assert hub.resolve(PAIR) == source
    alone = Path(shutil.copy(PAIR / LANGUAGE, tmp_path))
    with pytest.raises(CheckpointError, match="needs its vision half"):
        hub.resolve(alone)
    assert hub.resolve(alone, mmproj=PAIR / VISION).mmproj == PAIR / VISION
    with pytest.raises(CheckpointError, match="mmproj .* does not exist"):
        hub.resolve(alone, mmproj=tmp_path / "none.gguf")
    shutil.copy(PAIR / VISION, tmp_path / "vision.gguf")  # told by its content, not its name
    assert hub.resolve(alone).mmproj == tmp_path / "vision.gguf"


def test_an_ambiguous_folder_names_the_choices(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(PAIR / LANGUAGE, tmp_path / name)
    with pytest.raises(CheckpointError, match="several .gguf files .a.gguf, b.gguf."):
        hub.resolve(tmp_path)
    for name in ("mmproj-1.gguf", "mmproj-2.gguf"):
        shutil.copy(PAIR / VISION, tmp_path / name)
    with pytest.raises(CheckpointError, match="several vision files .*mmproj-1.gguf, mmproj-2.gguf"):
        hub.resolve(tmp_path / "a.gguf")


def test_a_gguf_file_of_a_repository_comes_with_its_vision_half(huggingface: Download) -> None:
    huggingface.result = PAIR
    source = hub.resolve(f"openbmb/MiniCPM-V-4_5-gguf/{LANGUAGE}")
    assert source == hub.Source("gguf", PAIR / LANGUAGE, PAIR / VISION)
    assert huggingface.calls[0]["allow_patterns"] == [LANGUAGE, "*mmproj*.gguf"]
    with pytest.raises(CheckpointError, match="has no file other.gguf"):
        hub.resolve("openbmb/MiniCPM-V-4_5-gguf/other.gguf")
    assert hub.resolve(f"a/b/{LANGUAGE}", mmproj=VISION).mmproj == PAIR / VISION


def test_a_repository_without_safetensors_says_what_to_do(huggingface: Download, tmp_path: Path) -> None:
    huggingface.result = tmp_path
    with pytest.raises(CheckpointError, match="a/b/FILE.gguf"):
        hub.resolve("a/b")


@pytest.mark.parametrize(("name", "word"), [("x.bin", "pickle"), ("x.safetensors", "give its folder"), ("x.txt", "no")])
def test_single_files_of_other_kinds_are_refused(tmp_path: Path, name: str, word: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=word):
        hub.resolve(tmp_path / name)


def test_options_that_cannot_apply_are_refused(huggingface: Download) -> None:
    with pytest.raises(CheckpointError, match="revision"):
        hub.resolve(GOLDEN / "tiny_a", revision="main")
    with pytest.raises(CheckpointError, match="mmproj was given"):
        hub.resolve(GOLDEN / "tiny_a", mmproj=PAIR / VISION)
    with pytest.raises(CheckpointError, match="mmproj was given"):
        hub.resolve("a/b", mmproj=PAIR / VISION)
