"""The cache's bookkeeping: blocks are never lost, shared wrongly or kept twice, and content goes by its key."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cpmv.engine.blocks import BlockKeys, BlockPool

SIZE = 2


class Pool(RuleBasedStateMachine):
    """Sequences that grow, share, publish and end, against a model of what every block was last filled with."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(7, SIZE)
        self.sequences: list[tuple[list[int], list[int]]] = []  # tokens, blocks
        self.content: dict[int, tuple[int, ...]] = {}  # block -> all tokens up to its end

    def keys(self, tokens: list[int]) -> list[bytes]:
        return BlockKeys(SIZE).extend(tokens)

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=8))
    def begin(self, tokens: list[int]) -> None:
        keys = self.keys(tokens)[: (len(tokens) - 1) // SIZE]
        shared = self.pool.match(keys)
        for at, block in enumerate(shared):
            assert self.content[block] == tuple(tokens[: (at + 1) * SIZE]), "a block of other content was found"
        fresh = self.pool.blocks_for(len(tokens)) - len(shared)
        room = self.pool.num_free - self.pool.num_unowned(shared)
        self.pool.share(shared)
        taken = self.pool.take(fresh)
        assert (taken is None) == (fresh > room)
        if taken is None:
            self.pool.release(shared)
            return
        blocks = shared + taken
        for at in range(len(shared), len(tokens) // SIZE):
            self.content[blocks[at]] = tuple(tokens[: (at + 1) * SIZE])
            self.pool.publish(blocks[at], self.keys(tokens)[at])
        for block in taken[len(tokens) // SIZE - len(shared) :]:
            self.content.pop(block, None)
        self.sequences.append((tokens, blocks))

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def grow(self, data: st.DataObject) -> None:
        tokens, blocks = data.draw(st.sampled_from(self.sequences))
        before = self.pool.num_free
        taken = self.pool.take(1)
        assert (taken is None) == (before == 0)
        if taken is not None:
            blocks += taken
            self.content.pop(taken[0], None)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        _, blocks = self.sequences.pop(data.draw(st.integers(0, len(self.sequences) - 1)))
        self.pool.release(blocks)

    @rule()
    def forget(self) -> None:
        self.pool.forget_all()
        assert self.pool.num_cached == 0

    @invariant()
    def whole(self) -> None:
        self.pool.check_integrity([blocks for _, blocks in self.sequences])
        assert self.pool.num_used + self.pool.num_free == self.pool.num_blocks
        assert self.pool.num_used == len({block for _, blocks in self.sequences for block in blocks})


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_the_ends_of_old_sequences_are_forgotten_first() -> None:
    pool = BlockPool(6, 1)
    keys = BlockKeys(1)
    for tokens in ([1, 2, 3], [7, 8, 9]):
        blocks = pool.take(3)
        assert blocks is not None
        for block, key in zip(blocks, BlockKeys(1).extend(tokens), strict=True):
            pool.publish(block, key)
        pool.release(blocks)
    assert pool.num_cached == 6 and pool.num_free == 6
    assert pool.take(2) is not None
    assert len(pool.match(keys.extend([1, 2, 3]))) == 1  # 3 and 2 went, the beginning stayed
    assert len(pool.match(BlockKeys(1).extend([7, 8, 9]))) == 3


def test_integrity_notices_a_lost_and_a_doubly_owned_block() -> None:
    pool = BlockPool(3, 1)
    blocks = pool.take(2)
    assert blocks is not None
    pool.check_integrity([blocks])
    for wrong in ([], [blocks, blocks], [blocks[:1]], [[*blocks, blocks[0]]]):
        with pytest.raises(AssertionError):
            pool.check_integrity(wrong)
    pool.release(blocks)
    with pytest.raises(AssertionError, match="nobody owns it"):
        pool.release(blocks)
    with pytest.raises(ValueError, match="0 blocks of 1 tokens is empty"):
        BlockPool(0, 1)


@given(
    tokens=st.lists(st.integers(0, 2**40), min_size=1, max_size=12),
    cut=st.integers(0, 12),
    size=st.integers(1, 4),
)
def test_keys_do_not_depend_on_how_a_sequence_grew(tokens: list[int], cut: int, size: int) -> None:
    grown = BlockKeys(size, [(1, 5)], ["a"])
    grown.extend(tokens[:cut])
    whole = BlockKeys(size, [(1, 5)], ["a"]).extend(tokens)
    assert grown.extend(tokens) == whole and len(whole) == len(tokens) // size


@settings(max_examples=200)
@given(
    one=st.tuples(st.lists(st.integers(0, 2), min_size=8, max_size=8), st.sampled_from("ab"), st.integers(0, 4)),
    other=st.tuples(st.lists(st.integers(0, 2), min_size=8, max_size=8), st.sampled_from("ab"), st.integers(0, 4)),
)
def test_equal_keys_mean_equal_tokens_and_pictures(
    one: tuple[list[int], str, int], other: tuple[list[int], str, int]
) -> None:
    """Pictures of 4 positions, beginning anywhere: a key covers exactly what lies before its block's end."""
    found = [BlockKeys(2, [(at, at + 4)], [media]).extend(tokens) for tokens, media, at in (one, other)]
    for block in range(4):
        end = 2 * (block + 1)
        seen = [(tokens[:end], (media, at) if at < end else None) for tokens, media, at in (one, other)]
        assert (found[0][block] == found[1][block]) == (seen[0] == seen[1])


def test_a_picture_that_spans_blocks_is_in_each_of_them() -> None:
    tokens = [0] * 12
    plain = BlockKeys(2).extend(tokens)
    keys = {media: BlockKeys(2, [(3, 9), (9, 11)], [media, "z"]).extend(tokens) for media in "ab"}
    assert keys["a"][0] == keys["b"][0] == plain[0]
    assert all(a != b for a, b in zip(keys["a"][1:], keys["b"][1:], strict=True))
