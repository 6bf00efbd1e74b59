"""What the project asks of one H200 with the real dimensions, by format and line: (bar, beyond it).

Milliseconds of a unit unless the key ends in "/s", which is a rate. A table prints them beside what was measured on
such a card, met or not.
"""

from __future__ import annotations

_BF16 = {
    "decode-b1-c1024": (1000 / 225, 1000 / 250),
    "decode-b1-c8192": (4.9, 4.3),
    "decode-b8-c1024": (5.3, 4.6),
    "decode-b32-c1024": (6.2, 5.6),
    "prefill-1024": (26.0, 24.0),
    "prefill-4096": (99.0, 94.0),
    "prefill-12288": (340.0, 325.0),
    "vision-slices-1": (3.3, 2.7),
    "vision-slices-10": (22.0, 20.0),
    "vision-frames-540": (1000 * 540 / 500, 1000 * 540 / 540),
    "first-token-slices-10": (45.0, 40.0),
    "first-token-frames-540": (1600.0, 1450.0),
    "file-frames-540": (3200.0, 1.2 * 1450.0),
    "throughput-64": (1000 / 5000, 1000 / 6500),
}
BARS: dict[str, dict[str, tuple[float, float]]] = {
    "bf16": _BF16,
    "awq": {"decode-b1-c1024": (2.5, 2.0), "decode-b8-c1024": (4.2, 3.2), "decode-b32-c1024": (5.5, 4.8)},
    "nf4": {"decode-b1-c1024": (1000 / 350, 1000 / 450)},
}
# Times that transformers takes for the same: (bar, beyond it).
PEER_BARS = {"decode-b1-c1024": (6.0, 8.0), "prefill-1024": (1.3, 1.3), "prefill-4096": (1.3, 1.3)}


def verdict(milliseconds: float, bar: tuple[float, float]) -> str:
    """Say in a word how a time stands to its bars."""
    return "beyond" if milliseconds <= bar[1] else "met" if milliseconds <= bar[0] else "not met"
