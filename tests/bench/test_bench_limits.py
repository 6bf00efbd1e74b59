"""The least work is counted as the architecture has it, and measured abilities are kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cpmv.bench import limits
from cpmv.bench.machine import Machine
from cpmv.bench.random_model import decoder_bytes, random_config
from cpmv.bench.timing import Spread, best_of, interleave
from cpmv.weights.catalogue import empty_model


class Counting:
    """A machine that does a FLOP, or reads a byte, a second: seconds are the counts themselves."""

    dtype = torch.bfloat16
    read_bytes_per_s = 1.0

    def gemm_s(self, rows: int, inputs: int, outputs: int) -> float:
        return 2.0 * rows * inputs * outputs

    def causal_s(self, length: int, num_heads: int, num_kv_heads: int, head_dim: int) -> float:
        return 2.0 * length**2 * num_heads * head_dim

    def attention_s(self, batch: int, length: int, num_heads: int, head_dim: int) -> float:
        return 4.0 * batch * length**2 * num_heads * head_dim


CONFIG = random_config("real", "bf16")
MACHINE: Any = Counting()


@pytest.mark.parametrize(("length", "attention"), [(1024, 0.3e12), (4096, 4.9e12), (12288, 44e12)])
def test_prefill_counts_13_9_gflop_a_token_and_its_attention(length: int, attention: float) -> None:
    head = CONFIG.language.vocab_size * CONFIG.language.hidden_size * 2
    total = limits.prefill_s(MACHINE, CONFIG.language, length) - head
    assert total - attention == pytest.approx(13.9e9 * length, rel=0.02)


def test_a_slice_is_a_tflop_with_constant_queries_folded() -> None:
    one = limits.vision_s(MACHINE, CONFIG, 1, 1024, 1)
    assert one == pytest.approx((843 + 130 + 48) * 1e9, rel=0.02)
    frames = limits.vision_s(MACHINE, CONFIG, 540, 1024, 180)
    assert frames == pytest.approx(540 * one, rel=0.01)


def test_a_step_reads_15_gb_and_its_cache() -> None:
    weights = decoder_bytes(empty_model(random_config("real", "bf16")).to(torch.bfloat16))
    assert weights == pytest.approx(15.13e9, rel=0.01)
    step = limits.decode_s(MACHINE, CONFIG.language, weights, rows=8, context=1000)
    assert step - weights == 8 * 1000 * 36 * 2 * 8 * 128 * 2


def test_a_machine_measures_each_ability_once() -> None:
    machine = Machine(torch.device("cpu"), torch.float32, budget_s=0.001)
    first = machine.gemm_s(64, 32, 48)
    assert machine.gemm_s(64, 32, 48) == first > 0
    assert machine.gemm_s(1 << 16, 8, 8) == 2 * machine.gemm_s(1 << 15, 8, 8)
    assert machine.attention_s(72, 16, 2, 8) == 2 * machine.attention_s(36, 16, 2, 8)
    assert machine.causal_s(32, 4, 2, 8) > 0
    assert {"gemm_64x32x48_flop_per_s", "causal_32x4x2x8_flop_per_s"} <= set(machine.measured())
    assert machine.measured()["gemm_64x32x48_flop_per_s"] == pytest.approx(2 * 64 * 32 * 48 / first)


def test_memory_is_read_and_copied_at_some_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpmv.bench.machine._PROBE_BYTES", {"cpu": 8 << 20})
    machine = Machine(torch.device("cpu"), torch.float32, budget_s=0.001)
    assert machine.read_bytes_per_s > 1e7 and machine.copy_bytes_per_s > 1e7
    assert {"read_bytes_per_s", "copy_bytes_per_s"} <= set(machine.measured())


def test_works_take_turns_and_the_budget_says_how_often() -> None:
    calls: list[str] = []

    def work(name: str, seconds: float) -> Any:
        def run() -> float:
            calls.append(name)
            return seconds

        return run

    found = interleave({"a": work("a", 1.0), "b": work("b", 2.0)}, budget_s=0.0, least=3, most=9)
    assert calls == ["a", "b"] * 3
    assert found["a"] == Spread((1.0, 1.0, 1.0)) and found["b"].median == 2.0
    calls.clear()
    interleave({"a": work("a", 1.0)}, budget_s=60.0, least=1, most=5)
    assert len(calls) == 5


def test_best_of_is_bounded_by_its_budget() -> None:
    calls = 0

    def run() -> None:
        nonlocal calls
        calls += 1

    assert best_of(torch.device("cpu"), run, budget_s=0.0) >= 0
    assert calls == 1 + 1 + 2
