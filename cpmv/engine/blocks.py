"""Who owns which block of the key-value cache, and which finished blocks can be shared. No tensors here.

A block holds `block_size` consecutive positions of one sequence. Once full it is known by a key that names everything
its content depends on: the tokens and pictures from the sequence's beginning to the block's end. A sequence that
begins alike takes the same blocks instead of computing them. Blocks that nobody owns keep their content until the
space is needed; the least recently used go first, ends of sequences before beginnings.
"""

from __future__ import annotations

import array
import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """`num_blocks` blocks with reference counts. Every method is O(blocks concerned)."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"a cache of {num_blocks} blocks of {block_size} tokens is empty; give at least 1 of each")
        self.num_blocks, self.block_size = num_blocks, block_size
        self._owners = [0] * num_blocks
        self._keys: list[bytes | None] = [None] * num_blocks
        self._by_key: dict[bytes, int] = {}
        self._blank = list(range(num_blocks - 1, -1, -1))  # unowned, without content worth keeping
        self._cached: OrderedDict[int, None] = OrderedDict()  # unowned, with a key; least recently used first

    @property
    def num_free(self) -> int:
        """Blocks that can be had, cached ones included."""
        return len(self._blank) + len(self._cached)

    @property
    def num_cached(self) -> int:
        """Unowned blocks whose content can still be taken."""
        return len(self._cached)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks hold so many tokens."""
        return -(-num_tokens // self.block_size)

    def match(self, keys: Sequence[bytes]) -> list[int]:
        """Find the blocks of the longest known beginning of `keys`, without owning them."""
        found = []
        for key in keys:
            block = self._by_key.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def num_unowned(self, blocks: Iterable[int]) -> int:
        """How many of these would stop being free if they were shared."""
        return sum(self._owners[block] == 0 for block in blocks)

    def share(self, blocks: Iterable[int]) -> None:
        """Own blocks that `match` found."""
        for block in blocks:
            self._cached.pop(block, None)
            self._owners[block] += 1

    def take(self, count: int) -> list[int] | None:
        """Own `count` fresh blocks, forgetting cached ones where needed; None, and no change, when there are not."""
        if count > self.num_free:
            return None
        taken = []
        for _ in range(count):
            if self._blank:
                block = self._blank.pop()
            else:
                block, _ = self._cached.popitem(last=False)
                self._forget(block)
            self._owners[block] = 1
            taken.append(block)
        return taken

    def release(self, blocks: Sequence[int]) -> None:
        """Give up one's share of a sequence's blocks, given from its beginning to its end."""
        for block in reversed(blocks):
            assert self._owners[block] > 0, f"block {block} is released but nobody owns it"
            self._owners[block] -= 1
            if self._owners[block] == 0:
                if self._keys[block] is None:
                    self._blank.append(block)
                else:
                    self._cached[block] = None

    def publish(self, block: int, key: bytes) -> None:
        """Let others take a full, owned block by its key. A second block of the same content stays private."""
        assert self._owners[block] > 0 and self._keys[block] is None
        if key not in self._by_key:
            self._keys[block] = key
            self._by_key[key] = block

    def forget_all(self) -> None:
        """Forget all shared content, as when the weights have changed. Owned blocks stay owned, but private."""
        for key, block in list(self._by_key.items()):
            assert self._keys[block] == key
            self._forget(block)
        self._blank.extend(self._cached)
        self._cached.clear()

    def _forget(self, block: int) -> None:
        key = self._keys[block]
        if key is not None:
            del self._by_key[key]
            self._keys[block] = None

    def check_integrity(self, owned: Iterable[Sequence[int]]) -> None:
        """Assert that the sequences' block lists explain every reference, and that no block is lost or kept twice."""
        counts = [0] * self.num_blocks
        for blocks in owned:
            assert len(set(blocks)) == len(blocks), f"a sequence holds a block twice: {blocks}"
            for block in blocks:
                counts[block] += 1
        assert counts == self._owners, "the owners of blocks do not add up"
        blank, cached = set(self._blank), set(self._cached)
        assert len(blank) == len(self._blank) and not blank & cached, "a free block is listed twice"
        for block, count in enumerate(counts):
            assert (count == 0) == (block in blank or block in cached), f"block {block} is lost or free while owned"
            key = self._keys[block]
            assert key is None or self._by_key[key] == block, f"block {block} is known by a key that names another"
            assert (key is None) == (block not in cached) or count > 0, f"block {block} is in the wrong free list"
        assert len(self._by_key) == sum(key is not None for key in self._keys), "a key names no block"


class BlockKeys:
    """The keys of one sequence's full blocks, made as the sequence grows.

    bounds: half-open ranges of positions that show pictures; media: what each shows (a digest of its content). Inside
    a range the picture counts instead of the placeholder's id.
    """

    def __init__(self, block_size: int, bounds: Sequence[tuple[int, int]] = (), media: Sequence[str] = ()) -> None:
        assert len(bounds) == len(media)
        self._block_size = block_size
        self._media = list(zip(bounds, media, strict=True))
        self._next_media = 0
        self.keys: list[bytes] = []

    def extend(self, tokens: Sequence[int]) -> list[bytes]:
        """Return the keys of all full blocks of `tokens`, which begin with the tokens of the last call."""
        size = self._block_size
        while (len(self.keys) + 1) * size <= len(tokens):
            start = len(self.keys) * size
            digest = hashlib.blake2b(self.keys[-1] if self.keys else b"", digest_size=16)
            digest.update(array.array("q", tokens[start : start + size]).tobytes())
            self._add_media(digest, start, start + size)
            self.keys.append(digest.digest())
        return self.keys

    def _add_media(self, digest: hashlib.blake2b, start: int, end: int) -> None:
        at = self._next_media
        while at < len(self._media) and self._media[at][0][0] < end:
            (first, last), content = self._media[at]
            digest.update(f"{first - start} {last - start} {content};".encode())
            if last > end:
                break  # the next block sees it again
            at += 1
        self._next_media = at
