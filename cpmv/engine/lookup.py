"""Prompt lookup: guess the next tokens from what followed the same words before, in the prompt or the answer.

Text that repeats its source (a page being transcribed, a table, code) is guessed several tokens at a time; the model
checks a guess in one pass and keeps what it would have chosen itself, so greedy answers do not change.
"""

from __future__ import annotations

from collections.abc import Sequence

# A guess needs this many equal tokens before it; the longest that is found decides.
_LONGEST, _SHORTEST = 4, 2


class Lookup:
    """The places of every short run of tokens in a growing sequence. `max_draft`: most tokens guessed at once."""

    def __init__(self, tokens: Sequence[int], max_draft: int) -> None:
        assert max_draft > 0
        self.max_draft = max_draft
        self._tokens: list[int] = []
        # Run of tokens -> the place after its latest occurrence, and after the one before.
        self._places: dict[tuple[int, ...], tuple[int, int | None]] = {}
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        """Take the next token of the sequence."""
        tokens = self._tokens
        tokens.append(token)
        for length in range(_SHORTEST, min(_LONGEST, len(tokens)) + 1):
            run = tuple(tokens[-length:])
            latest = self._places.get(run)
            self._places[run] = (len(tokens), None if latest is None else latest[0])

    def draft(self, limit: int) -> list[int]:
        """Guess what comes next, at most `limit` tokens; nothing when the last words are new."""
        count = min(limit, self.max_draft)
        if count < 1:
            return []
        tokens = self._tokens
        for length in range(min(_LONGEST, len(tokens)), _SHORTEST - 1, -1):
            # The latest place is the sequence's own end.
            before = self._places[tuple(tokens[-length:])][1]
            if before is not None:
                return tokens[before : before + count]
        return []
