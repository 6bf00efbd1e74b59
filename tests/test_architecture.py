"""The arrows of docs/architecture.md hold, and importing stays cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cpmv"

# Which top-level parts each part may import. `model.config` is the one file of `model` that inputs may see.
ALLOWED = {
    "errors": set(),
    "device": {"errors"},
    "kernels": {"errors", "device"},
    "model": {"errors", "device", "kernels"},
    "inputs": {"errors", "model.config"},
    "weights": {"errors", "device", "model", "inputs", "kernels"},
    "engine": {"errors", "device", "model", "inputs", "weights", "kernels"},
    "serve": {"errors", "device", "model", "inputs", "weights", "engine"},
    "batch": {"errors", "device", "model", "inputs", "weights", "engine", "serve"},
    "read": {"errors", "model", "inputs", "engine", "batch.journal", "serve.structured"},
    "train": {"errors", "device", "model", "inputs", "weights"},
    "api": {"errors", "device", "model", "inputs", "weights", "engine"},
    "evals": {"errors", "device", "model", "inputs", "weights", "engine", "api", "train"},
    "bench": {"errors", "device", "model", "inputs", "weights", "engine", "kernels", "api"},
    "cluster": {"errors", "device", "model", "inputs", "weights", "engine", "batch", "serve", "api"},
    "compat": {"errors", "device", "api", "inputs", "weights"},
    "cli": {
        "errors",
        "device",
        "model",
        "inputs",
        "weights",
        "engine",
        "api",
        "compat",
        "train",
        "evals",
        "serve",
        "batch",
        "read",
        "bench",
        "cluster",
    },
}

# Single files that see more than their part: reinforcement learning samples through the engine.
ALSO = {"train/rollouts.py": {"engine"}}


def imports_of(path: Path) -> list[tuple[str, ...]]:
    """Dotted names inside the package that a file imports, as tuples without the leading `cpmv`."""
    package = path.relative_to(PACKAGE).parts[:-1]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = tuple((node.module or "").split(".")) if node.module else ()
            if not node.level and module[:1] != ("cpmv",):
                continue
            dotted = (*base, *(module if node.level else module[1:]))
            found += [dotted] if dotted else [(alias.name,) for alias in node.names]
            if len(dotted) == 1 and (PACKAGE / dotted[0]).is_dir():
                found[-1:] = [(*dotted, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [tuple(a.name.split(".")[1:]) for a in node.names if a.name.startswith("cpmv.")]
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    part = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if part in ("__init__", "__main__"):
        return
    for target in imports_of(path):
        if target[0] != part:
            allowed = ALLOWED[part] | ALSO.get(path.relative_to(PACKAGE).as_posix(), set())
            assert target[0] in allowed or ".".join(target[:2]) in allowed, f"{part} may not import {'.'.join(target)}"


@pytest.mark.parametrize("command", ["import cpmv", "import cpmv.cli.main"])
def test_importing_does_not_import_torch(command: str) -> None:
    code = f"{command}; import sys; sys.exit(any(m in sys.modules for m in ('torch', 'av', 'PIL', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", __import__("cpmv").__all__)
def test_every_public_name_resolves(name: str) -> None:
    import cpmv

    assert getattr(cpmv, name) is not None
