"""safetensors folders: strict about names and shapes, exact about values, and unbreakable by damaged headers."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from cpmv.errors import CheckpointError, OutOfMemoryError
from cpmv.weights import checkpoint
from cpmv.weights.catalogue import Placing, empty_model, open_catalogue
from cpmv.weights.hub import Source, resolve
from cpmv.weights.packed import PackedLinear
from cpmv.weights.shards import Writable, read_header, write_shards
from cpmv.weights.stored import ReadAhead

GOLDEN = Path(__file__).parents[1] / "golden"
SHARD = "model-00001-of-00002.safetensors"
LAYER = "llm.model.layers.1.mlp.up_proj.weight"


def raw_file(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for f in sorted(folder.glob("*.safetensors")) for k, v in load_file(f).items()}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The reference data's bf16 checkpoint, to be damaged."""
    return Path(shutil.copytree(GOLDEN / "tiny_a", tmp_path / "tiny"))


def edit(folder: Path, change: Any) -> Source:
    """Replace the weights by one file after `change(tensors)`."""
    tensors = tensors_of(folder)
    change(tensors)
    for old in [*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"]:
        old.unlink(missing_ok=True)
    save_file(tensors, folder / "model.safetensors")
    return Source("folder", folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_tensor_arrives_as_stored(dtype: str) -> None:
    loaded = checkpoint.load(Source("folder", GOLDEN / "tiny_a"), device="cpu", dtype=dtype)
    stored = tensors_of(GOLDEN / "tiny_a")
    parameters = dict(loaded.model.named_parameters())
    assert set(parameters) == set(stored)
    for name, parameter in parameters.items():
        assert torch.equal(parameter, stored[name].to(getattr(torch, dtype)))
    assert loaded.format == "bf16" and str(loaded.model.dtype) == f"torch.{dtype}"


def test_weights_in_their_own_dtype_are_the_mapped_file() -> None:
    catalogue = open_catalogue(Source("folder", GOLDEN / "tiny_a"))
    first, second = (checkpoint.load(catalogue, device="cpu", dtype="bfloat16").model for _ in range(2))
    assert first.get_parameter(LAYER).data_ptr() == second.get_parameter(LAYER).data_ptr()


def test_matrices_that_may_not_be_cast_stay_mapped_and_give_the_same_numbers() -> None:
    catalogue = open_catalogue(Source("folder", GOLDEN / "tiny_a"))
    model = empty_model(catalogue.config)
    placing = Placing(torch.device("cpu"), torch.float32, cast_matrices=False)
    checkpoint.fill(model, catalogue, placing)
    assert model.get_parameter(LAYER).dtype == torch.bfloat16
    assert model.get_parameter("vpm.embeddings.patch_embedding.weight").dtype == torch.float32
    bytes_ = placing.weight_bytes(catalogue, model)
    assert bytes_.mapped > 4 * bytes_.resident / 2 and bytes_.unpacked
    cast = checkpoint.load(catalogue, device="cpu", dtype="float32").model
    x = torch.randn(1, 5, catalogue.config.language.hidden_size)
    with torch.inference_mode():
        assert torch.equal(model(x), cast(x))


def test_progress_counts_every_byte() -> None:
    calls: list[tuple[int, int]] = []
    checkpoint.load(Source("folder", GOLDEN / "tiny_int4"), device="cpu", progress=lambda *args: calls.append(args))
    assert calls == sorted(calls) and calls[-1][0] == calls[-1][1]


def test_missing_unexpected_and_misshapen_tensors_are_named_in_one_error(copy: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[LAYER]
        tensors["llm.extra.weight"] = torch.ones(2)
        tensors["llm.model.norm.weight"] = torch.ones(3)

    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(edit(copy, change))
    text = str(caught.value)
    assert f"1 tensor missing: {LAYER}" in text
    assert "1 tensor unexpected: llm.extra.weight" in text
    assert "llm.model.norm.weight is [3] but config.json makes it [256]" in text
    assert "\n" not in text


def test_many_missing_tensors_are_counted_and_the_first_named(copy: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in [n for n in tensors if n.startswith("vpm.encoder")]:
            del tensors[name]

    with pytest.raises(CheckpointError, match=r"48 tensors missing: vpm\S+, .*, \.\.\.$"):
        checkpoint.load(edit(copy, change))


def test_integers_where_a_weight_belongs_are_refused(copy: Path) -> None:
    with pytest.raises(CheckpointError, match="up_proj.weight has dtype torch.int8"):
        checkpoint.load(edit(copy, lambda t: t.update({LAYER: t[LAYER].to(torch.int8)})))


def test_known_leftovers_are_ignored_and_no_others(copy: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["resampler.pos_embed"] = torch.ones(4)
        tensors["llm.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)

    checkpoint.load(edit(copy, change))
    with pytest.raises(CheckpointError, match="unexpected: resampler.pos_embed2"):
        checkpoint.load(edit(copy, lambda t: t.update({"resampler.pos_embed2": torch.ones(1)})))


def test_a_dropped_last_vision_block_may_be_in_the_file_or_not(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["drop_vision_last_layer"] = True
    (copy / "config.json").write_text(json.dumps(config))
    loaded = checkpoint.load(Source("folder", copy))
    assert len(loaded.model.vpm.encoder.layers) == config["vision_config"]["num_hidden_layers"] - 1

    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for name in [n for n in tensors if n.startswith("vpm.encoder.layers.2.")]:
            del tensors[name]

    checkpoint.load(edit(copy, drop))


def test_tied_embeddings_need_no_head_and_ignore_one(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    assert "llm.lm_head.weight" not in dict(checkpoint.load(Source("folder", copy)).model.named_parameters())
    checkpoint.load(edit(copy, lambda t: t.pop("llm.lm_head.weight")))


def test_a_truncated_shard_is_named(copy: Path) -> None:
    path = copy / SHARD
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=rf"{SHARD} is truncated: .* tensor \S+ needs"):
        checkpoint.load(Source("folder", copy))


def test_a_missing_shard_is_named(copy: Path) -> None:
    (copy / SHARD).unlink()
    with pytest.raises(CheckpointError, match=f"{SHARD} cannot be read"):
        checkpoint.load(Source("folder", copy))


def test_an_index_that_lies_is_caught(copy: Path) -> None:
    path = copy / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][LAYER] = "model-00002-of-00002.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=f"{LAYER} is listed in"):
        checkpoint.load(Source("folder", copy))
    for file, word in (("../x.safetensors", "no file of this folder"), ("x.bin", "pickle"), (3, "no file")):
        index["weight_map"][LAYER] = file
        path.write_text(json.dumps(index))
        with pytest.raises(CheckpointError, match=word):
            checkpoint.load(Source("folder", copy))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickle_checkpoints_are_refused_with_the_way_out(copy: Path, name: str) -> None:
    for file in [*copy.glob("*.safetensors"), copy / "model.safetensors.index.json"]:
        file.unlink()
    (copy / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match="pickle file.*convert to safetensors"):
        checkpoint.load(Source("folder", copy))


def test_a_folder_without_config_or_weights_says_so(copy: Path) -> None:
    for file in [*copy.glob("*.safetensors"), copy / "model.safetensors.index.json"]:
        file.unlink()
    with pytest.raises(CheckpointError, match="no \\*.safetensors"):
        checkpoint.load(Source("folder", copy))
    (copy / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="no valid JSON"):
        checkpoint.load(Source("folder", copy))
    (copy / "config.json").unlink()
    with pytest.raises(CheckpointError, match="no config.json"):
        checkpoint.load(Source("folder", copy))


def test_a_limit_on_memory_is_kept_before_loading() -> None:
    with pytest.raises(OutOfMemoryError, match="max_memory allows 1.0 MB"):
        checkpoint.load(Source("folder", GOLDEN / "tiny_a"), device="cpu", max_memory="1MB")


@pytest.mark.parametrize(
    ("header", "word"),
    [
        (b"", "unreadable header"),
        (b"[1]", "no JSON object"),
        (b'{"a":1,"a":2}', "appears twice"),
        (b"[" * 100_000, "unreadable header"),
        (b'{"a": ' + b"9" * 5000 + b"}", "unreadable header"),
        (b"\xff\xfe{}", "unreadable header"),
        ({"a": 3}, "a lacks dtype"),
        ({"a": entry("F3")}, "a has dtype 'F3'"),
        ({"a": entry(shape=[-2])}, "a has a shape"),
        ({"a": entry(shape=[2.0])}, "a has a shape"),
        ({"a": entry(shape=[True, 2])}, "a has a shape"),
        ({"a": entry(shape="22")}, "a has a shape"),
        ({"a": entry(shape=[3])}, "a has 8 bytes"),
        ({"a": entry(offsets=[8, 0])}, "impossible offsets"),
        ({"a": entry(offsets=[0, 1 << 62])}, "data_offsets"),
        ({"a": entry(offsets=[0])}, "impossible offsets"),
        ({"a": entry(shape=[1 << 50], offsets=[0, 1 << 52])}, "truncated"),
        ({"a": entry(), "b": entry()}, "b begin at"),
        ({"a": entry(), "b": entry(offsets=[12, 20])}, "b begin at"),
        ({"a": entry(shape=[1], offsets=[0, 4])}, "4 bytes after its last tensor"),
    ],
)
def test_damaged_headers_are_named_errors(tmp_path: Path, header: Any, word: str) -> None:
    path = raw_file(tmp_path / "x.safetensors", header, bytes(8))
    with pytest.raises(CheckpointError, match=word) as caught:
        read_header(path)
    assert str(path) in str(caught.value)


def test_an_absurd_header_length_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for length in (1 << 63, 1 << 40, 17):
        path.write_bytes(struct.pack("<Q", length) + b"{}" + bytes(8))
        with pytest.raises(CheckpointError, match="claims a header"):
            read_header(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_in_a_file_ends_in_our_error_or_sane_tensors(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(3, 4), "b.c": torch.ones(5, dtype=torch.float16), "d": torch.zeros(0)}, path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        bit = data.draw(st.integers(0, len(raw) * 8 - 1))
        raw[bit // 8] ^= 1 << bit % 8
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw)
    try:
        tensors = read_header(path)
    except CheckpointError:
        return
    for tensor in tensors.values():
        assert tensor.read().shape == tensor.shape and tensor.offset + tensor.nbytes <= len(raw)


def test_what_is_written_is_read_by_us_and_by_the_library(tmp_path: Path) -> None:
    values = {
        "a": torch.randn(3, 5),
        "b": torch.randn(7).half(),
        "c": torch.arange(9, dtype=torch.uint8),
        "d": torch.randn(2, 2).bfloat16(),
        "e": torch.arange(3, dtype=torch.int32),
    }
    writable = [Writable(n, t.dtype, tuple(t.shape), lambda t=t: t) for n, t in values.items()]  # type: ignore[misc]
    assert len(write_shards(tmp_path, writable, 1 << 20)) == 1
    library, ours = load_file(tmp_path / "model.safetensors"), read_header(tmp_path / "model.safetensors")
    for name, value in values.items():
        assert torch.equal(library[name], value) and torch.equal(ours[name].read(), value)
        assert ours[name].offset % value.dtype.itemsize == 0


def test_a_sound_checkpoint_passes_the_check() -> None:
    for name in ("tiny_a", "tiny_int4", "tiny_awq"):
        report = checkpoint.check(Source("folder", GOLDEN / name))
        assert report.ok, report.problems
        assert len(report.tensors) > 80 and report.nbytes > 1e6
    pair = GOLDEN / "tiny_gguf"
    report = checkpoint.check(Source("gguf", pair / "ggml-model-Q4_K_M.gguf", pair / "mmproj-model-f16.gguf"))
    assert report.ok and report.format == "gguf"


def test_the_check_names_every_bad_tensor_and_goes_on(copy: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[LAYER][3, 4] = float("nan")
        tensors["llm.lm_head.weight"] = torch.zeros_like(tensors["llm.lm_head.weight"])
        tensors["resampler.proj"] = torch.ones(2, 2)
        del tensors["resampler.query"]

    report = checkpoint.check(edit(copy, change))
    wrong = {t.name: t.problem for t in report.tensors if t.problem}
    assert set(wrong) == {LAYER, "llm.lm_head.weight", "resampler.proj"}
    assert "not finite" in str(wrong[LAYER]) and "zero" in str(wrong["llm.lm_head.weight"])
    assert "resampler.query is missing" in report.problems and len(report.problems) == 4


def test_the_check_reports_an_unreadable_file_once(copy: Path) -> None:
    (copy / SHARD).write_bytes(b"short")
    report = checkpoint.check(Source("folder", copy))
    assert len(report.problems) == 1 and SHARD in report.problems[0] and not report.ok


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", ["tiny_a", "tiny_int4", "tiny_awq", "tiny_gguf"])
def test_weights_on_a_gpu_equal_those_on_the_cpu(name: str) -> None:
    source = resolve(GOLDEN / name)
    here, there = (checkpoint.load(source, device=d, dtype="float16").model for d in ("cpu", "cuda"))
    modules = dict(there.named_modules())
    for path, module in here.named_modules():
        if isinstance(module, PackedLinear):
            other = modules[path]
            assert isinstance(other, PackedLinear) and torch.equal(module.dequantize(), other.dequantize().cpu())
    for path, parameter in here.named_parameters():
        assert torch.equal(parameter.half(), there.get_parameter(path).cpu())


def test_reading_ahead_ends_with_its_block() -> None:
    files = sorted((GOLDEN / "tiny_a").glob("*.safetensors"))
    with ReadAhead(files) as ahead:
        pass
    assert not ahead._thread.is_alive()


def test_casting_on_the_way_to_a_device_happens_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpmv.weights.checkpoint._MOVED_AT_ONCE", 7)
    stored = open_catalogue(Source("folder", GOLDEN / "tiny_a")).plain["resampler.proj"]
    placing = Placing(torch.device("meta"), torch.float32, cast_matrices=True)
    moved = checkpoint._move(stored, placing, is_matrix=True)
    assert moved.shape == stored.shape and moved.dtype == torch.float32 and moved.is_meta
