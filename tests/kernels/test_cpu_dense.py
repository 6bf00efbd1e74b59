"""16-bit matrices multiplied where they lie, against float32 products; and how many threads a CPU gets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cpu_cases import error, normal

from cpmv import device
from cpmv.kernels import cpu_build, cpu_dense
from cpmv.model.layers import Embedding, Linear

needs_compiler = pytest.mark.skipif(cpu_build.library() is None, reason="there is no C++ compiler")


@needs_compiler
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=str)
def test_products_equal_those_of_the_widened_matrix(stored: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_dense, "_LEAST_ELEMENTS", 1)
    for shape in ((36, 64), (100, 2064), (4, 16)):
        weight, bias = normal(*shape, scale=0.1).to(stored), normal(shape[0], seed=1)
        for rows in (1, 2, 3, 6, 9, 65, 200):
            for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 4e-3)):
                x = normal(rows, shape[1], seed=rows).to(dtype)
                found = cpu_dense.dense(x, weight, bias)
                if found is not None:
                    worst = error(found, x.float() @ weight.float().t() + bias)
                    assert found.dtype is dtype and worst < tolerance, f"{shape} {rows} rows {dtype}: {worst:.2e}"
                else:
                    assert rows > 2, (shape, rows, dtype)


@needs_compiler
def test_layers_use_it_for_few_rows_and_for_other_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_dense, "_LEAST_ELEMENTS", 1)
    linear, table = Linear(64, 32), Embedding(32, 64)
    linear.weight = torch.nn.Parameter(linear.weight.detach().half(), requires_grad=False)
    table.weight = torch.nn.Parameter(table.weight.detach().bfloat16(), requires_grad=False)
    x = normal(1, 3, 64).bfloat16()
    truth = x.float() @ linear.weight.float().t() + linear.bias
    with torch.no_grad():
        assert error(linear(x), truth) < 4e-3
        assert error(table.project(x[:, :1]), x[:, :1].float() @ table.weight.float().t()) < 4e-3


def test_what_it_does_not_take_is_left_to_torch() -> None:
    x, weight = torch.ones(1, 2048), torch.ones(1024, 2048)
    half = weight.half()
    assert cpu_dense.dense(x, weight, None) is None  # float32 needs no kernel
    assert cpu_dense.dense(x, half.t().contiguous().t(), None) is None
    assert cpu_dense.dense(x, half[:511], None) is None  # small
    assert cpu_dense.dense(x[:0], half, None) is None
    assert cpu_dense.dense(x.requires_grad_(), half, None) is None


def test_threads_are_physical_cores(tmp_path: Path) -> None:
    for cpu, siblings in {0: "0,4", 4: "0,4", 1: "1,5", 5: "1,5", 2: "2"}.items():
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    group = tmp_path / "group"
    group.mkdir()
    count = device._physical_cores
    assert count({0, 4, 1, 5, 2}, tmp_path, group) == 3
    assert count({0, 4}, tmp_path, group) == 1
    assert count({0, 9}, tmp_path, group) == 2  # nothing is known of 9
    (group / "cpu.max").write_text("150000 100000\n")
    assert count({0, 4, 1, 5, 2}, tmp_path, group) == 2
    (group / "cpu.max").write_text("max 100000\n")
    assert count({0, 4, 1, 5, 2}, tmp_path, group) == 3


def test_threads_that_were_set_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(device, "_allowed_cpus", lambda: set(range(before)))
    monkeypatch.setattr(device, "_physical_cores", lambda cpus: 7)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert device.use_physical_cores() == before
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(device, "_allowed_cpus", lambda: set(range(before + 1)))
    assert device.use_physical_cores() == before
    assert torch.get_num_threads() == before
