"""The CPU's kernels: a few C++ sources beside this file, compiled for this very machine at first use and kept.

The library lies in the user's cache folder ($XDG_CACHE_HOME/cpmv/cpu, or ~/.cache/cpmv/cpu). Its name holds a digest of
sources, compiler and CPU, and one of its own bytes, so that a file that is stale or damaged is never loaded and two
processes that build at once do not meet. Without a compiler everything runs in plain torch, and the log says so once.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from functools import lru_cache
from pathlib import Path

from .launch import chosen_path

log = logging.getLogger("cpmv")

SOURCES = Path(__file__).with_name("cpu")
_COMPILERS = ("c++", "g++", "clang++")
_TIMEOUT_S = 300
_DIGITS = 16

_P, _I, _L = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_SIGNATURES: dict[str, tuple[type | None, list[type]]] = {
    "cpmv_multiply": (None, [_P, _P, _I, _L, _P, _I]),
    "cpmv_most_rows": (_I, [_P, _I]),
    "cpmv_multiply_many": (None, [_P, _P, _L, _P, _P, _I]),
    "cpmv_has_many": (_I, []),
    "cpmv_dequantize": (None, [_P, _L, _L, _I, _P, _I]),
    "cpmv_repack": (None, [_P, _I, _P, _L, _I]),
    "cpmv_repack_awq": (None, [_P, _P, _I]),
    "cpmv_multiply_dense_many": (None, [_P, _I, _L, _L, _P, _L, _P, _P, _I]),
    "cpmv_decoder_layer": (None, [_P, _P, _P, _P, _P, _I]),
}


class BuildError(Exception):
    """Why there is no library, in one line."""


def library() -> ctypes.CDLL | None:
    """Return the kernels of this machine, or None where they are not wanted (CPMV_KERNELS=plain) or cannot be made."""
    return None if chosen_path() == "plain" else _library()


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    try:
        path = built(cache_folder())
        found = _load(path)
    except BuildError as error:
        log.warning("quantised weights are multiplied in plain torch, several times slower: %s", error)
        return None
    log.info("CPU kernels: %s", path)
    return found


def is_likely() -> bool:
    """Whether `library` will be there, without building it: wanted, and there is a compiler."""
    compiler = _compiler()
    return chosen_path() != "plain" and compiler is not None and shutil.which(compiler.split()[0]) is not None


def _compiler() -> str | None:
    return os.environ.get("CXX") or next((c for c in _COMPILERS if shutil.which(c)), None)


def cache_folder() -> Path:
    """Where libraries are kept. One that cannot be written is replaced by a folder of this process."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(root) / "cpmv" / "cpu"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass  # a read-only home is no reason to be slow
    return Path(tempfile.mkdtemp(prefix="cpmv-cpu-"))


def built(folder: Path, arch: str | None = None) -> Path:
    """Return the library's path, building it if there is none whole. arch: the compiler's -march, by default this CPU.

    Raises BuildError.
    """
    command = _command(arch)
    key = _digest(_identity(command))
    for path in sorted(folder.glob(f"{key}-*.so")):
        if _is_whole(path):
            return path
        log.warning("%s is damaged and is built again", path)
        path.unlink(missing_ok=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as work:
        made = Path(work) / "kernels.so"
        _compile([*command, "-o", str(made), *map(str, sorted(SOURCES.glob("*.cpp")))])
        target = folder / f"{key}-{_digest(made.read_bytes())}.so"
        made.chmod(0o700)
        os.replace(made, target)
    log.info("compiled the CPU kernels in %.1f s", time.perf_counter() - start)
    return target


def _is_whole(path: Path) -> bool:
    try:
        return path.stem.partition("-")[2] == _digest(path.read_bytes())
    except OSError:
        return False


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


def _command(arch: str | None) -> list[str]:
    compiler = _compiler()
    if compiler is None or shutil.which(compiler.split()[0]) is None:
        raise BuildError(f"there is no C++ compiler (looked for {compiler or ', '.join(_COMPILERS)}); install one")
    native = "-mcpu=" if platform.machine().lower() in ("arm64", "aarch64") else "-march="
    options = ["-O3", "-std=c++17", "-fPIC", "-shared", "-pthread", "-w", native + (arch or "native")]
    return [*compiler.split(), *options]


@lru_cache
def _version(compiler: str) -> str:
    try:
        run = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"{compiler} does not run ({error})") from error
    return run.stdout


def _compile(command: list[str]) -> None:
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"{command[0]} does not run ({error})") from error
    if run.returncode:
        lines = [line for line in run.stderr.splitlines() if "error" in line] or run.stderr.splitlines()[-1:]
        raise BuildError(f"{command[0]} fails: {lines[0] if lines else f'exit code {run.returncode}'}")


def _identity(command: list[str]) -> bytes:
    """All that decides what the library is: sources, compiler, options, CPU."""
    sources = [path.name.encode() + b"\0" + path.read_bytes() for path in sorted(SOURCES.iterdir()) if path.is_file()]
    said = [" ".join(command), _version(" ".join(command[: command.index("-O3")])), platform.platform(), _cpu()]
    return b"\0".join([*sources, *(text.encode() for text in said)])


def _cpu() -> str:
    """The CPU's model and features, where the system tells them."""
    wanted = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU implementer", "CPU part")
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        return "\n".join(line for line in lines if line.split("\t")[0].strip().startswith(wanted))
    return platform.processor()


def _load(path: Path) -> ctypes.CDLL:
    try:
        found = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise BuildError(f"{path} cannot be loaded ({error})") from error
    return found
