"""A zoo of matrices for tests: the spectrum varies, not only the seed."""

import torch
from torch import Tensor

SHAPES = [(1, 1), (1, 7), (6, 1), (5, 5), (13, 4), (9, 33), (65, 40), (3, 12, 7), (2, 3, 8, 15)]
SPECTRA = {
    "flat": lambda r: torch.ones(r),
    "condition 1e2": lambda r: torch.logspace(0, -2, r),
    "condition 1e4": lambda r: torch.logspace(0, -4, r),
    "condition 1e6": lambda r: torch.logspace(0, -6, r),
    "condition 1e8": lambda r: torch.logspace(0, -8, r),
    "one over i": lambda r: 1 / torch.arange(1, r + 1),
    "one large": lambda r: torch.cat([torch.ones(1), torch.full((r - 1,), 1e-3)]),
    "two clusters": lambda r: torch.where(torch.arange(r) < (r + 1) // 2, 1.0, 0.02),
    "half rank": lambda r: torch.where(torch.arange(r) < (r + 1) // 2, 1.0, 0.0) * torch.linspace(1, 0.5, r),
}


def orthonormal(rows: int, columns: int, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(*batch, rows, columns, generator=generator, dtype=torch.float64)).Q


def matrix_with(spectrum: Tensor, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """A float64 matrix `[*batch, m, n]` with the given singular values and random singular vectors."""
    generator = torch.Generator().manual_seed(seed)
    *batch, rows, columns = shape
    short = min(rows, columns)
    u = orthonormal(rows, short, tuple(batch), generator)
    v = orthonormal(columns, short, tuple(batch), generator)
    return (u * spectrum.to(torch.float64)) @ v.mT


def zoo_matrix(name: str, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return matrix_with(SPECTRA[name](min(shape[-2:])), shape, seed)


def mapped_by_svd(matrix: Tensor, weights) -> Tensor:
    """The oracle: `U weights(S) V^T` by a float64 SVD of what is stored, zero directions left out."""
    u, sigma, vh = torch.linalg.svd(matrix.to(torch.float64), full_matrices=False)
    kept = sigma > sigma[..., :1] * max(matrix.shape[-2:]) * torch.finfo(torch.float64).eps
    values = torch.where(kept, weights(torch.where(kept, sigma, 1.0)), 0.0)
    return (u * values.unsqueeze(-2)) @ vh


def relative_error(result: Tensor, expected: Tensor) -> float:
    return ((result.to(torch.float64) - expected).norm() / expected.norm()).item()
