"""`python -m cpmv.bench`, and `cpmv bench`: measure, draw, or put tables into documents. Needs argparse alone.

    cpmv bench [MODEL] [--random real|tiny --format bf16|awq|...] [--only decode,...] [--peer transformers] [--out FILE]
    cpmv bench table RESULT.json... [--into README.md]
    cpmv bench plot RESULT.json... --out FILE.png

The last line of a measurement is its result as JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import CpmvError

_EXAMPLES = """examples:
  cpmv bench                                   the bundled model, on what there is
  cpmv bench --random real --format awq        full size, random weights, nothing downloaded
  cpmv bench MODEL --only decode,prefill --peer transformers --out bench.json
  cpmv bench table bench.json                  its page as Markdown; --into README.md: between the bench markers
  cpmv bench plot bench.json --out bench.png   decoding speed over batch and context, beside the limit
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CpmvError(f"{message}; see cpmv bench --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run with arguments; return 0, or 1 when a line of the table could not be measured. Raises CpmvError."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["table"]:
        return _table(arguments[1:])
    if arguments[:1] == ["plot"]:
        return _plot(arguments[1:])
    return _measure(arguments)


def _measure(argv: Sequence[str]) -> int:
    given = _parser().parse_args(argv)
    if given.model is not None and given.random is not None:
        raise CpmvError(f"both MODEL {given.model!r} and --random were given; one of them says what to measure")
    if given.format != "bf16" and given.random is None:
        raise CpmvError("--format is for --random; a model has its own")
    from .plan import SECTIONS, Options
    from .results import memory_line, plain_table, report
    from .run import run

    options = Options(
        model=given.model,
        random=given.random,
        format=given.format,
        device=given.device,
        dtype=given.dtype,
        only=tuple(given.only.split(",")) if given.only else SECTIONS,
        quick=given.quick,
        peers=tuple(given.peer.split(",")) if given.peer else (),
        clip=given.clip,
        seed=given.seed,
        limit_s=given.limit_s,
        sizes=_sizes(given.sizes),
    )
    started = time.perf_counter()

    def tell(line: str) -> None:
        print(f"[{time.perf_counter() - started:6.1f} s] {line}", file=sys.stderr, flush=True)

    result = run(options, kernel_table=given.kernel_table, tell=tell)
    result["seconds"] = round(time.perf_counter() - started, 1)
    if given.out is not None:
        out = Path(given.out)
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        out.with_suffix(".md").write_text(report(result), encoding="utf-8")
    print(f"{result['model']['text']}\n{result['machine']['text']}\n\n{plain_table(result)}")
    for line in filter(None, [memory_line(result), *result["notes"], *(f"failed: {f}" for f in result["failed"])]):
        print(line)
    for title, table in result.get("kernels", {}).items():
        print(f"\n{title}: {table[0]}", *table[2:], sep="\n")
    print(json.dumps(result))
    return 1 if result["failed"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cpmv bench",
        description="Measure a model on this machine, each number beside the limit measured in the same run.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="folder, .gguf file or id (default: the bundled model)")
    add("--random", metavar="SCALE", choices=("real", "tiny"), help="random weights instead: real (8.7B) or tiny")
    add("--format", default="bf16", metavar="FORMAT", help="of random weights: bf16 fp16 awq nf4 int8 q8_0 q4_0 q4_k")
    add("--only", metavar="LIST", help="of decode,prefill,vision,first-token,throughput,file,memory")
    add("--quick", action="store_true", help="fewer repeats")
    add("--peer", metavar="LIST", help="of transformers,llama.cpp,vllm, turn by turn with ours where installed")
    add("--kernel-table", action="store_true", help="also where a step's and a prefill's time goes")
    add("--clip", metavar="FILE", help="video for the file line (default: a made clip of ten minutes)")
    add("--sizes", action="append", default=[], metavar="NAME=N,...", help="decode=ROWS,CONTEXT,... prefill= vision=")
    add("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps")
    add("--dtype", metavar="DTYPE", help="auto, bfloat16, float16, float32")
    add("--seed", type=int, default=0, metavar="N", help="of random weights and prompts")
    add("--limit-s", type=float, metavar="S", help="begin no more lines after S seconds (a CPU: 100); it is told")
    add("--out", metavar="FILE.json", help="write the result, and its page as .md beside it")
    return parser


_SIZES = ("decode", "decode_steps", "prefill", "vision", "frames", "requests", "answer")


def _sizes(given: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Read NAME=N,N,... options."""
    found: dict[str, tuple[int, ...]] = {}
    for text in given:
        name, _, numbers = text.partition("=")
        try:
            values = tuple(int(n) for n in numbers.split(","))
        except ValueError:
            values = ()
        if name not in _SIZES or not values or min(values) < 1 or (name == "decode" and len(values) % 2):
            raise CpmvError(
                f"--sizes {text!r} cannot be read; give NAME=N,... with a name of {', '.join(_SIZES)}, and for decode "
                "pairs of rows and context"
            )
        found[name] = values
    return found


def _read(paths: Sequence[str]) -> list[dict[str, Any]]:
    """Read results that `--out` wrote, or logs whose last line is one."""
    found = []
    for path in paths:
        try:
            text = Path(path).read_text(encoding="utf-8")
            result = json.loads(text if text.startswith("{") else text.rstrip().splitlines()[-1])
            if not (isinstance(result["rows"], list) and result["machine"] and result["model"]):
                raise ValueError("it has no rows")
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise CpmvError(f"{path} is no result of cpmv bench ({error}); give what --out has written") from None
        found.append(result)
    return found


def _table(argv: Sequence[str]) -> int:
    parser = _Parser(prog="cpmv bench table", description="Show results as Markdown, or put them into a document.")
    parser.add_argument("results", nargs="+", metavar="RESULT.json")
    parser.add_argument("--into", metavar="FILE.md", help="replace what stands between its bench markers")
    given = parser.parse_args(argv)
    from .results import replace_between, report, speed_table

    results = _read(given.results)
    if given.into is None:
        print(speed_table(results) if len(results) > 1 else report(results[0]))
        return 0
    path = Path(given.into)
    try:
        text = replace_between(path.read_text(encoding="utf-8"), speed_table(results))
    except (OSError, ValueError) as error:
        raise CpmvError(f"{path}: {error}") from error
    path.write_text(text, encoding="utf-8")
    print(f"{path}: the table is made from {', '.join(given.results)}")
    return 0


def _plot(argv: Sequence[str]) -> int:
    parser = _Parser(prog="cpmv bench plot", description="Draw decoding speed over batch and context.")
    parser.add_argument("results", nargs="+", metavar="RESULT.json")
    parser.add_argument("--out", required=True, metavar="FILE.png")
    given = parser.parse_args(argv)
    from .plot import plot

    plot(_read(given.results), given.out)
    print(given.out)
    return 0


def _standalone() -> int:
    logging.basicConfig(level=logging.WARNING, format="cpmv: %(message)s", stream=sys.stderr)
    try:
        return main()
    except CpmvError as error:
        print(f"cpmv: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(_standalone())
