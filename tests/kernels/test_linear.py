"""Products of a few rows against their plain truth, interpreted; and how a launch is chosen and kept."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch
from interpret import interpreted
from torch import Tensor

from cpmv.kernels import launch, linear, tuning
from cpmv.kernels.linear import Gemv, Tile, multiply
from cpmv.kernels.packed import multiply_plain

TOLERANCE = {torch.float32: 2e-5, torch.float16: 3e-3}


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


def check(x: Tensor, weight: Tensor, config: Gemv | Tile, **folded: object) -> float:
    """Worst relative error of a launch; the residual of each side is its own."""
    plain, ours = dict(folded), dict(folded)
    for side in (plain, ours):
        if folded.get("residual") is not None:
            side["residual"] = folded["residual"].clone()  # type: ignore[attr-defined]
    expected = multiply_plain(x, weight, **plain)  # type: ignore[arg-type]
    found = multiply(x, weight, config=config, **ours)  # type: ignore[arg-type]
    assert found.dtype == x.dtype and found.shape == expected.shape
    error = relative(found, expected)
    assert error <= TOLERANCE[x.dtype], (config, error)
    return error


@interpreted
def test_one_row_over_random_shapes() -> None:
    torch.manual_seed(1)
    chance, worst = random.Random(1), dict.fromkeys(TOLERANCE, 0.0)
    for dtype in TOLERANCE:
        for _ in range(6):
            width = chance.choice((96, 128, 320, 1536))
            rows = chance.randrange(1, 200)
            gated = chance.random() < 0.5
            x, weight = torch.randn(1, width, dtype=dtype), torch.randn(rows << gated, width, dtype=dtype) * 0.1
            norm = (torch.rand(width, dtype=dtype) + 0.5, 1e-6) if chance.random() < 0.5 else None
            residual = None if gated or chance.random() < 0.5 else torch.randn(1, rows, dtype=dtype)
            bias = None if gated or chance.random() < 0.5 else torch.randn(rows, dtype=dtype)
            config = Gemv(chance.choice((16, 64)), chance.choice((32, width & -width)))
            error = check(x, weight, config, norm=norm, residual=residual, gated=gated, bias=bias)
            worst[dtype] = max(worst[dtype], error)
    print("worst relative errors:", {str(dtype): f"{error:.1e}" for dtype, error in worst.items()})


@interpreted
def test_several_rows_over_random_shapes() -> None:
    torch.manual_seed(2)
    chance, worst = random.Random(2), dict.fromkeys(TOLERANCE, 0.0)
    for dtype in TOLERANCE:
        for num_rows in (2, 16, 17, 64):
            width = chance.choice((128, 256))
            rows = chance.randrange(1, 200)
            gated = chance.random() < 0.4
            x = torch.randn(num_rows, width, dtype=dtype)
            weight = torch.randn(rows << gated, width, dtype=dtype) * 0.1
            norm = (torch.rand(width, dtype=dtype) + 0.5, 1e-6) if chance.random() < 0.6 else None
            residual = None if gated or chance.random() < 0.5 else torch.randn(num_rows, rows, dtype=dtype)
            bias = None if gated or chance.random() < 0.5 else torch.randn(rows, dtype=dtype)
            config = Tile(chance.choice((32, 64)), 32, 1 if gated else chance.choice((1, 2, 4)), 2)
            error = check(x, weight, config, norm=norm, residual=residual, gated=gated, bias=bias)
            worst[dtype] = max(worst[dtype], error)
    assert int(launch.counters(torch.device("cpu")).abs().sum()) == 0  # left as they were found
    print("worst relative errors:", {str(dtype): f"{error:.1e}" for dtype, error in worst.items()})


@interpreted
def test_a_split_product_adds_in_one_order() -> None:
    torch.manual_seed(3)
    x, weight = torch.randn(5, 256), torch.randn(40, 256)
    results = [multiply(x, weight, config=Tile(32, 32, 4, 2)) for _ in range(3)]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@interpreted
def test_float16_sums_saturate_and_large_rows_are_normed_in_range() -> None:
    x = torch.full((2, 128), 60000.0, dtype=torch.float16)
    weight = torch.full((32, 128), 8.0, dtype=torch.float16)
    norm = (torch.full((128,), 2.0, dtype=torch.float16), 1e-6)
    for rows, config in ((1, Gemv(16, 64)), (2, Tile(32, 32, 2, 2))):
        residual = torch.full((rows, 32), 65000.0, dtype=torch.float16)
        found = multiply(x[:rows], weight, norm=norm, residual=residual, config=config)
        assert found is residual and bool((found == 65504).all())
        assert bool((multiply(x[:rows], weight, norm=norm, config=config) == 2048).all())


@interpreted
def test_scores_come_out_in_float32_with_their_first_maximum() -> None:
    torch.manual_seed(4)
    x, weight = torch.randn(3, 64, dtype=torch.float16), torch.randn(5000, 64, dtype=torch.float16)
    weight[4321] = weight[17] = 9 * x[1] / x[1].norm()  # a tie far apart
    scores = multiply(x, weight, out=torch.zeros(3, 5000))
    assert torch.equal(scores, scores.half().float())  # rounded as the plain path's
    chosen = linear.argmax(scores, torch.zeros(3, dtype=torch.int64))
    assert torch.equal(chosen, scores.argmax(-1)) and chosen[1] == 17


@interpreted
def test_ids_below_zero_stand_for_what_was_chosen() -> None:
    table = torch.randn(30, 48)
    ids, chosen = torch.tensor([3, -1, 7]), torch.tensor([1, 29, 2])
    assert torch.equal(linear.embed(ids, chosen, table), table[[3, 29, 7]])
    assert torch.equal(linear.embed(ids, chosen, table, 2.0), table[[3, 29, 7]] * 2)


def test_weights_that_multiply_themselves_are_asked_to() -> None:
    class Doubling:
        def multiply(self, x: Tensor, **folded: object) -> Tensor:
            assert set(folded) == {"norm", "residual", "gated", "bias"}
            return 2 * x

    x = torch.ones(2, 3)
    assert torch.equal(multiply(x, Doubling()), 2 * x)
    out = torch.zeros(2, 3)
    assert multiply(x, Doubling(), out=out) is out and torch.equal(out, 2 * x)


def test_weights_the_kernels_cannot_take_are_known() -> None:
    assert linear.supports(torch.empty(5, 64), 64)
    assert not linear.supports(torch.empty(5, 64), 65)
    assert not linear.supports(torch.empty(5, 40), 1)  # no power of two from 16 on divides it
    assert not linear.supports(torch.empty(64, 5).t(), 1)
    assert not linear.supports(torch.empty(5, 64, dtype=torch.float64), 1)


def test_every_candidate_divides_its_width() -> None:
    for rows, width, gated in ((6144, 4096, False), (12288, 4096, True), (4096, 12288, False), (384, 384, False)):
        for num_rows in (1, 8, 32, 64):
            candidates = linear._table(num_rows, rows, width, gated, False)
            assert candidates
            for config in candidates:
                split = config.split if isinstance(config, Tile) else 1
                assert width % (split * config.columns) == 0 and math.log2(config.rows).is_integer()


def test_the_fastest_candidate_is_measured_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "kernels.json"
    times = {4: 3.0, 8: 1.0, 16: 2.0}
    runs: list[int] = []

    def run(config: Gemv) -> None:
        runs.append(config.rows)
        if config.rows == 32:
            raise RuntimeError("out of resource: shared memory")

    def measure(launched: object) -> float:
        launched()  # type: ignore[operator]
        return times[runs[-1]]

    candidates = [Gemv(rows, 64) for rows in (4, 8, 16, 32)]
    chosen = tuning.fastest("key", candidates, run, tuning.Choices(path), measure)
    assert chosen == Gemv(8, 64) and runs == [4, 8, 16, 32]
    again = tuning.fastest("key", candidates, run, tuning.Choices(path), measure)
    assert again == chosen and len(runs) == 4
    # Another process keeps its own beside it; one that knows other fields is measured anew.
    tuning.Choices(path).put("other", Tile(64, 64))
    assert set(json.loads(path.read_text())) == {"key", "other"}
    path.write_text(json.dumps({"key": {"rows": 8, "unknown": 1}}))
    assert tuning.fastest("key", candidates, run, tuning.Choices(path), measure) == chosen and len(runs) == 8


def test_a_damaged_or_forbidden_file_is_measured_around(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    path.write_text("{broken")
    assert tuning.fastest("key", [Gemv(8, 64)], lambda config: None, tuning.Choices(path), lambda run: 1.0).rows == 8
    blocked = tmp_path / "file"
    blocked.write_text("")
    choices = tuning.Choices(blocked / "below" / "kernels.json")
    assert tuning.fastest("key", [Gemv(8, 64)], lambda config: None, choices, lambda run: 1.0).rows == 8
    with pytest.raises(RuntimeError, match="nothing runs"):
        tuning.fastest("new", [Gemv(8, 64)], lambda config: None, choices, _failing)


def _failing(run: object) -> float:
    raise RuntimeError("nothing runs")


def test_which_cards_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not tuning.measures((9, 0)) and tuning.measures((8, 9))
    monkeypatch.setenv("CPMV_TUNE", "1")
    assert tuning.measures((9, 0))
    monkeypatch.setenv("CPMV_TUNE", "0")
    assert not tuning.measures((8, 9))


def test_the_wanted_path_is_read_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CPMV_KERNELS", raising=False)
    assert launch.chosen_path() == "auto"
    monkeypatch.setenv("CPMV_KERNELS", "Plain")
    assert launch.chosen_path() == "plain"
    monkeypatch.setenv("CPMV_KERNELS", "fast")
    with pytest.raises(ValueError, match="use one of auto, triton, plain"):
        launch.chosen_path()


def test_compiling_launches_nothing() -> None:
    pytest.importorskip("triton")
    asked: list[str] = []

    class Kernel:
        def warmup(self, *args: int, grid: tuple[int, ...]) -> None:
            asked.append(f"compile {args} {grid}")

        def __getitem__(self, grid: tuple[int, ...]) -> object:
            return lambda *args: asked.append(f"launch {args} {grid}")

    with launch.compiling():
        assert launch.only_compiles()
        launch.run(Kernel(), (3,), 1, 2)
    assert not launch.only_compiles()
    launch.run(Kernel(), (3,), 1, 2)
    assert asked == ["compile (1, 2) (3,)", "launch (1, 2) (3,)"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_products_on_a_card() -> None:
    for dtype, tolerance in ((torch.bfloat16, 2e-2), (torch.float16, 3e-3)):
        for num_rows in (1, 5, 16, 32, 64):
            x = torch.randn(num_rows, 1024, dtype=dtype, device="cuda")
            weight = torch.randn(2 * 515, 1024, dtype=dtype, device="cuda") * 0.05
            norm = (torch.rand(1024, dtype=dtype, device="cuda") + 0.5, 1e-6)
            residual = torch.randn(num_rows, 2 * 515, dtype=dtype, device="cuda")
            for gated in (False, True):
                added = None if gated else residual
                expected = multiply_plain(
                    x.double(),
                    weight.double(),
                    norm=(norm[0].double(), norm[1]),
                    residual=None if added is None else added.double(),
                    gated=gated,
                )
                found = multiply(
                    x, weight, norm=norm, residual=None if added is None else added.clone(), gated=gated, idle=True
                )
                assert relative(found, expected) <= tolerance, (dtype, num_rows, gated)
