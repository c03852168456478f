"""Zeros at the end of both sides change no update; on a GPU they stand there for the sake of speed."""

import pytest
import torch
from kernels.products import needs_gpu
from matrices import mapped_by_svd, relative_error, zoo_matrix
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from htmuon.kernels import aligned, aligned_sides, computes_half
from htmuon.linalg import METHODS, Polynomial, nested, newton_schulz
from htmuon.spectral import Power

SHAPES = [(5, 7), (7, 5), (16, 24), (3, 9, 16), (2, 2, 33, 12), (1, 9)]


CUDA, HALF = torch.device("cuda"), torch.float16


@pytest.mark.parametrize(
    ("shape", "sides"),
    [
        ((32, 512, 1376), (512, 1376)),
        ((4, 2048, 5461), (2048, 5504)),  # whole tiles, for the kernel
        ((4, 2040, 5461), (2048, 5504)),
        ((1, 1024, 2730), (1024, 2736)),  # too little work for the kernel
        ((8, 1420, 1501), (1424, 1504)),  # whole tiles would cost more than they gain
        ((1, 9), (8, 16)),
        ((0, 4), (0, 8)),
    ],
    ids=str,
)
def test_sides_on_a_gpu(shape, sides, monkeypatch):
    triton_op = pytest.importorskip("htmuon.kernels.triton_op", reason="triton is not installed")
    monkeypatch.setattr(triton_op, "SUPPORTED", True)
    assert aligned_sides(shape, HALF, CUDA) == sides
    # What is decided before the zeros is what is done after them.
    after = (*shape[:-2], sides[0], sides[0])
    assert aligned_sides(after, HALF, CUDA)[0] == sides[0]
    assert Polynomial().plan(shape, CUDA) == Polynomial().plan((*shape[:-2], *sides), CUDA)
    whole = all(side % 128 == 0 for side in sides)
    assert computes_half(after, HALF, CUDA) == (whole and sides[0] == 2048)
    with FakeTensorMode():
        assert aligned(torch.empty(shape, dtype=HALF, device=CUDA)).shape == (*shape[:-2], *sides)


def test_an_older_gpu_gets_no_tiles(monkeypatch):
    triton_op = pytest.importorskip("htmuon.kernels.triton_op", reason="triton is not installed")
    monkeypatch.setattr(triton_op, "SUPPORTED", False)
    assert aligned_sides((4, 2048, 5461), HALF, CUDA) == (2048, 5464)


@pytest.mark.parametrize(("dtype", "device"), [(torch.float32, CUDA), (HALF, torch.device("cpu"))], ids=str)
def test_elsewhere_sides_stay(dtype, device):
    assert aligned_sides((4, 2047, 5461), dtype, device) == (2047, 5461)


def padded(matrix):
    """What `aligned` makes of it on a GPU."""
    rows, columns = (-side % 8 for side in matrix.shape[-2:])
    return F.pad(matrix, (0, columns, 0, rows))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("module", "method", "power"),
    [(nested, Polynomial(levels=6), 0.125), (nested, Polynomial(levels=8), -0.25), (newton_schulz, None, 0.0)],
    ids=["6 levels", "8 levels", "newton_schulz"],
)
def test_no_method_sees_them(module, method, power, shape, monkeypatch):
    method = method or METHODS["newton_schulz"]
    matrix, function = torch.randn(shape), Power(power)
    plain = method(matrix, function)
    monkeypatch.setattr(module, "aligned", padded)
    found = method(matrix, function)
    assert found.matrix.shape == shape
    # Sums run in another order: a few units of rounding, of bfloat16 for Newton-Schulz (levels of the polynomial lift
    # them by ten each where singular values are small).
    tolerance = 0.02 if module is newton_schulz else 2e-3
    torch.testing.assert_close(found.matrix, plain.matrix, rtol=tolerance, atol=tolerance * plain.matrix.abs().max())
    torch.testing.assert_close(found.sigma_1, plain.sigma_1, rtol=0.02, atol=0)
    torch.testing.assert_close(found.rank, plain.rank, rtol=0, atol=0)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("shape", [(300, 501), (501, 300), (2, 77, 130), (1100, 1025), (16, 1020, 1100)], ids=str)
@pytest.mark.parametrize(("precision", "tolerance"), [("float16", 0.02), ("bfloat16", 0.1)])
def test_odd_sides_on_a_gpu(precision, tolerance, shape):
    # Down to a hundredth of the largest: rounding of either dtype hides no direction.
    matrix = zoo_matrix("condition 1e2", shape).float()
    mapped = Polynomial(precision=precision)(matrix.cuda(), Power(0.125))
    assert relative_error(mapped.matrix.cpu(), mapped_by_svd(matrix, lambda x: x**0.125)) <= tolerance
