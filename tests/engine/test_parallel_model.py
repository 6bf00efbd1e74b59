"""`cpmv.load(gpus=2)` answers as one process does (goes to tests/engine/ with K6.patch)."""

from __future__ import annotations

import pytest
from parallel_cases import GOLDEN

import cpmv
from cpmv.errors import CpmvError

TINY = GOLDEN / "tiny_a"


def test_a_model_of_two_processes_is_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone = cpmv.load(TINY, device="cpu", dtype="float32")
    expected = alone.ask(None, "What is this?", greedy=True, max_new_tokens=12)
    model = cpmv.load(TINY, device="cpu", dtype="float32", gpus=2)
    try:
        assert model.ask(None, "What is this?", greedy=True, max_new_tokens=12) == expected
        pieces = model.stream([{"role": "user", "content": "What is this?"}], greedy=True, max_new_tokens=12)
        assert "".join(map(str, pieces)).strip() == expected
        for call in (lambda: model.save("x"), lambda: model.to("cpu")):
            with pytest.raises(CpmvError, match="without gpus"):
                call()
    finally:
        model.close()
    with pytest.raises(CpmvError, match="at most that"):
        cpmv.load(TINY, gpus=64)
    with pytest.raises(CpmvError, match="leave device='mps' out"):
        cpmv.load(TINY, gpus=2, device="mps")
