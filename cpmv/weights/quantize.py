"""What a quantised checkpoint format provides, and the formats there are.

A format is one file with `collect`, which takes its weights out of the tensors of a folder, and `quantize`, which
turns a matrix into the tensors that a released file holds. Adding one is adding an entry here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from . import awq, int8, nf4
from .packed import PackedWeight
from .stored import Problem, Stored

Collect = Callable[[dict[str, Stored], dict[str, Any] | None], tuple[dict[str, PackedWeight], list[Problem]]]


@dataclass(frozen=True)
class Format:
    """collect: removes a format's tensors from the dict and returns its weights by name, and what is wrong with them.
    quantize: matrix [out, in] -> tensors by the name after the module's path.
    """

    collect: Collect
    quantize: Callable[..., dict[str, Tensor]]


FORMATS: dict[str, Format] = {
    "nf4": Format(nf4.collect, nf4.quantize),
    "awq": Format(awq.collect, awq.quantize),
    "int8": Format(int8.collect, int8.quantize),
}
_METHODS = {"bitsandbytes": "nf4", "awq": "awq", int8.METHOD: "int8"}


def collect_packed(
    tensors: dict[str, Stored], quantization: dict[str, Any] | None
) -> tuple[dict[str, PackedWeight], list[Problem]]:
    """Take every quantised weight out of `tensors`, whatever its format.

    Raises CheckpointError when config.json names a method that no format reads, or one whose tensors are not there.
    """
    method = (quantization or {}).get("quant_method")
    if quantization and method not in _METHODS:
        raise CheckpointError(
            f"config.json has quantization_config with quant_method {method!r}; supported are {', '.join(_METHODS)}"
        )
    packed: dict[str, PackedWeight] = {}
    problems: list[Problem] = []
    for format_ in FORMATS.values():
        found, wrong = format_.collect(tensors, quantization)
        packed |= found
        problems += wrong
    if method is not None and not problems and not any(w.format == _METHODS[method] for w in packed.values()):
        raise CheckpointError(f"config.json says {method}, but the files hold no tensor quantised that way")
    return packed, problems
