"""LoRA: unchanged at the start, merged equals on, over quantised weights too, and PEFT's files both ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cpmv.errors import CheckpointError, CpmvError
from cpmv.model.adapter import load_adapter, read_adapter, save_adapter
from cpmv.model.config import ModelConfig
from cpmv.model.lora import (
    LoraConfig,
    LoRALinear,
    apply_lora,
    disabled,
    find_targets,
    fold,
    lora_layers,
    lora_parameters,
    merge,
    unmerge,
)
from cpmv.model.minicpmv import MiniCPMV
from cpmv.weights import checkpoint, hub

GOLDEN = Path(__file__).parents[1] / "golden"
PEFT = Path(__file__).parent / "peft_adapter"  # written by PEFT 0.21.2 over golden/tiny_a, with what it computed
IDS = torch.arange(5, 21)


@pytest.fixture
def network(tiny_config: ModelConfig) -> MiniCPMV:
    """The reference data's checkpoint, one of its own: these tests change it."""
    with torch.device("meta"):
        network = MiniCPMV(tiny_config)
    tensors = {k: v.float() for f in sorted((GOLDEN / "tiny_a").glob("*.safetensors")) for k, v in load_file(f).items()}
    network.load_state_dict(tensors, assign=True, strict=True)
    return network.eval()


def logits(model: MiniCPMV) -> torch.Tensor:
    with torch.no_grad():
        return model(model.embed_tokens(IDS)[None])[0].float()


def trained(model: MiniCPMV, config: LoraConfig | None = None) -> MiniCPMV:
    """Put adapters on the model and give them some weights."""
    apply_lora(model, config or LoraConfig(rank=4, alpha=8))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lora_parameters(model):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def released(name: str) -> MiniCPMV:
    return checkpoint.load(hub.resolve(GOLDEN / name), device="cpu", dtype="float32").model


def test_a_fresh_adapter_changes_nothing_and_only_it_can_learn(network: MiniCPMV) -> None:
    before = logits(network)
    names = apply_lora(network, LoraConfig(rank=4))
    assert torch.equal(logits(network), before)
    learns = [name for name, p in network.named_parameters() if p.requires_grad]
    assert len(learns) == 2 * len(names) and all(".lora_" in name for name in learns)
    again = released("tiny_a")
    apply_lora(again, LoraConfig(rank=4))
    for mine, theirs in zip(lora_parameters(network), lora_parameters(again), strict=True):
        assert torch.equal(mine, theirs)


def test_the_product_is_that_of_the_formula() -> None:
    base = nn.Linear(3, 2)
    layer = LoRALinear(base, rank=1, alpha=4.0)
    with torch.no_grad():
        layer.lora_A.copy_(torch.tensor([[1.0, 2.0, 3.0]]))
        layer.lora_B.copy_(torch.tensor([[10.0], [100.0]]))
    x = torch.tensor([[1.0, 0.0, 1.0]])  # A x = 4, times alpha / rank = 16
    assert torch.allclose(layer(x) - base(x), torch.tensor([[160.0, 1600.0]]))


def test_merged_unmerged_and_folded_give_equal_logits(network: MiniCPMV) -> None:
    trained(network)
    on = logits(network)
    with disabled(network):
        off = logits(network)
    assert (on - off).abs().max() > 1e-3
    merge(network)
    torch.testing.assert_close(logits(network), on, rtol=0, atol=1e-5)
    unmerge(network)
    assert torch.equal(logits(network), on)
    assert fold(network) > 0 and not lora_layers(network)
    torch.testing.assert_close(logits(network), on, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["tiny_int4", "tiny_awq"])
def test_over_quantised_weights_the_base_stays_and_the_merge_is_equal(name: str) -> None:
    model = released(name)
    stored = {key: buffer.clone() for key, buffer in model.named_buffers()}
    before = logits(model)
    trained(model)
    layers = lora_layers(model)
    assert any(hasattr(layer.base_layer, "dequantize") for layer in layers.values())
    on = logits(model)
    assert (on - before).abs().max() > 1e-3
    now = {key.replace("base_layer.", ""): buffer for key, buffer in model.named_buffers()}
    assert all(torch.equal(now[key], buffer) for key, buffer in stored.items())
    # Both sides in float32, where quantised weights are exact: no rounding to the stored dtype in between.
    for layer in layers.values():
        if hasattr(layer.base_layer, "stored_dtype"):
            layer.base_layer.stored_dtype = torch.float32
    with torch.no_grad():
        for layer in layers.values():
            x = torch.linspace(-1, 1, layer.in_features)[None]
            torch.testing.assert_close(layer.as_linear()(x), layer(x), rtol=1e-4, atol=1e-4)


def test_gradients_flow_through_a_quantised_base_to_the_adapters_below() -> None:
    model = released("tiny_int4")
    apply_lora(model, LoraConfig(rank=2, targets=("q_proj",)))
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.lora_B.fill_(0.01)
    model(model.embed_tokens(IDS)[None]).float().square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in lora_parameters(model))


def test_dropout_acts_only_in_training_and_follows_the_seed(network: MiniCPMV) -> None:
    trained(network, LoraConfig(rank=4, alpha=8, dropout=0.5))
    still = logits(network)
    network.train()
    torch.manual_seed(0)
    first, second = logits(network), logits(network)
    torch.manual_seed(0)
    assert torch.equal(logits(network), first)
    assert not torch.equal(first, second) and not torch.equal(first, still)


@pytest.mark.parametrize(
    ("targets", "accepts"),
    [
        (("language",), lambda name: name.startswith("llm.model.layers.")),
        (("q_proj", "v_proj"), lambda name: name.startswith("llm.") and name.endswith(("q_proj", "v_proj"))),
        (("vision",), lambda name: name.startswith("vpm.encoder.layers.")),
        (("resampler",), lambda name: name.startswith("resampler.")),
        (("vpm.encoder.layers.0",), lambda name: name.startswith("vpm.encoder.layers.0.")),
        ((r"llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj)",), lambda name: name.endswith((".q_proj", ".k_proj"))),
        (("all",), lambda name: True),
    ],
)
def test_targets_choose_by_part_by_name_or_by_expression(
    network: MiniCPMV, targets: tuple[str, ...], accepts: Callable[[str], bool]
) -> None:
    found = find_targets(network, targets)
    assert found and all(accepts(name) for name in found)


def test_mistakes_are_named(network: MiniCPMV, tmp_path: Path) -> None:
    with pytest.raises(CpmvError, match="no linear is named 'query_proj'; choose of language"):
        find_targets(network, ("query_proj",))
    with pytest.raises(CpmvError, match="rank is 0"):
        LoraConfig(rank=0)
    with pytest.raises(CpmvError, match="no adapter to save"):
        save_adapter(network, tmp_path)
    apply_lora(network, LoraConfig())
    with pytest.raises(CpmvError, match="carries an adapter already"):
        apply_lora(network, LoraConfig())


def test_a_saved_adapter_loads_to_the_same_logits(network: MiniCPMV, tmp_path: Path) -> None:
    trained(network)
    with torch.no_grad():
        network.resampler.query.add_(1.0)
    save_adapter(network, tmp_path, base_model="openbmb/MiniCPM-V-4_5", full=("resampler",))
    other = released("tiny_a")
    names = load_adapter(other, tmp_path)
    assert set(names) == set(lora_layers(network))
    assert torch.equal(logits(other), logits(network))
    assert torch.equal(other.resampler.query, network.resampler.query)
    assert not any(p.requires_grad for p in other.parameters())


def test_the_files_have_pefts_names(network: MiniCPMV, tmp_path: Path) -> None:
    names = apply_lora(network, LoraConfig(rank=4, alpha=8, targets=("q_proj", "down_proj")))
    save_adapter(network, tmp_path)
    keys = set(load_file(tmp_path / "adapter_model.safetensors"))
    theirs = {key for key in load_file(PEFT / "adapter_model.safetensors") if ".lora_" in key}
    assert keys == theirs
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    reference = json.loads((PEFT / "adapter_config.json").read_text())
    assert set(config) <= set(reference) | {"peft_version"}
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 8)
    # A string is an expression over whole names: it must choose these linears and no others, here and there.
    again = released("tiny_a")
    assert find_targets(again, (config["target_modules"],)) == names


def test_an_adapter_written_by_peft_computes_what_peft_computed(network: MiniCPMV) -> None:
    expected = load_file(PEFT / "expected.safetensors")
    load_adapter(network, PEFT)
    layer = next(iter(lora_layers(network).values()))
    assert (layer.rank, layer.alpha, layer.dropout) == (2, 6.0, 0.1)
    with torch.no_grad():
        found = network(network.embed_tokens(expected["ids"])[None])[0, -2:]
        post = network.resampler.ln_post(torch.linspace(-1, 1, network.config.resampler.embed_dim)[None])
    torch.testing.assert_close(found, expected["logits"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(post, expected["ln_post"], rtol=1e-6, atol=1e-6)


def test_peft_reads_what_is_written_here(network: MiniCPMV, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    trained(network)
    with torch.no_grad():
        network.resampler.query.add_(1.0)
    save_adapter(network, tmp_path, full=("resampler",))
    wrapped = peft.PeftModel.from_pretrained(released("tiny_a"), tmp_path)
    torch.testing.assert_close(logits(wrapped.get_base_model()), logits(network), rtol=1e-5, atol=1e-5)
    query = dict(wrapped.named_parameters())["base_model.model.resampler.modules_to_save.default.query"]
    assert torch.equal(query, network.resampler.query)


def copied(tmp_path: Path, **changes: object) -> Path:
    """PEFT's adapter with changes to its configuration."""
    config = json.loads((PEFT / "adapter_config.json").read_text()) | changes
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes((PEFT / "adapter_model.safetensors").read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "has use_dora = True, which is not supported"),
        ({"use_rslora": True}, "has use_rslora = True"),
        ({"bias": "all"}, "has bias = 'all'"),
        ({"peft_type": "IA3"}, "is a 'IA3' adapter; only LORA"),
        ({"init_lora_weights": "pissa"}, "began as 'pissa', beside a changed base"),
    ],
)
def test_adapters_of_other_methods_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_adapter(copied(tmp_path, **changes))


def test_damaged_or_foreign_adapters_leave_the_model_as_it_was(network: MiniCPMV, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no adapter_config.json"):
        load_adapter(network, tmp_path)
    copied(tmp_path)
    tensors = load_file(PEFT / "adapter_model.safetensors")
    first = "base_model.model.llm.model.layers.0.self_attn.q_proj.lora_A.weight"
    for broken, message in (
        ({**tensors, first: tensors[first][:, :8].contiguous()}, "it was trained on another model"),
        ({k: v for k, v in tensors.items() if k != first}, "do not fit together"),
        ({k.replace("layers.1", "layers.9"): v for k, v in tensors.items()}, "which this model lacks"),
        ({**tensors, "base_model.model.resampler.query": torch.zeros(1, 2)}, "brings resampler.query"),
    ):
        save_file(broken, tmp_path / "adapter_model.safetensors")
        with pytest.raises(CheckpointError, match=message):
            load_adapter(network, tmp_path)
    assert not lora_layers(network)
    (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a pickle, which is never loaded"):
        load_adapter(network, tmp_path)


def test_the_engine_and_the_plain_loop_answer_with_the_adapter(tmp_path: Path) -> None:
    """A small model's decoder is converted for the engine: the adapter must be in it."""
    import cpmv
    from cpmv.engine.generate import generate

    save_adapter(trained(released("tiny_int4"), LoraConfig(rank=4, alpha=32)), tmp_path)
    plain = cpmv.load(GOLDEN / "tiny_int4")
    model = cpmv.load(GOLDEN / "tiny_int4", adapter=tmp_path)
    inputs = model.processor([{"role": "user", "content": "hello there"}])
    params = cpmv.SamplingParams(temperature=0.0, max_new_tokens=12)
    through_engine = model.generate(inputs, params)
    by_the_loop = generate(model.network, model.tokenizer, inputs, params)
    assert through_engine.token_ids == by_the_loop.token_ids
    assert through_engine.token_ids != plain.generate(inputs, params).token_ids
    with pytest.raises(CheckpointError, match="carries an adapter; cpmv merge"):
        model.save(tmp_path / "out")
