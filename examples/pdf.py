"""Ask about pages of a PDF, then ask again in the same conversation.

    python examples/pdf.py MODEL PDF [PAGES]

PAGES: such as 1-3,7; by default the first. Every page is a picture, cut into slices where it is large.
"""

from __future__ import annotations

import sys

import cpmv


def main(source: str, document: str, pages: str = "1") -> None:
    model = cpmv.load(source)
    messages: list[dict[str, object]] = []
    for question in ("Write down the text of this document.", "Which numbers does it contain?"):
        shown = [] if messages else [cpmv.Pdf(document, pages=pages)]
        messages.append({"role": "user", "content": [*shown, question]})
        answer = model.chat(msgs=messages, sampling=True, temperature=0.1, max_new_tokens=128)
        messages.append({"role": "assistant", "content": str(answer)})
        print(f"> {question}\n{answer}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
