"""What fixes the size of the mapped matrix."""

from collections.abc import Sequence

import torch
from torch import Tensor

from htmuon._checks import host_may_look
from htmuon._registry import unknown_name
from htmuon._typing import NORMALIZATIONS, Normalization
from htmuon.linalg import Mapped
from htmuon.linalg.base import safe_divisor
from htmuon.spectral.base import SpectralMap


def check_normalization(name: str, *, power: object) -> None:
    """Raise ValueError unless the normalization exists and is defined for the power (None: any other map)."""
    if name not in NORMALIZATIONS:
        raise unknown_name("normalization", name, list(NORMALIZATIONS))
    lowest = -float((power < 0).any()) if isinstance(power, Tensor) and host_may_look(power) else power
    if name == "lmo" and (power is None or (isinstance(lowest, int | float) and lowest < 0)):
        given = "a map that is not a power" if power is None else f"power={power}"
        raise ValueError(
            f"normalization 'lmo' needs the power map with power in [0, 1], where a Schatten ball exists; got {given}. "
            "Use normalization='rms' or 'spectral'."
        )


def settled(name: Normalization, degrees: Sequence[float]) -> Normalization:
    """The normalization for maps of some degrees: what `auto` stands for where all of them have one sign.

    `auto` is the published size, `none`, for a map that grows with the matrix or does not see its scale, and `rms` for
    one that grows as the matrix shrinks (p < 0), which without it would make the largest steps where there is least to
    say. Both are `U V^T` at p = 0, so that a power that crosses it does not change the size.

    Example:
        >>> settled("auto", [0.125, 0.0]), settled("auto", [-0.25]), settled("auto", [0.5, -0.5])
        ('none', 'rms', 'auto')
    """
    if name != "auto" or (min(degrees) < 0 <= max(degrees)):
        return name
    return "rms" if max(degrees) < 0 else "none"


def normalized(
    mapped: Mapped, matrix: Tensor, function: SpectralMap, normalization: Normalization, floor: float = 0.0
) -> Tensor:
    """The mapped matrix at the size that a normalization asks for.

    With `O = U g(S) V^T`, `x = sigma / sigma_1` and d the degree of the map:

    - `auto`: `rms` where d < 0, else `none`
    - `none`: `O sigma_1^d`, for powers the published `U S^p V^T`; moves with the scale of `M` by `scale^d`
    - `spectral`: `O`, whose largest direction has weight `g(1)`, for powers 1
    - `rms`: `O sqrt(rank) / norm_F(O)`, the Frobenius norm of a polar factor
    - `lmo`: `O / (sum x^(1+p))^(p/(1+p))`, the minimizer of `-<M, O>` over the unit Schatten-q ball, `q = 1 + 1/p`

    Args:
        mapped: the result of a method, relative to `sigma_1`; written over.
        matrix: `[*batch, m, n]`, the matrix that was mapped.
        function: the map, for its degree and power.
        normalization: one of the names above.
        floor: matrices whose largest singular value is not above it count as zero.

    Returns:
        `[*batch, m, n]` in the dtype of `mapped.matrix`; a zero matrix stays zero under all of them.
    """
    keeps = normalization in ("none", "spectral") and not isinstance(function.degree, Tensor) and function.degree == 0
    if keeps and floor == 0:
        return mapped.matrix
    size = _size(mapped, matrix, function, normalization)
    if floor > 0:
        size = torch.where(mapped.reference > floor, size, 0.0)
    size = size.to(mapped.matrix.dtype)
    # A gradient through it needs the matrix as it was.
    return mapped.matrix * size if mapped.matrix.requires_grad else mapped.matrix.mul_(size)


def _size(mapped: Mapped, matrix: Tensor, function: SpectralMap, normalization: Normalization) -> Tensor:
    """The factor of each mapped matrix, `[*batch, 1, 1]`."""
    if normalization == "auto":
        degree = function.degree
        if isinstance(degree, Tensor):  # that the host does not know
            published, scale_free = (_size(mapped, matrix, function, name) for name in ("none", "rms"))
            return torch.where(degree < 0, scale_free, published)
        normalization = settled(normalization, [degree])
    if normalization == "none":
        return safe_divisor(mapped.reference) ** function.degree
    if normalization == "spectral":
        return (safe_divisor(mapped.reference) / safe_divisor(mapped.sigma_1)) ** function.degree
    if normalization == "rms":
        return mapped.rank.to(mapped.matrix.dtype).sqrt() / safe_divisor(
            torch.linalg.matrix_norm(mapped.matrix, keepdim=True)
        )
    assert normalization == "lmo"
    # sum x^(1+p) = <M / sigma_1, O>, by the orthogonality of U and V: no singular values needed.
    relative = matrix.to(mapped.matrix.dtype) / safe_divisor(mapped.reference)
    total = (relative * mapped.matrix).sum(dim=(-2, -1), keepdim=True)
    power = function.degree  # this normalization is for powers alone
    factor: Tensor = 1 / safe_divisor(total) ** (power / (1 + power))
    return factor
