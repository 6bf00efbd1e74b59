"""The Triton kernels of packed weights, interpreted on the CPU, against the plain product with the same weight."""

from __future__ import annotations

from interpret import interpreted


def _compare(name: str, num_rows: tuple[int, ...]) -> None:
    import packed_layers
    import torch

    from cpmv.kernels.packed import multiply_plain
    from cpmv.weights import kernels

    torch.manual_seed(0)
    packed = kernels.pack(packed_layers.layer(name, 64, 256))
    assert packed is not None and packed.path(torch.float16) == "triton"  # type: ignore[attr-defined]
    weight = packed.dequantize_plain(torch.float16)  # type: ignore[attr-defined]
    assert torch.equal(packed.dequantize(torch.float16), weight)
    norm, bias = ((torch.rand(256) + 0.5).half(), 1e-6), torch.randn(64).half()
    for rows in num_rows:
        x = torch.randn(rows, 256).half()
        for more in (
            {},
            {"norm": norm, "bias": bias},
            {"gated": True, "norm": norm},
            {"residual": torch.randn(rows, 64).half()},
        ):
            own = {k: v.clone() if k == "residual" else v for k, v in more.items()}  # type: ignore[attr-defined]
            truth = multiply_plain(x, weight, **more).float()  # type: ignore[arg-type]
            out = packed.multiply(x, **own).float()  # type: ignore[arg-type]
            error = float((out - truth).norm() / truth.norm())
            assert error < 2e-3, (name, rows, list(more), error)


@interpreted
def test_awq_products_equal_the_plain_ones() -> None:
    _compare("awq 128", (1, 3, 17))
    _compare("awq 32", (2,))


@interpreted
def test_nf4_products_equal_the_plain_ones() -> None:
    _compare("nf4 64", (1, 5))


@interpreted
def test_eight_bit_products_equal_the_plain_ones() -> None:
    _compare("Q8_0", (1, 5))
    _compare("int8", (2,))


@interpreted
def test_gguf_products_equal_the_plain_ones() -> None:
    _compare("Q4_0", (2,))
    _compare("Q4_K", (1, 5))
    _compare("Q6_K", (1, 5))
