"""Streaming power iteration: one step per training step on a right basis that is carried along."""

import torch
from torch import Tensor

from htmuon._typing import State
from htmuon.kernels import gram
from htmuon.linalg.base import (
    METHODS,
    Accuracy,
    Mapped,
    Method,
    ScalarFunction,
    direction_weights,
    positive,
    short_side_first,
    unit_scale,
    widest,
    working,
)


def started(basis: Tensor) -> Tensor:
    """The basis, or the identity where it is all zeros: decided on the device."""
    identity = torch.eye(basis.shape[-1], dtype=basis.dtype, device=basis.device)
    fresh = (basis == 0).all(-1, keepdim=True).all(-2, keepdim=True)
    return torch.where(fresh, identity, basis)


def shifted_cholesky(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """`L` with `L L^T = S + shift I`, and whether it exists."""
    r = symmetric.shape[-1]
    trace = positive(symmetric.diagonal(dim1=-2, dim2=-1).sum(-1))[..., None, None]
    shift = 2 * torch.finfo(symmetric.dtype).eps * trace
    identity = torch.eye(r, dtype=symmetric.dtype, device=symmetric.device)
    lower, info = torch.linalg.cholesky_ex(symmetric + shift * identity)
    return lower, (info == 0)[..., None, None]


def orthonormal(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """`Q` of `matrix = Q R`."""
    unit = matrix / positive(torch.linalg.vector_norm(matrix, dim=-2, keepdim=True))
    ok = torch.ones_like(matrix[..., :1, :1], dtype=torch.bool)
    for _ in range(2):
        lower, good = shifted_cholesky(gram(unit.mT))
        unit = torch.linalg.solve_triangular(lower.mT, unit, upper=True, left=False)
        ok = ok & good
    return unit, ok


class Streaming(Method):
    """Power iteration on a carried right basis."""

    name = "streaming"

    def __call__(self, matrix: Tensor, function: ScalarFunction) -> Mapped:
        """Apply `function`, from an exact basis."""
        wide, _ = short_side_first(matrix)
        scaled, _ = unit_scale(wide, widest(matrix.device))
        _, basis = torch.linalg.eigh(gram(scaled))
        return self.advance(matrix, function, {"right_basis": basis.to(working(matrix.dtype))})[0]

    def state_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """A basis of the short side."""
        short = min(shape[-2:])
        return {"right_basis": (*shape[:-2], short, short)}

    def advance(self, matrix: Tensor, function: ScalarFunction, state: State) -> tuple[Mapped, State]:
        """One power-iteration step, then the map."""
        dtype = working(matrix.dtype)
        wide, was_tall = short_side_first(matrix)
        scaled, scale = unit_scale(wide.mT, dtype)
        basis = started(state["right_basis"].to(dtype))
        order = torch.linalg.vector_norm(scaled @ basis, dim=-2).argsort(dim=-1, descending=True)
        basis = basis.gather(-1, order.unsqueeze(-2).expand_as(basis))
        lower, ok = shifted_cholesky(gram((scaled @ basis).mT))
        turned, good = orthonormal(basis @ lower)
        basis = torch.where(ok & good, turned, basis)
        columns = scaled @ basis
        sigma = torch.linalg.vector_norm(columns, dim=-2)
        cutoff = 8 * torch.finfo(dtype).eps * max(matrix.shape[-2:]) ** 0.5
        weights, sigma_1, rank = direction_weights(sigma, function, cutoff)
        mapped = (columns * (weights / positive(sigma)).unsqueeze(-2)) @ basis.mT
        stored = basis.to(state["right_basis"].dtype)
        return Mapped(mapped if was_tall else mapped.mT, (sigma_1 * scale).to(dtype), rank), {
            **state,
            "right_basis": stored,
        }

    def accuracy(self, matrix: Tensor, power: float) -> Accuracy:
        """Of the stateless call."""
        eps = torch.finfo(working(matrix.dtype)).eps * max(matrix.shape[-2:]) ** 0.5
        tolerance = 1e-2
        return Accuracy(tolerance, 10 * eps / tolerance)


METHODS.register(Streaming.name)(Streaming())
