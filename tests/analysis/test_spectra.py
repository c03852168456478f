import math

import pytest
import torch

from htmuon.analysis import eigenvalues, singular_values, spectral_entropy, stable_rank


@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (2, 6, 3)])
def test_singular_values_of_a_planted_spectrum(shape: tuple[int, ...]) -> None:
    *batch, m, n = shape
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(*batch, m, m, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(*batch, n, n, generator=generator, dtype=torch.float64)).Q
    rank = min(m, n)
    sigma = torch.logspace(0, -4, rank, dtype=torch.float64).expand(*batch, rank)
    matrix = left[..., :rank] @ (sigma[..., None] * right[..., :rank].mT)
    # Backward stable: absolute error of a few float64 rounding units of sigma_1 = 1.
    torch.testing.assert_close(singular_values(matrix), sigma, rtol=0, atol=1e-13)
    torch.testing.assert_close(eigenvalues(matrix), sigma**2, rtol=0, atol=1e-13)


def test_half_precision_is_computed_in_float32() -> None:
    matrix = torch.diag(torch.tensor([4.0, 1.0, 2.0**-10])).bfloat16()
    torch.testing.assert_close(singular_values(matrix), torch.tensor([4.0, 1.0, 2.0**-10]), rtol=0, atol=1e-6)


def test_stable_rank_of_known_matrices() -> None:
    sigma = torch.tensor([[1.0, 1.0, 1.0], [5.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert stable_rank(sigma).tolist() == [3.0, 1.0, 0.0]


def test_rejects_a_vector() -> None:
    with pytest.raises(ValueError, match="at least two dims"):
        singular_values(torch.ones(3))


@pytest.mark.parametrize("shape", [(40, 40), (30, 700), (2300, 20)])
def test_float32_matrices_keep_their_small_singular_values(shape: tuple[int, int]) -> None:
    """1e-5 of the largest, where float32 arithmetic would have an error of a percent, and a second piece of rows."""
    rank = min(shape)
    generator = torch.Generator().manual_seed(1)
    left = torch.linalg.qr(torch.randn(shape[0], rank, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(shape[1], rank, generator=generator, dtype=torch.float64)).Q
    matrix = (left * torch.logspace(0, -5, rank, dtype=torch.float64) @ right.mT).float()
    # The oracle sees the same float32 entries.
    torch.testing.assert_close(
        singular_values(matrix), torch.linalg.svdvals(matrix.double()).float(), rtol=1e-5, atol=0
    )


def test_zeros_of_a_matrix_of_low_rank_are_zero() -> None:
    generator = torch.Generator().manual_seed(2)
    low_rank = torch.randn(60, 12, generator=generator) @ torch.randn(12, 50, generator=generator)
    assert int((eigenvalues(low_rank) > 0).sum()) == 12
    assert int((eigenvalues(low_rank.double()) > 0).sum()) == 12  # converting it makes no zero real


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_matrix_that_is_not_finite_is_nan_alone(dtype: torch.dtype) -> None:
    stack = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(3), dtype=dtype)
    alone = singular_values(stack[1])
    stack[0, 2, 3], stack[2, 0, 0] = math.nan, math.inf
    sigma = singular_values(stack)
    assert sigma[0].isnan().all()
    assert sigma[2].isnan().all()
    torch.testing.assert_close(sigma[1], alone)
    assert eigenvalues(stack)[0].isnan().all()


def test_spectral_entropy_of_known_spectra() -> None:
    sigma = torch.tensor([[1.0, 1.0, 1.0, 1.0], [3.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(spectral_entropy(sigma), torch.tensor([1.0, 0.0, 0.5, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(256, 256), (96, 400)])
def test_rounding_makes_no_eigenvalues(shape: tuple[int, int], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(side, 16, generator=generator) for side in shape)
    values = eigenvalues((left @ right.T).to(dtype))
    assert (values > 0).sum() == 16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_matrix_of_full_rank_keeps_its_eigenvalues(dtype: torch.dtype) -> None:
    matrix = torch.randn(100, 200, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert (eigenvalues(matrix) > 0).all()


@pytest.mark.parametrize("exponent", [-30, -22, 18, 30])
def test_eigenvalues_at_any_scale(exponent: int) -> None:
    matrix = torch.randn(40, 60, generator=torch.Generator().manual_seed(0))
    scaled = eigenvalues(matrix * 10.0**exponent)
    # Rounding of the scaled entries and of sigma to float32.
    torch.testing.assert_close(scaled, eigenvalues(matrix) * 100.0**exponent, rtol=1e-5, atol=0)
