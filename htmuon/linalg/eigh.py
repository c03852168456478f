"""The CPU default: an eigendecomposition of the Gram matrix on the short side."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from htmuon.kernels import gram
from htmuon.linalg.base import (
    METHODS,
    Accuracy,
    Mapped,
    Method,
    ScalarFunction,
    compute_dtype,
    direction_weights,
    safe_divisor,
    short_side_first,
    unit_scale,
    widest,
)
from htmuon.linalg.strips import multiplied, overwritten, strips, total


@dataclass(frozen=True)
class Eigh(Method):
    """Eigendecomposition of the short-side Gram matrix in float64: about half the price of an SVD in it.

    For `M` with m <= n: `M M^T = U S^2 U^T`, then `B = U^T M`, whose rows are `sigma_i v_i^T`. The singular values are
    taken from the lengths of these rows and not from the eigenvalues: an eigenvalue carries an error of `eps
    sigma_1^2`, which drowns every `sigma < sqrt(eps) sigma_1`, while a row carries `eps sigma_1`. The eigenvectors are
    needed in float64 for the same reason: in float32 a trace of the first direction in the last ones is as large as
    their own length at condition 1e4. The last product, of factors that are all of order one, is done in the dtype of
    the result.

    Relative singular values below the rounding of float32 count as zero: a float32 gradient of low rank (few tokens,
    wide layer) has directions that rounding alone made, and a power near or below zero would blow them up.

    Not for directions below 1e-6 of the largest: use `svd`, in float64 for what float32 cannot hold.
    """

    name: ClassVar[str] = "eigh"
    compiles: ClassVar[bool] = False

    def __call__(self, matrix: Tensor, function: ScalarFunction) -> Mapped:
        """Apply `function` to the relative singular values."""
        wide, tall = short_side_first(matrix)
        dtype, double = compute_dtype(matrix.dtype), widest(matrix.device)
        scaled, scale = unit_scale(wide, dtype)
        # What is wide is in float64 strip by strip: a whole copy would be twice the matrix.
        pieces = strips(scaled)
        _, u = torch.linalg.eigh(total(gram(piece.to(double)) for piece in pieces))
        squares, kept = [], []
        for piece in pieces:
            rows = u.mT @ piece.to(double)
            squares.append(rows.square().sum(-1))
            kept.append(overwritten(piece, rows))
        rotated = kept[0] if len(kept) == 1 else scaled
        sigma = total(squares).sqrt()
        cutoff = max(torch.finfo(double).eps * max(matrix.shape[-2:]), torch.finfo(dtype).eps)
        weights, sigma_1, rank = direction_weights(sigma, function, cutoff)
        # On the columns of U rather than on the rows of B, of which there is as much or more.
        mapped = multiplied((u * (weights / safe_divisor(sigma)).unsqueeze(-2)).to(dtype), rotated)
        return Mapped.by_sigma_1(mapped.mT if tall else mapped, (sigma_1 * scale).to(dtype), rank)

    def accuracy(self, matrix: Tensor, power: float) -> Accuracy:
        """Rows of neighbouring small directions mix by `eps / x^2`, which sets the range for a given tolerance."""
        tolerance = 1e-3
        eps = torch.finfo(widest(matrix.device)).eps * min(matrix.shape[-2:]) ** 0.5
        return Accuracy(tolerance, (eps / tolerance) ** 0.5)


METHODS.register(Eigh.name)(Eigh())
