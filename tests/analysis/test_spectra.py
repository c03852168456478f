import pytest
import torch

from htmuon.analysis import eigenvalues, singular_values, stable_rank


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
