"""How a JSON answer that is running out of tokens can still end valid: the short way out of wherever it is.

llguidance says which tokens may come next; nothing says which of them lead to the end. Outside strings a fixed order of
bytes does (close, go on, begin the shortest value); inside a string whose pattern does not let it close, a few
characters are searched for. All of it is bounded, because schemas come from strangers and the engine waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from llguidance import LLMatcher

if TYPE_CHECKING:
    from .structured import Grammars

_QUOTE = 0x22
# Outside strings: what closes, what goes on, how a value may begin, shortest first; 1 before 0, since -0.0 may be none.
_STRUCTURE = b'}]:,n10"tf23456789-[{'
_LETTERS = b"a0A-@.:T/Z n_+1"  # inside strings: what patterns and formats are made of
_FEW_LETTERS = b"a0A@.:-"  # what shorter ways are looked for with
_SHORT_DETOUR = 24  # characters before a string can close that are not worth looking for less
_MAX_DETOUR = 120  # characters that are followed at all
_MAX_PATHS = 24  # ways followed at once in looking for few characters
_MAX_COPIES = 700  # of the grammar's state, in one search
_ALL_COPIES = 2000  # in all searches on one way
_MAX_STEPS = 1500  # in measuring one way
_MAX_FAILURES = 2  # searches on one way that may find nothing before no more are begun


class JsonState:
    """Whether the JSON written so far ends inside a string."""

    def __init__(self, in_string: bool = False, escaped: bool = False) -> None:
        self.in_string, self.escaped = in_string, escaped

    def copy(self) -> JsonState:
        return JsonState(self.in_string, self.escaped)

    def take(self, data: bytes) -> None:
        for byte in data:
            if self.escaped:
                self.escaped = False
            elif byte == 0x5C and self.in_string:
                self.escaped = True
            elif byte == 0x22:
                self.in_string = not self.in_string


class WayOut:
    """Finds the end of one answer. `next_tokens` is the next part of the way, `length` how long it is."""

    def __init__(self, grammars: Grammars) -> None:
        self._grammars = grammars
        self._failures = self._copies = 0

    def length(self, matcher: LLMatcher, state: JsonState, most: int) -> int:
        """Tokens to the end, its terminator included; `most` if it is longer, or too long to be measured."""
        way, matcher, state = WayOut(self._grammars), matcher.deep_copy(), state.copy()
        count = 1
        for _ in range(_MAX_STEPS):
            tokens = way.next_tokens(matcher, state)
            if not tokens or tokens[0] in self._grammars.terminators:
                return count
            taken = matcher.try_consume_tokens(tokens)
            count += taken
            if not taken or count >= most:
                return most
            for token in tokens[:taken]:
                state.take(self._grammars.tokenizer.token_bytes(token))
        return most

    def next_tokens(self, matcher: LLMatcher, state: JsonState) -> list[int]:
        """What is forced, else what closes or asks for least."""
        bits = token_mask(matcher, self._grammars.vocab_size)
        for token in self._grammars.terminators:
            if bits[token]:
                return [token]
        forced = matcher.compute_ff_tokens()
        if forced:
            return list(forced)
        if not state.in_string:
            return self._first_of(_STRUCTURE, bits)
        if bits[self._grammars.byte_tokens[_QUOTE]] and not state.escaped:
            return [self._grammars.byte_tokens[_QUOTE]]
        found = self._search(matcher) if self._failures < _MAX_FAILURES else None
        return found or self._first_of(_LETTERS, bits)

    def _first_of(self, order: bytes, bits: np.ndarray[Any, Any]) -> list[int]:
        for byte in order:
            token = self._grammars.byte_tokens.get(byte, -1)
            if token >= 0 and bits[token]:
                return [token]
        return [int(token) for token in np.flatnonzero(bits)[:1]]

    def _search(self, matcher: LLMatcher) -> list[int] | None:
        """Find characters after which the string closes: the first letter that goes each time, or fewer if that is far.

        Without any, a large minLength say, the string is gone through one character at a time.
        """
        plain = self._follow(matcher.deep_copy())
        if plain is None or len(plain) > _SHORT_DETOUR:
            plain = self._spread(matcher) or plain
        if plain is None:
            self._failures += 1
        return plain

    def _follow(self, matcher: LLMatcher) -> list[int] | None:
        quote = self._grammars.byte_tokens[_QUOTE]
        taken: list[int] = []
        while len(taken) < _MAX_DETOUR:
            bits = token_mask(matcher, self._grammars.vocab_size)
            if bits[quote] and taken:
                return [*taken, quote]
            taken += self._first_of(_LETTERS, bits)
            if not taken or not matcher.consume_token(taken[-1]):
                return None
        return None

    def _spread(self, matcher: LLMatcher) -> list[int] | None:
        """Go level by level; states are told apart by what may follow and by the punctuation that led there."""
        quote = self._grammars.byte_tokens[_QUOTE]
        letters = [(self._grammars.byte_tokens.get(byte, -1), byte) for byte in _FEW_LETTERS]
        paths: list[tuple[LLMatcher, list[int], bytes]] = [(matcher, [], b"")]
        last = min(self._copies + _MAX_COPIES, _ALL_COPIES)
        for _ in range(_SHORT_DETOUR):
            level: dict[tuple[bytes, bytes], tuple[LLMatcher, list[int], bytes]] = {}
            for at, taken, marks in paths:
                bits = token_mask(at, self._grammars.vocab_size)
                if taken and bits[quote]:
                    return [*taken, quote]
                for token, byte in letters:
                    if token >= 0 and bits[token] and len(level) < _MAX_PATHS and self._copies < last:
                        after = at.deep_copy()
                        self._copies += 1
                        if after.consume_token(token):
                            more = marks if chr(byte).isalnum() else marks + bytes([byte])
                            level.setdefault((after.compute_bitmask(), more), (after, [*taken, token], more))
            paths = list(level.values())
        return None


def token_mask(matcher: LLMatcher, vocab_size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return 1 for every token that may come next, uint8 [V]."""
    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    return np.unpackbits(bits, count=vocab_size, bitorder="little")
