"""The decoder against the reference; cache, padding and rotary scaling."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import GOLDEN
from safetensors.torch import load_file

from cpmv.errors import CheckpointError
from cpmv.model.attention import attention, causal_mask
from cpmv.model.config import ModelConfig
from cpmv.model.layers import Embedding, Linear, rotary_frequencies
from cpmv.model.minicpmv import MiniCPMV

DATA = load_file(GOLDEN / "llm.safetensors")
CPU = torch.device("cpu")


def embeddings(network: MiniCPMV, name: str) -> torch.Tensor:
    return network.llm.model.embed_tokens(DATA[f"{name}.input_ids"].long())


@pytest.mark.parametrize("name", ["short", "long"])
@torch.inference_mode()
def test_logits_and_hidden_states_equal_the_reference(tiny_network: MiniCPMV, name: str) -> None:
    first: list[torch.Tensor] = []
    hook = tiny_network.llm.model.layers[0].register_forward_hook(lambda m, a, out: first.append(out))
    x = embeddings(tiny_network, name)
    hidden = tiny_network.llm.model(x, torch.arange(x.shape[1])[None])
    hook.remove()
    logits = tiny_network.llm.head(hidden)[0]
    expected = DATA[f"{name}.logits"]
    torch.testing.assert_close(logits[-len(expected) :], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(first[0][0, -4:], DATA[f"{name}.hidden_1"], atol=1e-4, rtol=0)
    torch.testing.assert_close(hidden[0, -4:], DATA[f"{name}.hidden_last"], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_left_padding_equals_the_reference(tiny_network: MiniCPMV) -> None:
    mask = DATA["leftpad.attention_mask"].bool()
    logits = tiny_network(embeddings(tiny_network, "leftpad"), attention_mask=mask)[:, -1]
    torch.testing.assert_close(logits, DATA["leftpad.logits_last"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("cuts", [(150,), (1, 150), (50, 51, 149, 150)])
@torch.inference_mode()
def test_prefill_in_chunks_with_a_cache_equals_whole(tiny_network: MiniCPMV, cuts: tuple[int, ...]) -> None:
    x = embeddings(tiny_network, "long")
    cache = tiny_network.new_cache(1, 4)  # too small on purpose: it grows
    parts = [tiny_network(x[:, a:b], cache=cache) for a, b in zip((0, *cuts), cuts, strict=False)]
    torch.testing.assert_close(torch.cat(parts, dim=1), tiny_network(x), atol=2e-5, rtol=0)
    assert cache.length == 150


@torch.inference_mode()
def test_a_reordered_cache_continues_other_rows(tiny_network: MiniCPMV) -> None:
    x = embeddings(tiny_network, "leftpad")
    cache = tiny_network.new_cache(2, 32)
    tiny_network(x[:, :6], cache=cache)
    cache.reorder(torch.tensor([1, 1, 0]))
    rows = x[[1, 1, 0], 6:]
    torch.testing.assert_close(tiny_network(rows, cache=cache), tiny_network(x)[[1, 1, 0], 6:], atol=2e-5, rtol=0)


def test_causal_mask_lets_padded_rows_see_themselves_only() -> None:
    mask = causal_mask(torch.tensor([[False, True, True]]), 3, 0, CPU)
    assert mask is not None
    assert mask[0, 0].tolist() == [[True, False, False], [False, True, False], [False, True, True]]
    assert causal_mask(None, 1, 9, CPU) is None and causal_mask(None, 4, 0, CPU) is None


def test_attention_equals_its_definition() -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, h, 5, 8, generator=g) for h in (4, 2, 2))
    weights = (q @ k.repeat_interleave(2, 1).transpose(-1, -2) * 0.3).masked_fill(
        ~torch.ones(5, 5, dtype=torch.bool).tril(), -torch.inf
    )
    expected = weights.softmax(-1) @ v.repeat_interleave(2, 1)
    torch.testing.assert_close(attention(q, k, v, scale=0.3, causal=True), expected)
    torch.testing.assert_close(
        attention(q, k, v, scale=0.3, mask=torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()), expected
    )


@pytest.mark.parametrize("bias", [True, False])
def test_a_weight_stored_in_16_bit_runs_in_the_activations_dtype(bias: bool) -> None:
    layer = Linear(64, 48, bias=bias)
    x = torch.randn(3, 64)
    stored = Linear(64, 48, bias=bias)
    stored.load_state_dict({k: v.bfloat16() for k, v in layer.state_dict().items()}, assign=True)
    exact = torch.nn.functional.linear(x, stored.weight.float(), None if not bias else stored.bias.float())
    torch.testing.assert_close(stored(x), exact)
    table = Embedding(5, 4).to(torch.float16)
    assert table.rows(torch.tensor([1, 4]), torch.float32).dtype is torch.float32


def test_rope_scaling_is_read_and_an_unknown_kind_is_refused(tiny_config: ModelConfig) -> None:
    config = tiny_config.language
    plain, one = rotary_frequencies(config, CPU)
    linear, _ = rotary_frequencies(dataclasses.replace(config, rope_scaling={"type": "linear", "factor": 2.0}), CPU)
    torch.testing.assert_close(linear * 2, plain)
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    scaled, factor = rotary_frequencies(dataclasses.replace(config, rope_scaling=yarn), CPU)
    assert one == 1.0 and factor == pytest.approx(1.1386, abs=1e-4)
    assert scaled[0] == plain[0] and scaled[-1] == pytest.approx(plain[-1].item() / 4)
    with pytest.raises(CheckpointError, match="rope_scaling"):
        rotary_frequencies(dataclasses.replace(config, rope_scaling={"rope_type": "other"}), CPU)


@torch.inference_mode()
def test_half_precision_saturates_instead_of_overflowing(tiny_network: MiniCPMV) -> None:
    layer = tiny_network.llm.model.layers[0]
    half = type(layer)(tiny_network.config.language, 0).half()
    half.load_state_dict({k: v.half() for k, v in layer.state_dict().items()})
    x = torch.full((1, 2, 256), 60000.0, dtype=torch.float16)
    half.mlp.down_proj.weight.mul_(1000)
    cos, sin = tiny_network.llm.model.rotary(torch.arange(2)[None], torch.float16)
    assert torch.isfinite(half(x, cos, sin)).all()


@torch.inference_mode()
def test_compiled_equals_eager(tiny_network: MiniCPMV) -> None:
    x = embeddings(tiny_network, "short")
    position_ids = torch.arange(x.shape[1])[None]
    torch._dynamo.reset()
    compiled = torch.compile(tiny_network.llm.model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, position_ids), tiny_network.llm.model(x, position_ids), atol=2e-5, rtol=0)
    tower = torch.compile(tiny_network.vpm.encode, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 12, 96)
    torch.testing.assert_close(tower(x), tiny_network.vpm.encode(x), atol=2e-5, rtol=0)
