"""Run cuda/packed.cu on the CPU: compiled as C++ with emulated.h, launched in place of the driver."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from cpmv.kernels import packed_cuda
from cpmv.kernels.cuda import nvrtc

CARD = packed_cuda.Card(sms=2, shared=227 << 10, capability=(9, 0))  # few, so that blocks take several tiles
_HERE = Path(__file__).parent
_ENTRY = """
static Args given;
static void begin() {
    KERNEL(given);
    fibres[now].done = true;
    for (;;) give_turn();
}
extern "C" void launch(const Args* arguments, int columns, int rows, int threads) {
    const int stack = 64 << 10;
    given = *arguments;
    gridDim = {(unsigned)columns, (unsigned)rows, 1};
    blockDim = {(unsigned)threads, 1, 1};
    for (int y = 0; y < rows; ++y)
        for (int x = 0; x < columns; ++x) {
            blockIdx = {(unsigned)x, (unsigned)y, 0};
            fibres.assign(threads, Fibre());
            warp_barriers.assign(threads / 32, Barrier());
            block_barrier = Barrier();
            memset(shared_memory, 0xff, sizeof shared_memory);  // what is not written must not be read
            for (int i = 0; i < threads; ++i) {
                Fibre& fibre = fibres[i];
                fibre.index = {(unsigned)i, 0, 0};
                fibre.done = false;
                fibre.stack = (char*)malloc(stack);
                getcontext(&fibre.context);
                fibre.context.uc_stack.ss_sp = fibre.stack;
                fibre.context.uc_stack.ss_size = stack;
                makecontext(&fibre.context, begin, 0);
            }
            for (bool busy = true; busy;) {
                busy = false;
                for (now = 0; now < threads; ++now)
                    if (!fibres[now].done) {
                        busy = true;
                        swapcontext(&scheduler, &fibres[now].context);
                    }
            }
            for (Fibre& fibre : fibres) free(fibre.stack);
        }
}
"""


class Emulated:
    """Stands for `nvrtc.Kernel`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def launch(
        self, grid: tuple[int, int], threads: int, shared: int, arguments: ctypes.Structure, early: bool = False
    ) -> None:
        assert shared <= CARD.shared
        self._library.launch(ctypes.byref(arguments), *grid, threads)


@functools.cache
def compiled(source: str, name: str, macros: tuple[tuple[str, int], ...]) -> Emulated:
    folder = Path(tempfile.mkdtemp(prefix="cpmv-emulated-"))
    text = f'#include "{_HERE / "emulated.h"}"\n{source}\n#define KERNEL {name}\n{_ENTRY}'
    (folder / "kernel.cpp").write_text(text)
    command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-w", *(f"-D{k}={v}" for k, v in macros)]
    command += [str(folder / "kernel.cpp"), "-o", str(folder / "kernel.so")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:3000]
    library = ctypes.CDLL(str(folder / "kernel.so"))
    shutil.rmtree(folder)
    return Emulated(library)


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let `packed_cuda` launch on the CPU. Skips where there is no g++."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    monkeypatch.setattr(nvrtc, "kernel", compiled)
    monkeypatch.setattr(packed_cuda, "card", lambda index: CARD)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return packed_cuda
