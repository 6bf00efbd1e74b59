"""Compile a CUDA source at first use, keep the machine code in the user's cache, launch it on torch's stream.

NVRTC ships with torch's CUDA builds; the driver's launch call is used because it knows programmatic dependent launch:
a kernel may begin, and fetch its weights, while the one before it ends. Everything goes through ctypes.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from ...errors import CpmvError

log = logging.getLogger("cpmv")

_INVALID_CONTEXT = 201
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_SERIALIZATION = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
_FREE_SHARED = 48 << 10  # what a block may have without asking


class CompilerMissingError(CpmvError):
    """NVRTC or the driver cannot be used here; the message says why."""


class _Attribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_int), ("rest", ctypes.c_byte * 60)]


class _Config(ctypes.Structure):
    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("count", ctypes.c_uint),
    ]


@functools.cache
def _nvrtc() -> ctypes.CDLL:
    major = (torch.version.cuda or "0").split(".")[0]
    names = [f"nvrtc64_{major}0_0.dll"] if sys.platform == "win32" else [f"libnvrtc.so.{major}", "libnvrtc.so"]
    site = Path(torch.__file__).parents[1]
    names += [str(p) for p in sorted(site.glob("nvidia/*/lib/libnvrtc.so.*")) if ".alt." not in p.name]
    names += [str(p) for p in sorted((site / "torch/lib").glob("libnvrtc-*.so*"))]
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise CompilerMissingError(f"no NVRTC library was found (looked for {', '.join(names[:2])} and beside torch)")


@functools.cache
def _driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        raise CompilerMissingError(f"the CUDA driver library cannot be loaded ({error})") from error


def _check(code: int, what: str) -> None:
    if code:
        raise CompilerMissingError(f"{what} failed with CUDA error {code}")


def compile_source(source: str, options: tuple[str, ...]) -> bytes:
    """Compile to machine code (a cubin). Raises CompilerMissingError with the compiler's words."""
    rtc, program = _nvrtc(), ctypes.c_void_p()
    _check(rtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"cpmv.cu", 0, None, None), "NVRTC")
    try:
        flags = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
        if rtc.nvrtcCompileProgram(program, len(options), flags):
            size = ctypes.c_size_t()
            rtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            text = ctypes.create_string_buffer(size.value)
            rtc.nvrtcGetProgramLog(program, text)
            raise CompilerMissingError(f"NVRTC refused the source: {text.value.decode(errors='replace')[:2000]}")
        size = ctypes.c_size_t()
        _check(rtc.nvrtcGetCUBINSize(program, ctypes.byref(size)), "NVRTC")
        code = ctypes.create_string_buffer(size.value)
        _check(rtc.nvrtcGetCUBIN(program, code), "NVRTC")
        return code.raw
    finally:
        rtc.nvrtcDestroyProgram(ctypes.byref(program))


def cached(source: str, options: tuple[str, ...]) -> bytes:
    """Compile, or take what an earlier run compiled from the same source and options with the same NVRTC."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    key = hashlib.sha256(repr((source, options, major.value, minor.value)).encode()).hexdigest()[:32]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cpmv" / "cuda"
    path = folder / f"{key}.cubin"
    try:
        code = path.read_bytes()
        if code[:4] == b"\x7fELF":
            return code
    except OSError:
        pass  # not compiled yet
    code = compile_source(source, options)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            file.write(code)
        os.replace(file.name, path)  # several processes may compile at once; each file is whole
    except OSError as error:
        log.info("compiled kernels are not kept: %s", error)
    return code


class Kernel:
    """A function of a loaded module, for the device it was loaded on."""

    def __init__(self, code: bytes, name: str) -> None:
        self._code = code  # the module may refer to it
        self._module, self._function = ctypes.c_void_p(), ctypes.c_void_p()
        torch.cuda.current_stream().synchronize()  # makes torch's context current in this thread
        driver = _driver()
        _check(driver.cuModuleLoadData(ctypes.byref(self._module), code), "loading a kernel")
        _check(driver.cuModuleGetFunction(ctypes.byref(self._function), self._module, name.encode()), "a kernel's name")
        self._shared = _FREE_SHARED
        self._attribute = _Attribute(_SERIALIZATION, 0, 1)

    def attribute(self, number: int) -> int:
        """An attribute of the function by the driver's number (4: registers, 3: bytes of local memory)."""
        value = ctypes.c_int()
        _check(_driver().cuFuncGetAttribute(ctypes.byref(value), number, self._function), "a kernel's attribute")
        return value.value

    def launch(
        self, grid: tuple[int, int], threads: int, shared: int, arguments: ctypes.Structure, early: bool = False
    ) -> None:
        """Launch on torch's current stream. early: it may begin before the kernel ahead of it has ended."""
        driver = _driver()
        if shared > self._shared:
            _check(driver.cuFuncSetAttribute(self._function, _MAX_DYNAMIC_SHARED, shared), "asking for shared memory")
            self._shared = shared
        config = _Config(
            (ctypes.c_uint * 3)(*grid, 1),
            (ctypes.c_uint * 3)(threads, 1, 1),
            shared,
            torch.cuda.current_stream().cuda_stream,
            ctypes.pointer(self._attribute),
            int(early),
        )
        values = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        code = driver.cuLaunchKernelEx(ctypes.byref(config), self._function, values, None)
        if code == _INVALID_CONTEXT:  # the first call of a thread
            torch.cuda.set_device(torch.cuda.current_device())
            torch.cuda.current_stream().synchronize()
            code = driver.cuLaunchKernelEx(ctypes.byref(config), self._function, values, None)
        if code:
            raise RuntimeError(f"a kernel could not be launched: CUDA error {code}")


def options(arch: str, macros: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    """What the compiler is told; arch: "90" for compute capability 9.0."""
    given = (f"--gpu-architecture=sm_{arch}", "--std=c++17", "-default-device", "-diag-suppress=177")
    return given + tuple(f"-D{name}={value}" for name, value in macros)


_LOADED: dict[Any, Kernel] = {}


def kernel(source: str, name: str, macros: tuple[tuple[str, int], ...]) -> Kernel:
    """Return the function compiled with these macros for the current device. Raises CompilerMissingError."""
    device = torch.cuda.current_device()
    key = (device, hash(source), name, macros)
    found = _LOADED.get(key)
    if found is None:
        arch = "".join(map(str, torch.cuda.get_device_capability(device)))
        found = _LOADED[key] = Kernel(cached(source, options(arch, macros)), name)
    return found
