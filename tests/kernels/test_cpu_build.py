"""The CPU's library: built once, rebuilt when damaged, built by two at once, done without when there is no compiler."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cpu_cases import LAYERS, error, int8_layer, normal

from cpmv.kernels import cpu_build, cpu_packed
from cpmv.weights import cpu

needs_compiler = pytest.mark.skipif(cpu_build.library() is None, reason="there is no C++ compiler")


@pytest.fixture
def few_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One small source instead of all, so that building takes no time; returns the cache folder."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "one.cpp").write_text('extern "C" int answer(void) { return 42; }\n')
    monkeypatch.setattr(cpu_build, "SOURCES", sources)
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


@needs_compiler
def test_a_library_is_built_once_for_its_sources_and_cpu(few_sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cpu_build.built(few_sources)
    changed = first.stat().st_mtime_ns
    assert cpu_build.built(few_sources) == first and first.stat().st_mtime_ns == changed
    (cpu_build.SOURCES / "one.cpp").write_text('extern "C" int answer(void) { return 43; }\n')
    second = cpu_build.built(few_sources)
    assert second != first
    monkeypatch.setattr(cpu_build, "_cpu", lambda: "another")
    assert cpu_build.built(few_sources) not in (first, second)


@needs_compiler
@pytest.mark.parametrize("damage", ["truncated", "changed", "empty"])
def test_a_damaged_library_is_never_loaded_but_built_again(
    few_sources: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = cpu_build.built(few_sources)
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[:1000], "changed": whole[:-1] + b"x", "empty": b""}[damage])
    with caplog.at_level(logging.WARNING, "cpmv"):
        again = cpu_build.built(few_sources)
    assert again.read_bytes() != path.read_bytes() or again == path
    assert cpu_build._is_whole(again) and "is damaged and is built again" in caplog.text


@needs_compiler
def test_two_processes_may_build_at_once(few_sources: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cpmv.kernels import cpu_build; "
        "cpu_build.SOURCES = Path(sys.argv[1]); print(cpu_build.built(Path(sys.argv[2])))"
    )
    command = [sys.executable, "-c", code, str(cpu_build.SOURCES), str(few_sources)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    made = [Path(process.communicate(timeout=120)[0].strip()) for process in both]
    assert all(process.returncode == 0 for process in both)
    assert all(cpu_build._is_whole(path) for path in made)
    assert not list(few_sources.glob("building-*"))


def test_without_a_compiler_everything_runs_and_one_warning_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(cpu, "_LEAST_ELEMENTS", 1)
    cpu_build._library.cache_clear()
    try:
        layer, x = int8_layer(64, 512), normal(2, 512)
        with caplog.at_level(logging.WARNING, "cpmv"):
            found = [layer(x), int8_layer(32, 512)(x)][0]
        assert layer.kernel is None
        assert error(found, x @ layer.dequantize(torch.float32).t()) < 1e-6
        assert len(caplog.records) == 1
        assert "there is no C++ compiler (looked for no-such-compiler)" in caplog.text
    finally:
        cpu_build._library.cache_clear()


def test_a_compiler_that_fails_is_named(few_sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cpu_build.SOURCES / "one.cpp").write_text("this is no C++\n")
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(cpu_build.BuildError, match="false fails"):
        cpu_build.built(few_sources)


def test_plain_kernels_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPMV_KERNELS", "plain")
    assert cpu_build.library() is None


def test_a_cache_that_cannot_be_written_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpmv").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cpu_build.cache_folder()
    assert os.access(folder, os.W_OK) and tmp_path not in folder.parents
    folder.rmdir()


@needs_compiler
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="names an x86 instruction set")
def test_the_same_sources_serve_a_cpu_without_avx512(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.getbasetemp() / "cpu-portable"
    folder.mkdir(exist_ok=True)
    portable = cpu_build._load(cpu_build.built(folder, "x86-64-v3"))
    assert not portable.cpmv_has_many()
    monkeypatch.setattr(cpu_packed, "library", lambda: portable)
    for name, make in LAYERS.items():
        layer = make(40, 512)
        kernel, weight = cpu._pack(layer), layer.dequantize(torch.float32)
        assert kernel is not None
        for rows in (1, 2, 4, 7, 40):
            for dtype, tolerance in ((torch.float32, 5e-4), (torch.bfloat16, 4e-3)):
                x = normal(rows, 512, seed=rows).to(dtype)
                assert error(kernel.multiply(x), x.float() @ weight.t()) < tolerance, (name, rows, dtype)
