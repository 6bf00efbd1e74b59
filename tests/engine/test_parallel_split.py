"""The parts of a network, put together again, are the network; and plans are read as they were written."""

from __future__ import annotations

import pytest
import torch
from parallel_cases import origin
from reference_cases import read_config

from cpmv.engine.parallel_link import SplitMiniCPMV
from cpmv.engine.parallel_plan import Window
from cpmv.engine.parallel_split import _pack, split_config, split_into, words_of
from cpmv.errors import CheckpointError, CpmvError
from cpmv.model.minicpmv import MiniCPMV
from cpmv.weights import checkpoint, hub, int8, nf4
from cpmv.weights.nf4 import NF4Linear
from cpmv.weights.packed import PackedLinear


def parts_of(full: MiniCPMV, size: int) -> list[SplitMiniCPMV]:
    parts = []
    for rank in range(size):
        with torch.device("meta"):
            part = SplitMiniCPMV(split_config(full.config, size))
        split_into(part, full, rank, size, torch.device("cpu"), torch.float32)
        parts.append(part)
    return parts


@pytest.mark.parametrize("name", ["tiny_a", "tiny_awq", "tiny_int4"])
def test_parts_together_are_the_whole(name: str) -> None:
    full = checkpoint.load(hub.resolve(origin(name).source), device="cpu", dtype="float32").model
    parts = parts_of(full, 2)
    packed = 0
    for path, module in full.llm.named_modules():
        others = [part.llm.get_submodule(path) for part in parts]
        if isinstance(module, PackedLinear):
            packed += 1
            weights = [other.dequantize(torch.float32) for other in others if isinstance(other, PackedLinear)]
            whole = module.dequantize(torch.float32)
        elif isinstance(getattr(module, "weight", None), torch.Tensor):
            weights = [other.get_parameter("weight").detach() for other in others]
            whole = module.get_parameter("weight").float()
        else:
            continue
        dim = int(path.endswith(("o_proj", "down_proj")))
        found = weights[0] if whole.ndim == 1 else torch.cat(weights, dim)
        assert torch.equal(found, whole), path
    assert (packed > 0) == (name != "tiny_a")
    assert hasattr(parts[0], "vpm") and not hasattr(parts[1], "vpm")


def test_gguf_is_cut_at_its_blocks_and_nowhere_else() -> None:
    full = checkpoint.load(hub.resolve(origin("tiny_gguf").source), device="cpu", dtype="float32").model
    cut = 0
    for layer in full.llm.modules():
        if isinstance(layer, PackedLinear) and layer.in_features == 512:
            cut += 1
            whole, middle = layer.dequantize(torch.float32), layer.out_features // 2
            for columns in ((0, 256), (256, 512)):
                part = _pack("x", layer, None, columns, torch.device("cpu"))
                assert torch.equal(part.dequantize(torch.float32), whole[:, slice(*columns)])
            part = _pack("x", layer, (middle, layer.out_features), None, torch.device("cpu"))
            assert torch.equal(part.dequantize(torch.float32), whole[middle:])
    assert cut
    with pytest.raises(CheckpointError, match="o_proj cannot be cut at 0 and 128: .* blocks of 256; use fewer GPUs"):
        parts_of(full, 2)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("rows", [64, 63])
def test_nf4_is_cut_at_its_blocks_to_the_bit(double: bool, rows: int) -> None:
    torch.manual_seed(0)
    full = nf4_layer(rows, 256, double)
    whole = full.dequantize(torch.float32)
    for cut in ((0, 20), (20, rows), (3, 7)):
        part = _pack("x", full, cut, None, torch.device("cpu"))
        assert torch.equal(part.dequantize(torch.float32), whole[slice(*cut)])
    for cut in ((0, 128), (128, 256), (64, 128)):
        part = _pack("x", full, None, cut, torch.device("cpu"))
        assert torch.equal(part.dequantize(torch.float32), whole[:, slice(*cut)])
    with pytest.raises(CheckpointError, match="blocks of 64; use fewer GPUs"):
        _pack("x", full, None, (0, 96), torch.device("cpu"))
    narrow = nf4_layer(rows, 96, double)
    with pytest.raises(CheckpointError, match="rows of NF4 go together in blocks of 2"):
        _pack("x", narrow, (0, 3), None, torch.device("cpu"))
    with pytest.raises(CheckpointError, match="columns of NF4"):
        _pack("x", narrow, None, (0, 64), torch.device("cpu"))


def nf4_layer(rows: int, columns: int, double: bool) -> NF4Linear:
    tensors = nf4.quantize(torch.randn(rows, columns), double=double)
    raw = bytes(tensors.pop(f"weight.{nf4._STATE}").tolist())
    codes = tensors.pop("weight").flatten()
    named = {name.removeprefix("weight."): tensor for name, tensor in tensors.items()}
    return NF4Linear(nf4.parse_state(raw), raw, {"codes": codes, **named})


def test_int8_is_cut_anywhere() -> None:
    made = int8.quantize(torch.randn(10, 12))
    full = int8.Int8Linear(made["weight"], made["weight_scale"], torch.float32)
    whole = full.dequantize()
    assert torch.equal(_pack("x", full, (3, 10), None, torch.device("cpu")).dequantize(), whole[3:])
    part = _pack("x", full, None, (5, 12), torch.device("cpu"))
    assert torch.equal(part.dequantize(), whole[:, 5:]) and part.in_features == 7


@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_every_word_has_one_rank(size: int) -> None:
    language = read_config("tiny_a").language
    ranges = [words_of(language, rank, size) for rank in range(size)]
    assert ranges[0][0] == 0 and ranges[-1][1] == language.vocab_size
    assert all(one[1] == other[0] for one, other in zip(ranges, ranges[1:], strict=False))


def test_heads_must_divide() -> None:
    with pytest.raises(CpmvError, match="2 key-value heads cannot be shared by 4"):
        split_config(read_config("tiny_a"), 4)


def test_a_window_knows_its_own_tokens() -> None:
    window = Window(100, [7, 8, 9])
    assert window[100:102] == [7, 8] and window[102] == 9 and len(window) == 103
