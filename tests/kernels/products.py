"""Symmetric products for tests, their float64 oracle, and what they are held to."""

import pytest
import torch

from htmuon.kernels.reference import symmetric_product_reference

# Smaller than a tile, one tile to the element, ragged in both directions, several groups of tiles, nothing to sum.
SHAPES = [(1, 1), (5, 3), (64, 128), (65, 129), (130, 70), (3, 97, 40), (2, 3, 66, 31), (640, 48), (7, 0), (0, 4, 4)]
TERMS = [(False, 1.0, 1.0), (False, -0.5, 1.0), (True, 1.0, 1.0), (True, 2.0, -0.75)]
NARROW = (torch.float16, torch.bfloat16)


def scaled_randn(*shape, scale=1.0):
    """Float64 normal numbers, scaled so that a product over the last dimension has entries of order `scale^2`."""
    return torch.randn(*shape, dtype=torch.float64) * scale * max(shape[-1], 1) ** -0.5


def gram_terms(shape, dtype, with_c, scale=1.0):
    """`(A, A, C)` with C symmetric to the bit, as promised."""
    a = scaled_randn(*shape, scale=scale).to(dtype)
    c = scaled_randn(*shape[:-1], shape[-2], scale=scale).to(dtype)
    return a, a, c.tril() + c.tril(-1).mT if with_c else None


def polynomials(batch, n, dtype):
    """`(A, B)` that commute, polynomials of one matrix, rounded to `dtype`."""
    q = torch.linalg.qr(torch.randn(*batch, n, n, dtype=torch.float64)).Q
    x = torch.linspace(0, 1, n, dtype=torch.float64)
    return tuple(((q * value) @ q.mT).to(dtype) for value in (x, 1 - x + x**2))


def exact(a, b, c, alpha, beta):
    product = alpha * a.to(torch.float64) @ b.to(torch.float64).mT
    return product if c is None else product + beta * c.to(torch.float64)


def rounding(a, b, c, alpha, beta):
    """The size of the rounding errors of the sums: k independent units of the sum of absolute values."""
    terms = exact(a.abs(), b.abs(), None if c is None else c.abs(), abs(alpha), abs(beta))
    return torch.finfo(a.dtype).eps * (a.shape[-1] + 1) ** 0.5 * terms.norm()


def check_product(product, a, b, c, alpha, beta):
    """Symmetric to the bit, in the dtype of A, and no further from float64 than torch's own product is."""
    # The lower half: rounded factors commute only up to their rounding, and the upper half may mirror the lower one.
    expected = exact(a, b, c, alpha, beta).tril()
    assert product.dtype == a.dtype
    assert product.shape == (*a.shape[:-1], a.shape[-2])
    assert torch.equal(product, product.mT)
    error = (product.to(torch.float64).tril() - expected).norm()
    if a.dtype == torch.float64:
        # Here the oracle is no more exact than the product.
        assert error <= rounding(a, b, c, alpha, beta)
        return
    plain = symmetric_product_reference(a, b, c, alpha=alpha, beta=beta).to(torch.float64).tril()
    # Narrow dtypes: rounding the result is nearly all of the error, and is the same in both. Float32: the Triton kernel
    # adds all terms in one chain and cuBLAS in several shorter ones, which is a few times better; TF32 is hundreds of
    # times worse.
    margin = 1.1 if a.dtype in NARROW else 8
    # A few numbers are no statistics, and torch's may happen to be exact: they may be off by their rounding.
    few = expected.shape[-1] < 10 or a.shape[-1] < 3
    assert error <= margin * (plain - expected).norm() + (rounding(a, b, c, alpha, beta) if few else 0)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch sees none")
