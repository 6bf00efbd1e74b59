"""The memory plan: numbers that can be worked out by hand, limits of containers, refusal before loading."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from cpmv.errors import CpmvError, OutOfMemoryError
from cpmv.weights import plan
from cpmv.weights.catalogue import Catalogue, Placing, empty_model, open_catalogue
from cpmv.weights.checkpoint import decide_placing
from cpmv.weights.hub import Source
from cpmv.weights.plan import MemoryPlan, WeightBytes, ensure_fits, memory_plan, parse_memory

GOLDEN = Path(__file__).parents[1] / "golden"
CPU = torch.device("cpu")


@pytest.fixture
def catalogue() -> Catalogue:
    return open_catalogue(Source("folder", GOLDEN / "tiny_a"))


def test_the_cache_is_counted_from_the_configuration(catalogue: Catalogue) -> None:
    got = memory_plan(catalogue.config, WeightBytes(0), CPU, torch.bfloat16, num_images=0, context=1000)
    # keys and values, 3 layers, 2 heads of 64, two bytes
    assert got.items["KV cache"] == 2 * 3 * 2 * 64 * 1000 * 2
    assert got.items["vision"] == 0 and got.num_visual_tokens == 0


def test_pictures_and_packed_frames_become_tokens(catalogue: Catalogue) -> None:
    got = memory_plan(catalogue.config, WeightBytes(0), CPU, torch.float32, num_images=2, num_frames=540, packing=6)
    assert got.num_visual_tokens == (2 * 10 + 90) * 64
    assert got.context == got.num_visual_tokens + 2048
    few = memory_plan(catalogue.config, WeightBytes(0), CPU, torch.float32, num_images=2, context=100)
    assert few.context == few.num_visual_tokens  # never fewer than the pictures take


def test_weights_are_counted_in_the_dtype_they_are_held_in(catalogue: Catalogue) -> None:
    model = empty_model(catalogue.config)
    num = sum(p.numel() for p in model.parameters())
    gpu = Placing(torch.device("cuda"), torch.float16, cast_matrices=True).weight_bytes(catalogue, model)
    assert gpu == WeightBytes(2 * num)
    own = Placing(CPU, torch.bfloat16, cast_matrices=True).weight_bytes(catalogue, model)
    assert own == WeightBytes(0, 2 * num)
    wide = Placing(CPU, torch.float32, cast_matrices=True).weight_bytes(catalogue, model)
    assert wide == WeightBytes(4 * num)


def test_quantised_weights_keep_their_size() -> None:
    catalogue = open_catalogue(Source("folder", GOLDEN / "tiny_int4"))
    model = empty_model(catalogue.config)
    packed = sum(w.nbytes for w in catalogue.packed.values())
    plain = sum(torch.Size(t.shape).numel() for t in catalogue.plain.values())
    got = Placing(torch.device("cuda"), torch.bfloat16, cast_matrices=True).weight_bytes(catalogue, model)
    assert got == WeightBytes(packed + 2 * plain, unpacked=True)


def test_what_fits_is_cast_once_and_what_does_not_stays_in_its_files(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = empty_model(catalogue.config)
    assert decide_placing(catalogue, model, CPU, torch.float32).cast_matrices
    monkeypatch.setattr("cpmv.weights.checkpoint._ALWAYS_CAST_BYTES", 0)
    monkeypatch.setattr("cpmv.weights.checkpoint.free_memory", lambda device: 10 << 20)
    with caplog.at_level(logging.WARNING, logger="cpmv"):
        assert not decide_placing(catalogue, model, CPU, torch.float32).cast_matrices
    assert "cast to float32 at each use" in caplog.text


def planned(resident: int, mapped: int, free: int) -> MemoryPlan:
    return MemoryPlan(CPU, {"weights": mapped, "KV cache": resident}, mapped, free, 100, 64)


def test_what_cannot_fit_is_refused_with_the_numbers(caplog: pytest.LogCaptureFixture) -> None:
    gb = 10**9
    ensure_fits(planned(2 * gb, 17 * gb, 24 * gb))
    assert not caplog.text
    with caplog.at_level(logging.WARNING, logger="cpmv"):
        ensure_fits(planned(2 * gb, 17 * gb, 8 * gb))
    assert "17.0 GB" in caplog.text and "slow" in caplog.text
    with pytest.raises(OutOfMemoryError, match=r"needs about 9.0 GB on cpu .*KV cache 9.0 GB.* but 8.0 GB are free"):
        ensure_fits(planned(9 * gb, 0, 8 * gb))
    with pytest.raises(OutOfMemoryError, match="needs about 19.0 GB .* max_memory allows 18.0 GB"):
        ensure_fits(planned(2 * gb, 17 * gb, 24 * gb), 18 * gb)


@pytest.mark.parametrize(
    ("text", "size"),
    [(None, None), (5, 5), ("8GB", 8 * 10**9), ("7.5GiB", 7.5 * 2**30), ("300 mb", 3e8), ("2g", 2e9), ("12", 12)],
)
def test_sizes_are_read_as_people_write_them(text: str | int | None, size: float | None) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1", 0, "0GB", "8XB", True, "1e9"])
def test_other_sizes_are_refused(text: str | int) -> None:
    with pytest.raises(CpmvError, match="max_memory"):
        parse_memory(text)


def test_limits_of_containers_count_and_their_page_cache_does_not(tmp_path: Path) -> None:
    membership, root = tmp_path / "cgroup", tmp_path / "fs"
    inner = root / "outer" / "inner"
    inner.mkdir(parents=True)
    membership.write_text("0::/outer/inner\n")
    assert plan._container_limits(membership, root) == []
    for folder, limit, used, cache in ((inner, "max", 10, 0), (inner.parent, "1000", 400, 150)):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\nfile {cache}\n")
    assert plan._container_limits(membership, root) == [1000 - 400 + 150]
    old = root / "memory" / "box"
    old.mkdir(parents=True)
    membership.write_text("5:cpu:/box\n4:memory:/box\n")
    for name, value in (("limit_in_bytes", "500"), ("usage_in_bytes", "300"), ("stat", "cache 9\ntotal_cache 50")):
        (old / f"memory.{name}").write_text(value)
    assert plan._container_limits(membership, root) == [250]


def test_this_machine_has_some_free_memory() -> None:
    assert 1 << 26 < plan.free_memory(CPU) < 1 << 50
