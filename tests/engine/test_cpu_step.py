"""Steps of few rows on a CPU against the plain decoder: batches, drafts, mixed formats, and who gets none."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cpmv.engine import cpu_step
from cpmv.engine.cpu_step import CPUStep
from cpmv.kernels import cpu_build
from cpmv.model.attention import Paged, PagedGroup
from cpmv.model.cache import CacheSpec, PagedCache, PagedPool
from cpmv.model.config import LanguageConfig
from cpmv.model.language import LanguageModel
from cpmv.model.minicpmv import MiniCPMV
from cpmv.weights import awq, cpu, nf4
from cpmv.weights.awq import AWQLinear
from cpmv.weights.nf4 import NF4Linear
from cpmv.weights.packed import PackedLinear

pytestmark = pytest.mark.skipif(cpu_build.library() is None, reason="there is no C++ compiler")
BLOCK = 4


def quantised(weight: Tensor, format: str) -> PackedLinear:
    if format == "awq":
        return AWQLinear(awq.quantize(weight, 64))
    tensors = nf4.quantize(weight, dtype=torch.float32)
    raw = tensors.pop("weight.quant_state.bitsandbytes__nf4").numpy().tobytes()
    named = {name.removeprefix("weight."): t for name, t in tensors.items() if name != "weight"}
    return NF4Linear(nf4.parse_state(raw), raw, named | {"codes": tensors["weight"].flatten()})


@pytest.fixture
def config(tiny_network: MiniCPMV) -> LanguageConfig:
    return replace(tiny_network.config.language, hidden_size=128, head_dim=32, num_attention_heads=4)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_LEAST_ELEMENTS", 1)
    monkeypatch.setattr(cpu_step, "_LEAST_WIDTH", 1)


def decoder(config: LanguageConfig, dtype: torch.dtype, formats: tuple[str, ...]) -> LanguageModel:
    """Random weights; the linears of a layer take the formats in turn, "" staying as it is."""
    torch.manual_seed(0)
    model = LanguageModel(config).to(dtype).eval().requires_grad_(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.1)
    linears = [(n, m) for n, m in model.model.layers.named_modules() if isinstance(m, nn.Linear)]
    for turn, (name, linear) in enumerate(linears):
        format = formats[turn % len(formats)]
        if format:
            path, _, leaf = name.rpartition(".")
            layer = quantised(linear.weight.detach().float(), format)
            layer.bias = linear.bias
            model.model.layers.get_submodule(path)._modules[leaf] = layer
    return model


def pool_of(config: LanguageConfig, dtype: torch.dtype) -> PagedPool:
    spec = CacheSpec(config.num_hidden_layers, config.num_key_value_heads, config.head_dim, dtype)
    pool = PagedPool(spec, 16, BLOCK, "cpu")
    for number, tensor in enumerate((*pool.keys, *pool.values)):
        tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number)))
    return pool


def step() -> tuple[tuple[PagedGroup, ...], Tensor, Tensor]:
    """Two rows that decode at 9 and 6, one alone at 13, three drafts after 5: groups, positions and slots."""
    pair = torch.tensor([1, 2, 3, 4, 5, 0])
    lengths = torch.tensor([9, 6])
    mask = (torch.arange(10) <= lengths[:, None, None])[:, None]
    drafts = (torch.arange(8) <= torch.arange(5, 8)[:, None])[None, None]
    groups = (
        PagedGroup(0, 2, 1, pair, 10, mask),
        PagedGroup(2, 1, 1, torch.tensor([6, 7, 8, 9]), 14, None),
        PagedGroup(3, 1, 3, torch.tensor([10, 11]), 8, drafts),
    )
    positions = torch.tensor([9, 6, 13, 5, 6, 7])
    slots = torch.tensor([3 * BLOCK + 1, 5 * BLOCK + 2, 9 * BLOCK + 1, 11 * BLOCK + 1, 11 * BLOCK + 2, 11 * BLOCK + 3])
    return groups, positions, slots


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("formats", [("awq",), ("nf4",), ("awq", "nf4")], ids="-".join)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-3), (torch.bfloat16, 2e-2)], ids=str)
def test_a_step_equals_the_plain_decoder(
    config: LanguageConfig, formats: tuple[str, ...], dtype: torch.dtype, tolerance: float
) -> None:
    model, pool = decoder(config, dtype, formats), pool_of(config, dtype)
    plain = copy.deepcopy(pool)
    fast = CPUStep.of(model, pool)
    assert fast is not None
    groups, positions, slots = step()
    x = torch.randn(6, config.hidden_size, generator=torch.Generator().manual_seed(9)).to(dtype)
    found = fast.run(x, positions, groups, slots)
    for module in model.modules():
        if isinstance(module, PackedLinear):
            module.kernel, module.kernel_refused = None, True
    truth = model.model(x[None], positions[None], Paged(groups), PagedCache(plain, slots))[0]
    assert found.dtype is dtype
    error = float((found.float() - truth.float()).norm() / truth.float().norm())
    assert error < tolerance, f"{error:.2e}"
    for mine, theirs in zip((*pool.keys, *pool.values), (*plain.keys, *plain.values), strict=True):
        assert float((mine.float() - theirs.float()).norm() / theirs.float().norm()) < tolerance


@pytest.mark.usefixtures("small")
def test_rows_of_a_step_do_not_see_each_other(config: LanguageConfig) -> None:
    model, pool = decoder(config, torch.float32, ("awq",)), pool_of(config, torch.float32)
    fast = CPUStep.of(model, pool)
    assert fast is not None
    groups, positions, slots = step()
    x = torch.randn(6, config.hidden_size, generator=torch.Generator().manual_seed(9))
    whole = fast.run(x, positions, groups, slots)
    alone = fast.run(x[2:3], positions[2:3], (groups[1]._replace(first=0),), slots[2:3])
    assert torch.allclose(whole[2:3], alone, atol=1e-5)


@pytest.mark.usefixtures("small")
def test_dense_16_bit_weights_may_stand_beside_quantised_ones(config: LanguageConfig) -> None:
    model, pool = decoder(config, torch.bfloat16, ("awq", "")), pool_of(config, torch.bfloat16)
    assert CPUStep.of(model, pool) is not None


def test_a_decoder_without_quantised_weights_stays_plain(config: LanguageConfig) -> None:
    assert CPUStep.of(decoder(config, torch.float32, ("",)), pool_of(config, torch.float32)) is None


def test_small_decoders_stay_plain(config: LanguageConfig) -> None:
    assert CPUStep.of(decoder(config, torch.float32, ("awq",)), pool_of(config, torch.float32)) is None
