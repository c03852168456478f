"""Spectra of matrices: singular values, eigenvalues of W^T W (the ESD), stable rank."""

import torch
from torch import Tensor


def singular_values(matrix: Tensor) -> Tensor:
    """Singular values sigma_1 >= sigma_2 >= ... of each matrix of a stack.

    Computed in float32, or in float64 where the matrix is float64 already: half precision would bury the small ones.

    Args:
        matrix: `[*batch, m, n]`, floating point.

    Returns:
        `[*batch, min(m, n)]`, descending, float32 or float64.

    Raises:
        ValueError: `matrix` has fewer than two dims.

    Example:
        >>> import torch
        >>> singular_values(torch.diag(torch.tensor([1.0, 3.0, 2.0])))
        tensor([3., 2., 1.])
    """
    if matrix.ndim < 2:
        raise ValueError(f"matrix must have at least two dims [*batch, m, n]; got shape {tuple(matrix.shape)}.")
    working = matrix.detach() if matrix.dtype == torch.float64 else matrix.detach().float()
    sigma: Tensor = torch.linalg.svdvals(working)
    return sigma


def eigenvalues(matrix: Tensor) -> Tensor:
    """Eigenvalues sigma_i^2 of W^T W, whose distribution is the empirical spectral density (ESD) of W.

    Args:
        matrix: `[*batch, m, n]`, floating point.

    Returns:
        `[*batch, min(m, n)]`, descending: the zero eigenvalues that W^T W has when m < n are left out.

    Example:
        >>> import torch
        >>> eigenvalues(torch.diag(torch.tensor([1.0, 3.0, 2.0])))
        tensor([9., 4., 1.])
    """
    return singular_values(matrix).square()


def stable_rank(sigma: Tensor) -> Tensor:
    """Stable rank `sum_i sigma_i^2 / sigma_1^2`: how many directions carry the Frobenius norm.

    Args:
        sigma: singular values `[*batch, r]`, in any order.

    Returns:
        `[*batch]`, between 1 and r; 0 for a zero matrix.

    Example:
        >>> import torch
        >>> stable_rank(torch.tensor([2.0, 2.0, 1.0, 0.0]))
        tensor(2.2500)
    """
    largest = sigma.amax(dim=-1, keepdim=True)
    return torch.where(largest > 0, sigma / largest, 0.0).square().sum(dim=-1)
