"""The fused decoder against the plain one: kernels interpreted on the CPU, a small random model, steps and answers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels"))
from interpret import interpreted

from cpmv.engine.fused import FusedDecoder, fuse
from cpmv.kernels.attention import Split
from cpmv.model.attention import Paged, PagedGroup
from cpmv.model.cache import PagedCache, PagedPool
from cpmv.model.config import LanguageConfig
from cpmv.model.language import LanguageModel

BLOCK, WIDTH = 8, 6


def random_decoder(dtype: torch.dtype, *, tied: bool = False, bias: bool = False) -> LanguageModel:
    torch.manual_seed(5)
    config = LanguageConfig(
        vocab_size=300,
        hidden_size=96,
        intermediate_size=160,
        num_hidden_layers=1,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        max_position_embeddings=64,
        attention_bias=bias,
        tie_word_embeddings=tied,
        scale_emb=2.0 if tied else 1.0,
    )
    decoder = LanguageModel(config).requires_grad_(False)
    for name, parameter in decoder.named_parameters():
        parameter.normal_(1.0 if "norm" in name else 0.0, 0.2 if "norm" in name else 0.06)
    return decoder.to(dtype).eval()


def random_pool(decoder: LanguageModel) -> PagedPool:
    config = decoder.config
    from cpmv.model.cache import CacheSpec

    spec = CacheSpec(
        config.num_hidden_layers, config.num_key_value_heads, config.head_dim, decoder.model.norm.weight.dtype
    )
    pool = PagedPool(spec, 40, BLOCK, "cpu")
    for tensor in pool.keys + pool.values:
        tensor.normal_()
    return pool


def plain_step(decoder: LanguageModel, pool: PagedPool, ids: Tensor, position: Tensor, table: Tensor) -> Tensor:
    rows = ids.shape[0]
    slots = table.gather(1, (position // BLOCK)[:, None])[:, 0] * BLOCK + position % BLOCK
    mask = (torch.arange(WIDTH * BLOCK) <= position[:, None])[:, None, None]
    group = PagedGroup(0, rows, 1, table.flatten(), WIDTH * BLOCK, mask)
    x = decoder.model.embed_tokens(ids)[None] * decoder.config.scale_emb
    hidden = decoder.model(x, position[None], Paged((group,)), PagedCache(pool, slots))[0]
    return decoder.head(hidden).float()


def check_steps(dtype: torch.dtype, rows: int, tolerance: float, **options: bool) -> None:
    decoder = random_decoder(dtype, **options)
    pool = random_pool(decoder)
    other = PagedPool.__new__(PagedPool)
    other.keys, other.values = ([t.clone() for t in held] for held in (pool.keys, pool.values))
    fused = FusedDecoder(decoder, other)
    table = torch.randperm(39)[: rows * WIDTH].view(rows, WIDTH)
    position = torch.tensor([0, 7, 8, 33, 17][:rows])
    ids = torch.randint(0, 300, (rows,))
    logits, chosen = torch.zeros(rows, 300), ids.clone()
    for step in range(2):
        expected = plain_step(decoder, pool, ids, position, table)
        # The first step is told its ids, the others read on from what was chosen.
        given = ids if step == 0 else torch.full_like(ids, -1)
        fused.step(given, position, table, logits, chosen, config=Split((1, 4)[step], 16))
        worst = ((logits - expected).abs().max() / expected.abs().max()).item()
        print(f"{dtype} {rows} rows, step {step}: worst relative error {worst:.1e}")
        assert worst <= tolerance
        assert torch.equal(chosen, logits.argmax(-1))
        for ours, theirs in zip(other.keys + other.values, pool.keys + pool.values, strict=True):
            assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()
        ids, position = chosen.clone(), position + 1


@interpreted
def test_steps_equal_the_plain_decoders() -> None:
    check_steps(torch.float32, 1, 2e-5)
    check_steps(torch.float32, 4, 2e-5)


@interpreted
def test_tied_scaled_and_biased_decoders_are_taken() -> None:
    check_steps(torch.float32, 2, 2e-5, tied=True, bias=True)


@interpreted
def test_steps_in_float16_stay_within_its_rounding() -> None:
    check_steps(torch.float16, 3, 5e-3)


@interpreted
def test_recorded_steps_answer_as_the_plain_loop() -> None:
    from conftest import GOLDEN, MiniCPMV, load_file, read_config
    from reference_cases import CASES, TOKENIZER, prompt
    from test_graphs import GREEDY, run_again

    from cpmv.engine.engine import Engine
    from cpmv.engine.graphs import DecodeGraphs

    with torch.device("meta"):
        network = MiniCPMV(read_config("tiny_a"))
    tensors = {k: v.float() for f in sorted((GOLDEN / "tiny_a").glob("*.safetensors")) for k, v in load_file(f).items()}
    network.load_state_dict(tensors, assign=True, strict=True)
    engine = Engine(network.eval(), TOKENIZER, max_batch=2, block_size=8)
    runner = engine._runner
    fused = fuse(runner._decoder, runner._pool)
    assert fused is not None
    runner.graphs = DecodeGraphs(network, runner._decoder, runner._pool, 2, run_again, fused)
    key = "text.fast"
    output = engine.wait(engine.add(prompt(key), GREEDY.replace(max_new_tokens=5)))
    assert output.token_ids == CASES[key]["greedy"][:5]
    assert len(runner.graphs) > 0 and runner.graphs._fused is fused


def test_without_kernels_nothing_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = random_decoder(torch.float32)
    assert fuse(decoder, random_pool(decoder)) is None  # a CPU, and nobody interprets
