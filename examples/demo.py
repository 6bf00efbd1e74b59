"""Ask the bundled model about pictures that are in the repository: `make demo`.

Each question is the command that a user would type. The model is 21M parameters, trained from scratch on drawn
pictures (docs/tiny-model.md): it reads short text, describes simple shapes and follows what moves, and no more.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from cpmv.cli.main import main as cpmv

PICTURES = Path(__file__).parent / "pictures"
QUESTIONS = [
    ("label.png", "Read the text."),
    ("shapes.png", "What colour is the triangle?"),
    ("shapes.png", "\u4e09\u89d2\u5f62\u662f\u4ec0\u4e48\u989c\u8272\uff1f"),  # what colour is the triangle?
    ("shapes.png", "Describe the picture."),
    ("moving.gif", "Which way does the blue circle move?"),
]


def main() -> int:
    print(f"The pictures are in {PICTURES}")
    for name, question in QUESTIONS:
        # A clip's frames go to the model as one package: six frames cost as many tokens as one picture.
        packing = ["--packing", "6"] if name.endswith(".gif") else []
        command = ["chat", str(PICTURES / name), "-q", question, "--greedy", *packing]
        print(f"\n$ cpmv {shlex.join(command)}", flush=True)
        code = cpmv(command)
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
