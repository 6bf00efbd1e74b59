"""What can be known of the CUDA kernels without a card: they compile where NVRTC is, and what is launched adds up."""

from __future__ import annotations

import ctypes
import re

import pytest
import torch

from cpmv.kernels import packed_cuda as cuda
from cpmv.kernels.cuda import nvrtc

H200 = cuda.Card(sms=132, shared=227 << 10, capability=(9, 0))
SMALL = cuda.Card(sms=20, shared=64 << 10, capability=(7, 5))
SHAPES = {
    "qkv": (384, 4096, False),
    "o": (256, 4096, False),
    "gate_up": (1536, 4096, True),
    "down": (256, 12288, False),
}


def test_arguments_are_laid_out_as_the_source_declares_them() -> None:
    body = re.search(r"struct Args \{(.*?)\};", cuda.source(), re.S)
    assert body is not None
    names: list[str] = []
    for line in body[1].splitlines():
        declared = line.split("//")[0].strip().rstrip(";")
        if declared:
            first, *rest = declared.split(",")
            names += [first.split()[-1].lstrip("*"), *(name.strip() for name in rest)]
    assert names == [name for name, _ in cuda.Arguments._fields_]
    assert ctypes.sizeof(cuda.Arguments) == 11 * 8 + 8 * 4


@pytest.mark.parametrize("gpu", [H200, SMALL])
@pytest.mark.parametrize("fmt", cuda._FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 2, 8, 9, 32])
def test_every_choice_fits_the_card(gpu: cuda.Card, fmt: str, shape: str, rows: int) -> None:
    tiles, inputs, gated = SHAPES[shape]
    group = {"awq": 128, "nf4": 64, "q4_k": 0, "q6_k": 16, "int8": 0}.get(fmt, 32)
    choice = cuda.choose(fmt, group, rows, tiles, inputs, gated, gpu)
    if choice.kernel == "gemv":
        assert rows <= 8
        assert cuda.gemv_shared(fmt, group, rows, inputs, gated, choice)[0] <= gpu.shared
    else:
        token_tiles = cuda.token_tiles(rows)
        assert 8 * token_tiles >= rows
        assert cuda.tiles_shared(fmt, token_tiles, choice) <= gpu.shared
        assert inputs // 128 // choice.splits >= 1
        assert not gated or choice.row_tiles == 2


def test_one_row_of_nf4_is_launched_as_measured_the_fastest() -> None:
    choice = cuda.choose("nf4", 64, 1, 1536, 4096, True, H200)
    assert (choice.warps, choice.depth, choice.grid) == (8, 6, 3)
    for fmt, rows, gpu in (("awq", 1, H200), ("nf4", 2, H200), ("nf4", 1, cuda.Card(108, 163 << 10, (8, 0)))):
        assert cuda.choose(fmt, 128 if fmt == "awq" else 64, rows, 1536, 4096, True, gpu).warps == 16


def test_kernels_compile_where_nvrtc_is_installed() -> None:
    try:
        nvrtc._nvrtc()
    except nvrtc.CompilerMissingError as error:
        pytest.skip(str(error))
    macros = cuda.macros_of("gemv", "awq", 128, torch.bfloat16, cuda.Choice("gemv"))
    assert nvrtc.compile_source(cuda.source(), nvrtc.options("90", macros))[:4] == b"\x7fELF"
    with pytest.raises(nvrtc.CompilerMissingError, match="refused"):
        nvrtc.compile_source("nonsense", nvrtc.options("90", ()))


def test_a_missing_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError("none")))
    with pytest.raises(nvrtc.CompilerMissingError, match="no NVRTC library"):
        nvrtc._nvrtc.__wrapped__()
