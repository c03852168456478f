"""The blend of polar factor and momentum: the formula, by every way of computing it."""

import pytest
import torch
from matrices import SPECTRA, mapped_by_svd, matrix_with, relative_error

import htmuon
from htmuon.linalg import Polynomial, Quintic
from htmuon.spectral import Blend

# 1e-4 is the promise of eigh; the fits of straight lines, sigma_1 by power iteration, and float32 products.
METHODS = [("eigh", 1e-4), ("svd", 1e-6), (Polynomial(precision="float32"), 0.01), (Quintic(precision="float32"), 0.04)]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9])
@pytest.mark.parametrize(("method", "tolerance"), METHODS, ids=str)
@pytest.mark.parametrize("spectrum", ["equal", "condition 1e2", "one over i"])
@pytest.mark.parametrize("shape", [(24, 24), (20, 48), (48, 20)], ids=str)
def test_it_is_its_formula(share, method, tolerance, spectrum, shape):
    sigma = {**SPECTRA, "equal": torch.ones}[spectrum](min(shape)).to(torch.float64)
    matrix = 5 * matrix_with(sigma, shape)
    whole = matrix.square().sum().sqrt()
    polar = mapped_by_svd(matrix, torch.ones_like)
    expected = (1 - share) * polar + share * matrix * min(shape) ** 0.5 / whole
    result = htmuon.spectral_map(matrix.to(torch.float32), Blend(share), method=method)
    assert relative_error(result, expected) <= tolerance


def test_both_parts_have_the_size_of_a_polar_factor():
    matrix = matrix_with(torch.arange(1, 17, dtype=torch.float64), (16, 40))
    result = htmuon.spectral_map(matrix, Blend(0.99), method="svd")
    assert torch.linalg.matrix_norm(result).item() == pytest.approx(4.0, rel=1e-2)  # a hundredth is polar


def test_an_optimizer_takes_it_by_name():
    weight = torch.nn.Parameter(torch.zeros(6, 4))
    weight.grad = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    optimizer = htmuon.Muon([weight], lr=1.0, spectral_map=Blend(0.5), method="eigh", momentum=0.0, adjust_lr_fn=None)
    assert optimizer.param_groups[0]["spectral_map"] == {"name": "blend", "share": 0.5}
    optimizer.step()
    gradient = weight.grad.double()
    polar = mapped_by_svd(gradient, torch.ones_like)
    expected = -(0.5 * polar + 0.5 * gradient * 2 / gradient.norm()) * 1.5**0.5
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-3, atol=1e-4)  # eigh in float32
    with pytest.raises(ValueError, match="share must be a finite number at least 0 and at most"):
        Blend(1.0)
