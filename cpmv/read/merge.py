"""Text put together: readings that overlap are aligned, and a model that repeats itself is found out."""

from __future__ import annotations

MOST_PERIOD = 240  # characters: a repeated passage longer than this is not looked for
LEAST_REPEATED = 24  # characters in all that repetitions must fill
_TIMES = ((1, 16), (3, 8), (12, 5), (MOST_PERIOD, 3))  # up to this period, so many times in a row are a loop
MOST_WRONG = 0.34  # of an overlap's characters may differ between its two readings


def merge_overlap(left: str, right: str, most: int) -> str:
    """Join two readings whose ends show the same writing.

    most: characters that the overlap can have at most. The end of `left` and the beginning of `right` that agree best
    are laid over each other; the left one's half of them comes from `left`. Without agreement the texts stand side by
    side, for nothing that was read may be lost.
    """
    best, best_score = (0, 0), 0.0
    for a in range(1, min(most, len(left)) + 1):
        tail = left[-a:]
        for b in range(max(1, a - a // 3 - 1), min(most, len(right), a + a // 3 + 1) + 1):
            wrong = edit_distance(tail, right[:b])
            if wrong > MOST_WRONG * max(a, b):
                continue
            score = min(a, b) - 2.0 * wrong
            if score > best_score:
                best, best_score = (a, b), score
    a, b = best
    if not a:
        return left + right
    keep = a - a // 2  # the edges of both readings are the least sure: each gives the half that lies inside it
    tail, head = left[len(left) - a :], right[:b]
    return left[: len(left) - a] + tail[:keep] + _after(tail, head, keep) + right[b:]


def _after(tail: str, head: str, keep: int) -> str:
    """The part of `head` that stands after the first `keep` characters of `tail`, by their best alignment."""
    row = edit_row(tail[:keep], head)
    at = min(range(len(row)), key=lambda i: (row[i], abs(i - keep)))
    return head[at:]


def edit_distance(a: str, b: str) -> int:
    """Characters to insert, delete or replace to make one text of the other."""
    return edit_row(a, b)[-1]


def edit_row(a: str, b: str) -> list[int]:
    """Edit distances of `a` to every beginning of `b`, from the empty one on."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        before, row[0] = row[0], i + 1
        for j, y in enumerate(b):
            before, row[j + 1] = row[j + 1], min(before + (x != y), row[j] + 1, row[j + 1] + 1)
    return row


def find_loop(text: str) -> int | None:
    """Where a model began to repeat itself until the end: the place after the first repetition, or None.

    A passage of up to MOST_PERIOD characters that fills the end of the text several times in a row is a loop; a short
    one must come more often, so that "......", "----" in tables and "1000000" are none.
    """
    for period in range(1, min(MOST_PERIOD, len(text) // 3) + 1):
        times = next(times for longest, times in _TIMES if period <= longest)
        least = max(LEAST_REPEATED, period * times)
        if len(text) < least or text[-period:] != text[-2 * period : -period]:
            continue
        same = len(text) - period
        while same > 0 and text[same - 1] == text[same - 1 + period]:
            same -= 1
        if len(text) - same >= least and not _is_ruling(text[-period:]):
            return _at_word(text, same + period, period)
    return None


def _at_word(text: str, at: int, period: int) -> int:
    """Move a cut on to where a word ends, if one does before the passage comes again."""
    for place in range(at, min(at + period, len(text))):
        if not text[place - 1].isalnum() or text[place - 1] >= "\u2e80":
            return place
    return at


def _is_ruling(passage: str) -> bool:
    """Dot leaders, dashes and empty table cells repeat without being a loop, up to a page's width of them."""
    return not any(c.isalnum() for c in passage)
