"""Short steps that read prompts, recorded: a prompt of some hundred tokens, or a piece of one beside rows that decode.

Launched one by one, the kernels of such a step take the host longer than the GPU. A recording is for a bucket of
tokens, of sequences and of blocks; which sequences they are, and how long, is told by integers that go to the device in
one copy. Attention gathers the sequences' blocks and is FlashAttention over ragged rows.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..kernels import fused
from ..kernels.merge import merge_decoder
from ..model.attention import Paged, PagedRows
from ..model.cache import PagedCache, PagedPool
from ..model.language import DecoderLayer, LanguageModel
from ..model.layers import Linear
from .graphs import Capture, record_cuda_graph

log = logging.getLogger("cpmv")

MOST_TOKENS = 768  # more keep the GPU busy for longer than the host
_TOKENS = 64  # a bucket's tokens are a multiple of this
_SEQUENCES = (1, 8, 32, 96)
_LEAST_BLOCKS, _MOST_BLOCKS = 16, 4096
_MAX_GRAPHS = 32
_SEEN = 2  # a bucket is recorded when it has come so often


class Bucket(NamedTuple):
    tokens: int
    sequences: int  # and rows whose scores are asked for
    blocks: int


class Newest(NamedTuple):
    """One work's newest tokens: how many, how many keys it has with them, and its blocks."""

    num_tokens: int
    num_keys: int
    blocks: list[int]


class ChunkGraphs:
    """The buckets recorded so far. The pool's last block is where spare rows write. capture: how to record."""

    def __init__(self, decoder: LanguageModel, pool: PagedPool, capture: Capture | None = None) -> None:
        self._decoder, self._pool = decoder, pool
        self.device = pool.keys[0].device
        self._capture = capture or self._record_cuda
        self._graphs: dict[Bucket, Callable[[], None]] = {}
        self._seen: Counter[Bucket] = Counter()
        self._memory: Any = None  # that the recordings share: they never run at once
        width, words = decoder.config.hidden_size, decoder.config.vocab_size
        dtype = decoder.model.norm.weight.dtype
        self._x = torch.zeros(MOST_TOKENS, width, device=self.device, dtype=dtype)
        most = 2 * MOST_TOKENS + _MOST_BLOCKS + 4 * _SEQUENCES[-1] + 2
        self._integers = torch.zeros(most, dtype=torch.int64, device=self.device)
        self._logits = torch.zeros(_SEQUENCES[-1], words, device=self.device)

    @classmethod
    def of(cls, decoder: LanguageModel, pool: PagedPool) -> ChunkGraphs | None:
        """None where prompts are not read by the fast kernels over plain weights."""
        weight = decoder.model.norm.weight
        c = decoder.config
        if not weight.is_cuda or torch.cuda.get_device_capability(weight.device) < (8, 0):
            return None
        if not fused.available(weight.device) or weight.dtype not in fused.HALF_TYPES or c.attention_bias:
            return None
        if not fused.takes(c.num_attention_heads, c.num_key_value_heads, c.head_dim):
            return None
        if not isinstance(decoder, LanguageModel) or not all(map(_is_plain, decoder.model.layers)):
            return None
        merge_decoder(decoder)
        return cls(decoder, pool)

    def __len__(self) -> int:
        return len(self._graphs)

    def step(
        self,
        x: Tensor,
        positions: Sequence[int],
        slots: Sequence[int],
        sequences: Sequence[Newest],
        wanted: Sequence[int],
    ) -> Tensor | None:
        """Compute a packed row x [N, E]; return float32 logits of its rows `wanted`, [R, V], or None: do it eagerly."""
        bucket = self._bucket(len(x), sequences, wanted)
        if bucket is None:
            return None
        self._seen[bucket] += 1
        known = bucket in self._graphs
        if not known and (self._seen[bucket] < _SEEN or len(self._graphs) >= _MAX_GRAPHS):
            return None
        integers = self._lay_out(bucket, positions, slots, sequences, wanted)
        self._integers[: len(integers)].copy_(torch.tensor(integers, dtype=torch.int64), non_blocking=True)
        self._x[: len(x)] = x
        if not known and not self._record(bucket):
            return None
        self._graphs[bucket]()
        return self._logits[: len(wanted)].clone()

    def _bucket(self, num_tokens: int, sequences: Sequence[Newest], wanted: Sequence[int]) -> Bucket | None:
        num_sequences = max(len(sequences), len(wanted))
        num_blocks = sum(len(one.blocks) for one in sequences)
        if not 1 < num_tokens <= MOST_TOKENS or num_sequences > _SEQUENCES[-1] or num_blocks > _MOST_BLOCKS:
            return None
        blocks = max(_LEAST_BLOCKS, 1 << (num_blocks - 1).bit_length())
        room = next(room for room in _SEQUENCES if room >= num_sequences)
        return Bucket(-(-num_tokens // _TOKENS) * _TOKENS, room, blocks)

    def _lay_out(
        self,
        bucket: Bucket,
        positions: Sequence[int],
        slots: Sequence[int],
        sequences: Sequence[Newest],
        wanted: Sequence[int],
    ) -> list[int]:
        """The integers of a step, in the order in which `_run` reads them."""
        block_size = self._pool.keys[0].shape[1]
        scratch = self._pool.keys[0].shape[0] - 1
        spare = bucket.tokens - len(positions)
        queries, keys, counts, blocks = [0], [0], [], list[int]()
        for one in sequences:
            queries.append(queries[-1] + one.num_tokens)
            blocks += one.blocks
            keys.append(len(blocks) * block_size)
            counts.append(one.num_keys)
        absent = bucket.sequences - len(sequences)
        found = [*positions, *[0] * spare, *slots, *[scratch * block_size] * spare]
        found += [*blocks, *[scratch] * (bucket.blocks - len(blocks))]
        found += [*wanted, *[0] * (bucket.sequences - len(wanted))]
        found += [*queries, *[queries[-1]] * absent, *keys, *[keys[-1]] * absent, *counts, *[0] * absent]
        return found

    def _run(self, bucket: Bucket) -> None:
        tokens, count, blocks = bucket
        sizes = [tokens, tokens, blocks, count, count + 1, count + 1, count]
        positions, slots, table, rows, *told = self._integers[: sum(sizes)].split(sizes)
        queries, keys, num_keys = (one.to(torch.int32) for one in told)
        mask = Paged((), PagedRows(queries, table, keys, num_keys, tokens))
        cache = PagedCache(self._pool, slots)
        hidden = self._decoder.model(self._x[None, :tokens], positions[None], mask, cache, rows)[0]
        self._logits[:count].copy_(self._decoder.head(hidden))

    def _record(self, bucket: Bucket) -> bool:
        try:
            self._graphs[bucket] = self._capture(lambda: self._run(bucket))
        except RuntimeError as error:  # a lack of memory too: the step itself may still fit
            self._seen[bucket] = -(1 << 62)
            log.warning("short prompts cannot be recorded as CUDA graphs and run eagerly, slower: %s", error)
            return False
        log.info("recorded a step of %d tokens, %d sequences and %d blocks", *bucket)
        return True

    def _record_cuda(self, run: Callable[[], None]) -> Callable[[], None]:
        if self._memory is None:
            self._memory = torch.cuda.graph_pool_handle()
        return record_cuda_graph(run, self._memory)


def _is_plain(layer: Any) -> bool:
    assert isinstance(layer, DecoderLayer)
    attention, mlp = layer.self_attn, layer.mlp
    dtype = layer.input_layernorm.weight.dtype
    parts = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    parts += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    return all(type(part) is Linear and part.weight.dtype == dtype for part in parts)
