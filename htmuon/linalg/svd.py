"""The oracle: a singular value decomposition in the widest precision."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from htmuon.linalg.base import (
    METHODS,
    Accuracy,
    Mapped,
    Method,
    ScalarFunction,
    compute_dtype,
    direction_weights,
    unit_scale,
    widest,
)


@dataclass(frozen=True)
class SVD(Method):
    """Singular value decomposition in float64: exact for every function, and the dearest.

    `M = U S V^T` by `torch.linalg.svd`, then `U g(S / sigma_1) V^T` of the matrix as it is stored: directions that only
    the rounding of a narrow dtype made count like any other. Not for training large models: it is several times as dear
    as `eigh` (`htmuon bench`), and on a GPU it waits for the host.
    """

    name: ClassVar[str] = "svd"
    compiles: ClassVar[bool] = False

    def __call__(self, matrix: Tensor, function: ScalarFunction) -> Mapped:
        """Apply `function` to the relative singular values."""
        scaled, scale = unit_scale(matrix, widest(matrix.device))
        u, sigma, vh = torch.linalg.svd(scaled, full_matrices=False)
        cutoff = torch.finfo(scaled.dtype).eps * max(matrix.shape[-2:])
        weights, sigma_1, rank = direction_weights(sigma, function, cutoff)
        dtype = compute_dtype(matrix.dtype)
        mapped = (u * weights.unsqueeze(-2)).to(dtype) @ vh.to(dtype)
        return Mapped.by_sigma_1(mapped, (sigma_1 * scale).to(dtype), rank)

    def accuracy(self, matrix: Tensor, power: float) -> Accuracy:
        """Exact up to the rounding of the result, down to the rounding of the decomposition."""
        eps = torch.finfo(widest(matrix.device)).eps * max(matrix.shape[-2:])
        rounding = torch.finfo(compute_dtype(matrix.dtype)).eps
        tolerance = max(100 * rounding, eps**0.5)
        # A singular value is off by about eps * sigma_1, so its relative error at x is eps / x.
        return Accuracy(tolerance, eps / tolerance)


METHODS.register(SVD.name)(SVD())
