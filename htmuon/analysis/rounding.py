"""What rounding makes of a spectrum: zeros that are not zero, and equal singular values that differ.

A power law would be fitted to both. How far rounding goes is known from the dtype in which a matrix was stored, that
of its tensor or, if it has been converted to a wider one since, the narrowest that holds all its entries.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# Dtypes from which matrices are converted to wider ones, the widest first.
_STORED = (torch.float32, torch.float16, torch.bfloat16)
# Rows that are converted at a time, so that an embedding is never there twice.
_ROWS = 2048


def rounding_level(norm: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """What storing a matrix in a dtype can make of a zero singular value.

    Relative errors of up to `eps / 2` of the entries add a matrix of independent errors, whose largest singular value
    is about `0.2 eps rms(W) (sqrt m + sqrt n)`, by the Marchenko-Pastur law. Where entries are below the smallest
    normal number of the dtype, the errors are no longer relative to them, but to that number.

    Args:
        norm: Frobenius norms.
        shape: ends in m, n.
        dtype: in which the matrices were stored.

    Returns:
        Half as much again, float64, in the shape of `norm`.

    Example:
        >>> round(rounding_level(torch.tensor(10.0), (100, 100), torch.bfloat16).item(), 4)
        0.0047
    """
    m, n = max(1, shape[-2]), max(1, shape[-1])
    entry = (norm.double() / math.sqrt(m * n)).clamp(min=1.5 * torch.finfo(dtype).tiny)
    return 0.3 * torch.finfo(dtype).eps * (math.sqrt(m) + math.sqrt(n)) * entry


def resolved_squares(sigma: Tensor, matrix: Tensor, more: Tensor | None = None) -> Tensor:
    """Squares of singular values as far as rounding can tell them apart from zero, and from the largest.

    Those at or below the `rounding_level`, or eight `eps sigma_1` of their arithmetic, are exactly zero. Those within
    twice that level of the largest, or eight `eps sigma_1 sqrt(r)` (what computing an orthogonal matrix leaves), are
    exactly as large.

    Args:
        sigma: `[*batch, r]`, in any order, of the matrices.
        matrix: `[*batch, m, n]`, of which they are.
        more: `[*batch]`, the rounding level of what the matrices were computed from, where it is more.

    Returns:
        `[*batch, r]`, float64; NaN for a matrix that is not finite, or whose squares are not.

    Example:
        >>> rotation = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0))).Q.bfloat16()
        >>> sigma = torch.linalg.svdvals(rotation.double())
        >>> len(sigma.unique()), len(resolved_squares(sigma, rotation).unique())
        (64, 1)
    """
    wide = sigma.double()
    norm = torch.linalg.vector_norm(wide, dim=-1)
    wide = torch.where(torch.isfinite(norm)[..., None], wide, math.nan)
    largest = torch.nn.functional.pad(wide, (0, 1)).amax(dim=-1, keepdim=True)
    level, precision = norm.new_zeros(norm.shape), norm.new_full(norm.shape, torch.finfo(sigma.dtype).eps)
    for dtype, holds in _dtypes_that_hold(matrix):
        level = torch.where(holds, rounding_level(norm, matrix.shape, dtype).maximum(level), level)
        # No decomposition is made in anything narrower than float32.
        computed = min(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
        precision = torch.where(holds, precision.clamp(min=computed), precision)
    if more is not None:
        level = level.maximum(more.to(level))
    arithmetic, level = precision[..., None] * largest, level[..., None]
    wide = torch.where(wide <= level.maximum(8 * arithmetic), 0.0, wide)
    near = (2 * level).maximum(8 * math.sqrt(sigma.shape[-1]) * arithmetic)
    return torch.where(wide >= largest - near, torch.where(wide > 0, largest, 0.0), wide).square()


def _dtypes_that_hold(matrix: Tensor) -> Iterator[tuple[torch.dtype, Tensor]]:
    """Dtypes no wider than that of the matrices, and for which matrices `[*batch]` they hold all entries exactly."""
    own = torch.finfo(matrix.dtype).eps
    yield matrix.dtype, torch.ones(matrix.shape[:-2], dtype=torch.bool, device=matrix.device)
    for dtype in _STORED:
        if torch.finfo(dtype).eps > own:
            yield dtype, _holds(matrix, dtype)


def _holds(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    result = torch.ones(matrix.shape[:-2], dtype=torch.bool, device=matrix.device)
    for start in range(0, matrix.shape[-2], _ROWS):
        rows = matrix[..., start : start + _ROWS, :]
        result &= (rows.to(dtype).to(rows.dtype) == rows).all(dim=-1).all(dim=-1)
        if not bool(result.any()):
            break
    return result
