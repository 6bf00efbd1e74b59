"""Random weights have the released dimensions and spread, load nothing, and run."""

from __future__ import annotations

import pytest
import torch

from cpmv.bench.random_model import (
    FORMATS,
    STD,
    EndlessTokenizer,
    decoder_bytes,
    random_config,
    random_model,
    random_network,
)
from cpmv.engine.sampling import SamplingParams
from cpmv.errors import CpmvError, OutOfMemoryError
from cpmv.weights.catalogue import empty_model
from cpmv.weights.packed import PackedLinear


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_weights_of_the_common_spread_and_finite_logits(format: str) -> None:
    network = random_network("tiny", format, device="cpu", dtype="float32")
    layers = [m for m in network.llm.modules() if hasattr(m, "in_features")]
    packed = [m for m in layers if isinstance(m, PackedLinear)]
    assert bool(packed) == (format not in ("bf16", "fp16", "fp32"))
    for layer in layers:
        weight = layer.dequantize() if isinstance(layer, PackedLinear) else layer.weight
        assert weight.float().std().item() == pytest.approx(STD, rel=0.2)
        assert abs(weight.float().mean().item()) < STD / 5
    with torch.inference_mode():
        logits = network(network.embed_tokens(torch.arange(6))[None])
    assert logits.isfinite().all() and logits.std() > 0.01


def test_no_two_layers_are_alike_and_a_seed_repeats_a_model() -> None:
    first, again, other = (random_network("tiny", "awq", device="cpu", seed=seed) for seed in (3, 3, 4))
    codes = [[layer.self_attn.q_proj.qweight for layer in n.llm.model.layers] for n in (first, again, other)]
    assert torch.equal(codes[0][0], codes[1][0])
    assert not torch.equal(codes[0][0], codes[0][1])
    assert not torch.equal(codes[0][0], codes[2][0])


def test_decoder_bytes_counts_what_a_step_reads() -> None:
    network = random_network("tiny", "bf16", device="cpu", dtype="float32")
    table = network.llm.model.embed_tokens.weight.nbytes
    assert decoder_bytes(network) == sum(p.nbytes for p in network.llm.parameters()) - table
    packed = decoder_bytes(random_network("tiny", "awq", device="cpu", dtype="float32"))
    head = network.llm.lm_head.weight.nbytes
    # 4 bits a weight and a scale with its zero point for 128 of them
    linears = sum(m.weight.numel() for n, m in network.llm.model.layers.named_modules() if hasattr(m, "in_features"))
    assert packed - head == pytest.approx(linears * (4 + 20 / 128) / 8, rel=0.02)


def test_an_answer_goes_on_to_its_full_length() -> None:
    model = random_model("tiny", "nf4", device="cpu")
    inputs = model.processor([{"role": "user", "content": ["hello"]}])
    output = model.generate(inputs, SamplingParams(temperature=0, max_new_tokens=9))
    assert len(output.token_ids) == 9 and output.finish_reason == "length"
    assert EndlessTokenizer.of(model.tokenizer).encode("hello") == model.tokenizer.encode("hello")


def test_the_real_scale_has_the_released_number_of_parameters() -> None:
    network = empty_model(random_config("real", "bf16"))
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(8.7e9, rel=0.01)


def test_what_cannot_be_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CpmvError, match="format 'q9'; give one of bf16"):
        random_network("tiny", "q9")
    with pytest.raises(CpmvError, match="scale 'huge'; give real or tiny"):
        random_network("huge", "bf16")
    monkeypatch.setattr("cpmv.bench.random_model.free_memory", lambda device: 1 << 20)
    with pytest.raises(OutOfMemoryError, match="choose a smaller format"):
        random_network("tiny", "bf16", device="cpu")
