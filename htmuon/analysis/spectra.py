"""Spectra of matrices: singular values, eigenvalues of W^T W (the ESD), stable rank."""

import math

import torch
from torch import Tensor

from htmuon.analysis.rounding import resolved_squares
from htmuon.kernels import gram

# Rows that are in float64 at a time, so that an embedding is never there as a whole.
_GRAM_ROWS = 2048


def singular_values(matrix: Tensor) -> Tensor:
    """Singular values sigma_1 >= sigma_2 >= ... of each matrix of a stack.

    float64 matrices are decomposed as they are. Others go through their Gram matrix on the shorter side in float64:
    several times faster, and where the decomposition in float32 has an error of 1e-7 sigma_1, this one has a relative
    error of `1e-16 (sigma_1 / sigma)^2`: more exact down to 1e-8 sigma_1.

    Args:
        matrix: `[*batch, m, n]`, floating point.

    Returns:
        `[*batch, min(m, n)]`, descending, float64 for float64 and float32 for all others; NaN for a matrix with an
        entry that is not finite, without harm to the others of the stack.

    Raises:
        TypeError: `matrix` is complex, or of whole numbers.
        ValueError: `matrix` has fewer than two dims, or its numbers are not all here: it is sharded, sparse or meta.

    Example:
        >>> import torch
        >>> singular_values(torch.diag(torch.tensor([1.0, 3.0, 2.0])))
        tensor([3., 2., 1.])
    """
    check_matrix(matrix)
    matrix = matrix.detach()
    if matrix.dtype == torch.float64:
        finite = torch.isfinite(matrix).all(dim=-1).all(dim=-1, keepdim=True)
        sigma: Tensor = torch.linalg.svdvals(torch.where(finite[..., None], matrix, 0.0))
    else:
        products = _short_gram(matrix)
        # An entry that is not finite makes its place on the diagonal so; squares of float32 don't overflow float64.
        finite = torch.isfinite(products.diagonal(dim1=-2, dim2=-1)).all(dim=-1, keepdim=True)
        squares: Tensor = torch.linalg.eigvalsh(torch.where(finite[..., None], products, 0.0))
        sigma = squares.clamp(min=0).sqrt().flip(-1).float()
    return torch.where(finite, sigma, math.nan)


def check_matrix(tensor: Tensor, name: str = "") -> None:
    """Raise TypeError or ValueError unless a tensor is matrices `[*batch, m, n]` of real floating-point numbers."""
    which = f" for {name!r}" if name else ""
    if tensor.ndim < 2:
        raise ValueError(
            f"a matrix must have at least two dims [*batch, m, n]; got shape {tuple(tensor.shape)}{which}; "
            "leave vectors out."
        )
    if not tensor.is_floating_point():
        remedy = (
            "measure real and imaginary part" if tensor.is_complex() else "convert it (quantized weights: dequantize)"
        )
        raise TypeError(f"a matrix must be of real floating-point numbers; got {tensor.dtype}{which}; {remedy}.")
    if hasattr(tensor, "placements"):  # a DTensor, known without torch.distributed
        raise ValueError(f"a matrix must be whole; got a DTensor{which}; pass its full_tensor(), which all ranks call.")
    if tensor.is_meta or tensor.layout is not torch.strided:
        kind = "meta" if tensor.is_meta else tensor.layout
        raise ValueError(
            f"a matrix must be dense and have numbers; got {kind}{which}; load it, or pass its to_dense()."
        )


def _short_gram(matrix: Tensor) -> Tensor:
    """`W^T W` or `W W^T`, whichever is smaller, in float64: `[*batch, r, r]`."""
    long = matrix if matrix.shape[-2] >= matrix.shape[-1] else matrix.mT
    result = long.new_zeros((*long.shape[:-2], long.shape[-1], long.shape[-1]), dtype=torch.float64)
    for start in range(0, long.shape[-2], _GRAM_ROWS):
        result += gram(long[..., start : start + _GRAM_ROWS, :].double().mT)
    return result


def eigenvalues(matrix: Tensor) -> Tensor:
    """Eigenvalues sigma_i^2 of W^T W, whose distribution is the empirical spectral density (ESD) of W.

    Args:
        matrix: `[*batch, m, n]`, floating point.

    Returns:
        `[*batch, min(m, n)]`, float64, descending: the zero eigenvalues that W^T W has when m < n are left out. Those
        that are rounding errors of zero are exactly zero, and those that only rounding makes smaller than the largest
        are as large (see `htmuon.analysis.rounding`).

    Example:
        >>> import torch
        >>> eigenvalues(torch.diag(torch.tensor([1.0, 3.0, 2.0]))).tolist()
        [9.0, 4.0, 1.0]
    """
    return resolved_squares(singular_values(matrix), matrix.detach())


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
    largest = _largest(sigma)
    return torch.where(largest > 0, sigma / largest, 0.0).square().sum(dim=-1)


def spectral_entropy(sigma: Tensor) -> Tensor:
    """Spectral entropy `-sum_i q_i ln q_i / ln r`, `q_i = sigma_i^2 / sum_j sigma_j^2`.

    Args:
        sigma: singular values `[*batch, r]`, in any order.

    Returns:
        `[*batch]`, between 0 (one direction) and 1 (all equal); 0 for a zero matrix and for r = 1.

    Example:
        >>> import torch
        >>> spectral_entropy(torch.tensor([2.0, 2.0, 2.0, 2.0])), spectral_entropy(torch.tensor([1.0, 0.0]))
        (tensor(1.), tensor(0.))

    Source: Alter, Brown, Botstein 2000; the "SVD entropy" of Moonlight (arXiv 2502.16982).
    """
    weights = sigma.double().square()
    shares = weights / weights.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    entropy: Tensor = torch.special.entr(shares).sum(dim=-1) / math.log(max(2, sigma.shape[-1]))
    return entropy.to(sigma.dtype)


def _largest(sigma: Tensor) -> Tensor:
    """sigma_1, or 0 where there are no singular values: `[*batch, 1]`."""
    return torch.nn.functional.pad(sigma, (0, 1)).amax(dim=-1, keepdim=True)
