"""The CUDA kernel of narrow layer norms, run thread by thread on the CPU, against the formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from emulated import emulated  # noqa: F401

from cpmv.kernels import norm_cuda


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("num_rows", "size", "rows"), [(1, 128, 1), (9, 1152, 1), (11, 384, 4)])
def test_rows_are_normalised(emulated: Any, dtype: torch.dtype, num_rows: int, size: int, rows: int) -> None:  # noqa: F811
    generator = torch.Generator().manual_seed(size)
    x, weight, bias = (torch.randn(n, size, generator=generator).mul(3).to(dtype).squeeze(0) for n in (num_rows, 1, 1))
    x, shift = x.view(num_rows, size), torch.randn(size, generator=generator)
    for more in (None, shift):
        whole = x.double() if more is None else x.double() + more
        truth = torch.nn.functional.layer_norm(whole, (size,), weight.double(), bias.double(), 1e-6)
        found = norm_cuda.layer_norm(x, weight, bias, 1e-6, more, rows)
        error = (found.double() - truth).abs().max() / truth.abs().max()
        assert error <= 2 * torch.finfo(dtype).eps, (more is not None, float(error))


def test_infinite_halves_are_put_back_in_range(emulated: Any) -> None:  # noqa: F811
    x = torch.randn(3, 256, generator=torch.Generator().manual_seed(0)).half()
    before = x.clone()
    x[0, 3], x[2, 255] = float("inf"), float("-inf")
    one = torch.ones(256, dtype=torch.float16)
    assert norm_cuda.layer_norm(x, one, one, 1e-6, None).isfinite().all()
    assert x[0, 3] == 65504 and x[2, 255] == -65504 and torch.equal(x[1], before[1])


def test_only_narrow_rows_of_16_bits_on_a_card_have_it() -> None:
    assert not norm_cuda.available(torch.zeros(2, 1152, dtype=torch.bfloat16))
