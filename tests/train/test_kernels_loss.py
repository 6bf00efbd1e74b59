"""The chunked cross-entropy gives the loss and the gradients of the plain one; run with Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

_PROGRAM = """
import torch
from cpmv.train import kernels_loss
from cpmv.train.joint_model import _cross_entropy_of

kernels_loss._CHUNK = 60  # several chunks
torch.manual_seed(0)
for points, has_bias, shared in ((1, False, True), (1, True, False), (3, True, False)):
    targets = torch.randint(0, 7, (11, points) if points > 1 else (11,))
    targets.view(-1)[::4] = -100
    shares = torch.rand(11) + 0.5 if shared else None
    x, weight, bias = torch.randn(11, 6), torch.randn(7 * points, 6), torch.randn(7 * points)
    seen = []
    for function in (_cross_entropy_of, kernels_loss.cross_entropy_of):
        own = [t.clone().requires_grad_() for t in (x, weight, bias)]
        loss = function(own[0], own[1], own[2] if has_bias else None, targets, shares)
        (loss * 0.3).backward()
        seen.append([loss.detach(), own[0].grad, own[1].grad, own[2].grad if has_bias else None])
    for plain, chunked in zip(*seen, strict=True):
        assert (plain is None) == (chunked is None)
        if plain is not None:
            torch.testing.assert_close(plain, chunked, rtol=1e-4, atol=1e-5)
print("equal")
"""


def test_loss_and_gradients_are_those_of_the_plain_form() -> None:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", _PROGRAM]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.stdout.strip() == "equal", ran.stderr[-3000:]
