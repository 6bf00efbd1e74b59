"""Learning-rate shapes, and the fade of the auxiliary losses."""

from __future__ import annotations

import pytest

from cpmv.errors import CpmvError
from cpmv.train.config import PRESETS, Schedule
from cpmv.train.optim import Horizon, fade, lr_factor


def curve(schedule: Schedule, total: int) -> list[float]:
    horizon = Horizon.of(total, schedule)
    return [lr_factor(schedule, step, horizon) for step in range(total)]


def test_wsd_warms_up_holds_and_decays_to_the_floor_at_the_last_step() -> None:
    rates = curve(Schedule("wsd", warmup_steps=100, decay_fraction=0.3, floor=0.03), 1000)
    assert rates[0] == pytest.approx(0.01) and rates[99] == 1.0
    assert set(rates[99:700]) == {1.0}
    assert rates[-1] == pytest.approx(0.03)
    drops = [a - b for a, b in zip(rates[699:], rates[700:], strict=False)]
    assert max(drops) == pytest.approx(min(drops)), "the decay is a straight line"


def test_cosine_falls_smoothly_to_the_floor() -> None:
    rates = curve(Schedule("cosine", warmup_steps=10, floor=0.1), 110)
    assert rates[9] == 1.0 and rates[-1] == pytest.approx(0.1)
    assert rates[10 + 49] == pytest.approx(0.55, abs=0.01)
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_constant_stays_and_linear_falls_at_once() -> None:
    assert set(curve(Schedule("constant", warmup_steps=5), 50)[5:]) == {1.0}
    rates = curve(Schedule("linear", warmup_steps=5, floor=0.0), 55)
    assert rates[-1] == 0.0 and rates[5 + 24] == pytest.approx(0.5)


def test_warm_up_takes_at_most_a_quarter_of_a_short_run() -> None:
    assert curve(Schedule("wsd", warmup_steps=100), 40)[9] == 1.0


def test_a_run_of_unknown_length_warms_up_and_stays() -> None:
    horizon, schedule = Horizon(1 << 40, 1 << 40), Schedule()
    assert lr_factor(schedule, 0, horizon) == pytest.approx(0.01)
    assert lr_factor(schedule, 5000, horizon) == 1.0


def test_auxiliary_losses_fade_between_their_two_points() -> None:
    assert fade(0.0, 0.12, 0.9) == fade(0.12, 0.12, 0.9) == 1.0
    assert fade(0.51, 0.12, 0.9) == pytest.approx(0.51)
    assert fade(0.9, 0.12, 0.9) == pytest.approx(0.02) and fade(1.0, 0.12, 0.9) == pytest.approx(0.02)
    assert fade(0.0, -1.0, 0.0) == pytest.approx(0.02), "a decay from a checkpoint begins faded"


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(CpmvError, match="schedule 'sgdr' is unknown"):
        Schedule("sgdr")


def test_every_preset_opens_with_command_time_and_expected_result() -> None:
    for name, preset in PRESETS.items():
        text = preset.__doc__ or ""
        assert f"--preset {name} " in text and "Time:" in text and "Expected:" in text
        preset()
