"""What fixes the size of the mapped matrix."""

import torch
from torch import Tensor

from htmuon._registry import unknown_name
from htmuon._typing import NORMALIZATIONS, Normalization
from htmuon.linalg import Mapped
from htmuon.linalg.base import positive
from htmuon.spectral.base import SpectralMap


def check_normalization(name: str, *, power: object) -> None:
    """Raise ValueError unless the normalization exists and is defined for the power (None: any other map)."""
    if name not in NORMALIZATIONS:
        raise unknown_name("normalization", name, list(NORMALIZATIONS))
    if name == "lmo" and (power is None or (isinstance(power, int | float) and power < 0)):
        given = "a map that is not a power" if power is None else f"power={power}"
        raise ValueError(
            f"normalization 'lmo' needs the power map with power in [0, 1], where a Schatten ball exists; got {given}. "
            "Use normalization='rms' or 'spectral'."
        )


def normalized(mapped: Mapped, matrix: Tensor, function: SpectralMap, normalization: Normalization) -> Tensor:
    """The mapped matrix at the size that a normalization asks for.

    With `O = U g(S) V^T`, `x = sigma / sigma_1` and d the degree of the map:

    - `none`: `O sigma_1^d`, for powers the published `U S^p V^T`; moves with the scale of `M` by `scale^d`
    - `spectral`: `O`, whose largest direction has weight `g(1)`, for powers 1
    - `rms`: `O sqrt(rank) / norm_F(O)`, the Frobenius norm of a polar factor
    - `lmo`: `O / (sum x^(1+p))^(p/(1+p))`, the minimizer of `-<M, O>` over the unit Schatten-q ball, `q = 1 + 1/p`

    Args:
        mapped: the result of a method, relative to `sigma_1`.
        matrix: `[*batch, m, n]`, the matrix that was mapped.
        function: the map, for its degree and power.
        normalization: one of the names above.

    Returns:
        `[*batch, m, n]` in the dtype of `mapped.matrix`; a zero matrix stays zero under all of them.
    """
    if normalization == "none":
        return mapped.matrix * positive(mapped.sigma_1) ** function.degree
    if normalization == "spectral":
        return mapped.matrix
    if normalization == "rms":
        norm = torch.linalg.matrix_norm(mapped.matrix, keepdim=True)
        return mapped.matrix * (mapped.rank.sqrt() / positive(norm)).to(norm.dtype)
    assert normalization == "lmo"
    assert function.power is not None
    # sum x^(1+p) = <M / sigma_1, O>, by the orthogonality of U and V: no singular values needed.
    relative = matrix.to(mapped.matrix.dtype) / positive(mapped.sigma_1)
    total = (relative * mapped.matrix).sum(dim=(-2, -1), keepdim=True)
    return mapped.matrix / positive(total) ** (function.power / (1 + function.power))
