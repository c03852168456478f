"""Zeros at the end of both sides change no update; on a GPU they stand there for the sake of speed."""

import pytest
import torch
from kernels.products import needs_gpu
from matrices import mapped_by_svd, relative_error, zoo_matrix

from htmuon.kernels import aligned
from htmuon.kernels.alignment import padded_to
from htmuon.linalg import METHODS, Polynomial, newton_schulz, polynomial
from htmuon.spectral import Power

SHAPES = [(5, 7), (7, 5), (16, 24), (3, 9, 16), (2, 2, 33, 12), (1, 9)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_zeros_stand_at_the_end(shape):
    matrix = torch.randn(shape)
    padded = padded_to(matrix, 8)
    assert [side % 8 for side in padded.shape[-2:]] == [0, 0]
    assert all(0 <= new - old < 8 for new, old in zip(padded.shape, shape, strict=True))
    assert torch.equal(padded[..., : shape[-2], : shape[-1]], matrix)
    assert padded.count_nonzero() == matrix.count_nonzero()


def test_what_needs_nothing_stays():
    matrix = torch.randn(16, 24)
    assert padded_to(matrix, 8) is matrix
    assert aligned(odd := torch.randn(5, 7, dtype=torch.float16)) is odd  # not on a GPU


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("module", "method", "power"),
    [(polynomial, Polynomial(levels=6), 0.125), (polynomial, Polynomial(levels=8), -0.25), (newton_schulz, None, 0.0)],
    ids=["6 levels", "8 levels", "newton_schulz"],
)
def test_no_method_sees_them(module, method, power, shape, monkeypatch):
    method = method or METHODS["newton_schulz"]
    matrix, function = torch.randn(shape), Power(power)
    plain = method(matrix, function)
    monkeypatch.setattr(module, "aligned", lambda x: padded_to(x, 8))
    padded = method(matrix, function)
    assert padded.matrix.shape == shape
    # Sums run in another order: a few units of rounding, of bfloat16 for Newton-Schulz (levels of the polynomial lift
    # them by ten each where singular values are small).
    tolerance = 0.02 if module is newton_schulz else 2e-3
    torch.testing.assert_close(padded.matrix, plain.matrix, rtol=tolerance, atol=tolerance * plain.matrix.abs().max())
    torch.testing.assert_close(padded.sigma_1, plain.sigma_1, rtol=0.02, atol=0)
    torch.testing.assert_close(padded.rank, plain.rank, rtol=0, atol=0)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("shape", [(300, 501), (501, 300), (2, 77, 130)], ids=str)
@pytest.mark.parametrize(("precision", "tolerance"), [("float16", 0.02), ("bfloat16", 0.1)])
def test_odd_sides_on_a_gpu(precision, tolerance, shape):
    # Down to a hundredth of the largest: rounding of either dtype hides no direction.
    matrix = zoo_matrix("condition 1e2", shape).float()
    mapped = Polynomial(precision=precision)(matrix.cuda(), Power(0.125))
    assert relative_error(mapped.matrix.cpu(), mapped_by_svd(matrix, lambda x: x**0.125)) <= tolerance
