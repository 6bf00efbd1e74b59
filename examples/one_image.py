"""Ask one question about one image, and print the answer as it comes.

    python examples/one_image.py [MODEL] [IMAGE] [QUESTION]

MODEL: a folder, a .gguf file or an id such as openbmb/MiniCPM-V-4_5-int4; by default the bundled model.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cpmv

PICTURE = Path(__file__).parent / "pictures" / "receipt.png"


def main(source: str | None = None, image: str = str(PICTURE), question: str = "What does the coffee cost?") -> None:
    model = cpmv.load(source)

    # The short way: one call, one string. Greedy decoding gives the same answer each time.
    print(model.ask(image, question, greedy=True, max_new_tokens=64))

    # The same as a stream, with thinking: every piece says whether it is "thinking" or "answer".
    messages = [{"role": "user", "content": [cpmv.Image(image), question]}]
    for piece in model.stream(messages, enable_thinking=True, seed=0, max_new_tokens=256):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
