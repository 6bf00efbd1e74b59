"""Ask about a picture that is in the repository: `make demo`.

The bundled model answers. Where none is bundled, a tiny checkpoint of random weights takes its place, which shows
that everything runs but can only answer noise; this says so.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from cpmv.errors import CheckpointError
from cpmv.weights.hub import resolve

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "examples" / "pictures" / "receipt.png"
QUESTION = "What does the coffee cost?"


def main() -> int:
    print(f"The picture: {PICTURE}")
    try:
        resolve(None)
    except CheckpointError:
        with tempfile.TemporaryDirectory() as folder:
            print("No model is bundled, so a tiny one with RANDOM weights is made: its answer will be noise.")
            print('For real answers: cpmv chat PICTURE -q "..." --model openbmb/MiniCPM-V-4_5-int4')
            model = Path(folder) / "random"
            make = [str(ROOT / "benchmarks" / "random_checkpoint.py"), str(model), "--scale", "tiny"]
            subprocess.run([sys.executable, *make], check=True, stdout=subprocess.DEVNULL)
            return ask("--model", str(model), "--greedy", "--max-new-tokens", "24")
    return ask("--greedy")


def ask(*options: str) -> int:
    command = ["chat", str(PICTURE), "-q", QUESTION, *options]
    print(f"\n$ cpmv {shlex.join(command)}", flush=True)
    return subprocess.run([sys.executable, "-m", "cpmv", *command]).returncode


if __name__ == "__main__":
    sys.exit(main())
