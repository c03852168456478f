"""The weights with which level polynomials approach a function: a minimax fit, for whole families at once.

A *family* is a function with up to a few parameters, `f(x, *theta)`: all powers, all knees. Its weights are fitted once
on a grid of parameters, in less than a second, and interpolated between, so that a scheduled parameter costs neither a
fit nor a wait of the host. The grid's own points are exact.
"""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from htmuon.linalg.base import Family, ScalarFunction

# Lawson's algorithm: this many reweighted least-squares problems. More improve the largest error by less than a tenth.
ROUNDS = 60
# Of the squared size of the weights against the squared relative error: keeps the normal equations positive definite
# where rounding would not, and is too small to move a fit.
RIDGE = 1e-12
# Interpolation between this many neighbours: the error is of fourth order in the spacing.
NEIGHBOURS = 4
# Members of a family that are fitted together: their matrices of 600 points stay in the cache of a core.
TOGETHER = 16
# Points per point of the fit's grid at which the error is looked for.
DENSER = 10
# A fit that is worse than this is worth a warning: it is as far off as the approximations that this method replaces.
POOR = 0.1


class Basis(Protocol):
    """Functions of a number of which every other one is made, with weights."""

    def __len__(self) -> int:
        """How many levels or steps they come from."""

    def __hash__(self) -> int:
        """Equal for equal ones: fits are remembered."""

    def features(self, x: Tensor) -> Tensor:
        """What the weights multiply, `[points, F]` for points `[points]`."""

    def grid(self, density: int = 1) -> Tensor:
        """The points at which weights are fitted, or that many times as many; float64."""


def minimax_weights(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The weights whose largest relative error is smallest, by Lawson's algorithm.

    Args:
        features: `[points, F]`, float64.
        targets: `[*batch, points]`, float64, without zeros.

    Returns:
        Weights `[*batch, F]`, and their largest relative errors `[*batch]`.

    Reference:
        Lawson, Contributions to the theory of linear least maximum approximation, 1961.
    """
    relative = features / targets.unsqueeze(-1)
    importance = torch.full_like(targets, 1 / targets.shape[-1])
    ridge = RIDGE * torch.eye(features.shape[-1], dtype=features.dtype)
    best, smallest = torch.zeros_like(relative[..., 0, :]), torch.full_like(targets[..., 0], torch.inf)
    for _ in range(ROUNDS):
        weighted = relative * importance.unsqueeze(-1)
        normal = weighted.mT @ relative + ridge
        weights = torch.cholesky_solve(weighted.sum(-2).unsqueeze(-1), torch.linalg.cholesky(normal)).squeeze(-1)
        error = ((relative @ weights.unsqueeze(-1)).squeeze(-1) - 1).abs()
        largest = error.amax(-1)
        better = largest < smallest
        best, smallest = torch.where(better.unsqueeze(-1), weights, best), torch.where(better, largest, smallest)
        importance = importance * error
        importance = importance / importance.sum(-1, keepdim=True)
    return best, smallest


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scalar function, beside which a method keeps what it has made of it, in fields of its own.

    Attributes:
        function: the function.
    """

    function: ScalarFunction

    @property
    def power(self) -> float | Tensor | None:
        """The exponent of the function, or None."""
        return self.function.power

    @property
    def family(self) -> Family | None:
        """The family of the function."""
        return self.function.family

    def parameters(self, ratio: Tensor, stable_rank: Tensor) -> tuple[tuple[float | Tensor, ...], float | Tensor]:
        """Which member of its family the function is."""
        return self.function.parameters(ratio, stable_rank)

    def __call__(self, relative: Tensor) -> Tensor:
        """Weights by the function itself."""
        return self.function(relative)


@dataclass(frozen=True, eq=False)
class Fit:
    """The fitted weights of a family.

    Attributes:
        family: what was fitted.
        table: `[members, F]`, float64 on the CPU: the weights at every point of the grid of parameters, the last
            parameter running fastest.
        errors: `[members]`, the largest relative error of each of these members within the range of the levels.
    """

    family: Family
    table: Tensor
    errors: Tensor

    @functools.cached_property
    def error(self) -> float:
        """The largest error of all members."""
        return float(self.errors.max())

    def weights(self, table: Tensor, *parameters: float | Tensor) -> Tensor:
        """The weights of members, `[*batch, F]` in float32, for parameters that broadcast to `[*batch]`.

        Lagrange interpolation through the nearest points of the grid; parameters outside of it are moved to its edge.
        Nothing here waits for the device.

        Args:
            table: the table, on the device where the weights are needed.
            *parameters: one for each axis.
        """
        device = table.device
        index = torch.zeros(1, dtype=torch.int64, device=device)
        share = torch.ones(1, dtype=table.dtype, device=device)
        offsets = torch.arange(NEIGHBOURS, device=device)
        for axis, parameter in zip(self.family.axes, parameters, strict=True):
            given = torch.clamp(_on(parameter, table), axis.low, axis.high)
            place = (given - axis.low) * ((axis.count - 1) / (axis.high - axis.low))
            first = (place.floor() - (NEIGHBOURS // 2 - 1)).clamp(0, axis.count - NEIGHBOURS)
            # Clamped again: NaN is no index.
            nodes = first.to(torch.int64).clamp(0, axis.count - NEIGHBOURS).unsqueeze(-1) + offsets
            index = _outer(index * axis.count, nodes, torch.add)
            share = _outer(share, _lagrange((place - first).unsqueeze(-1)), torch.mul)
        return (share.unsqueeze(-1) * table[index]).sum(-2).to(torch.float32)


def _on(parameter: float | Tensor, like: Tensor) -> Tensor:
    """A parameter in the dtype and on the device of a tensor; filled there, not copied, where it is a number."""
    if isinstance(parameter, Tensor):
        return parameter.to(like.device, like.dtype)
    return torch.full((), parameter, dtype=like.dtype, device=like.device)


def _outer(one: Tensor, other: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """All pairs of the last dims, as one last dim."""
    return combine(one.unsqueeze(-1), other.unsqueeze(-2)).flatten(-2)


def _lagrange(place: Tensor) -> Tensor:
    """The weights of the nodes 0, 1, ... for a polynomial through all of them: `[*batch, nodes]` at `[*batch, 1]`."""
    nodes = range(NEIGHBOURS)
    shares = [
        torch.stack([(place - other) / (node - other) for other in nodes if other != node]).prod(0) for node in nodes
    ]
    return torch.cat(shares, dim=-1)


@functools.lru_cache(maxsize=64)
def fit(levels: Basis, family: Family) -> Fit:
    """Fit the weights of a whole family, once.

    Example:
        >>> from htmuon.linalg.levels import LEVELS
        >>> square_root = fit(LEVELS[6], Family(torch.sqrt))
        >>> square_root.error < 0.005
        True
    """
    x, dense = levels.grid(), levels.grid(DENSER)
    features, dense_features = levels.features(x), levels.features(dense)
    tables, errors = [], []
    for members in torch.split(_grid(family), TOGETHER):
        weights, _ = minimax_weights(features, _values(family, members, x))
        residual = weights @ dense_features.mT / _values(family, members, dense) - 1
        tables.append(weights)
        errors.append(residual.abs().amax(-1))
    return Fit(family, torch.cat(tables), torch.cat(errors))


@functools.lru_cache(maxsize=64)
def fit_to_use(levels: Basis, family: Family) -> Fit:
    """`fit`, for results and not for its error alone: it warns, once, if most of the family is followed badly."""
    result = fit(levels, family)
    typical = float(result.errors.median())
    if typical > POOR:
        warnings.warn(
            f"products follow this function to {typical:.0%} only, with {len(levels)} levels or steps. Use a "
            "smoother function, more of them, or method='eigh', which is exact.",
            stacklevel=2,
        )
    return result


def member_error(levels: Basis, family: Family, *parameters: float) -> float:
    """The largest relative error of one member, with its weights interpolated, within the range of the levels."""
    x, fitted = levels.grid(DENSER), fit(levels, family)
    weights = fitted.weights(fitted.table, *parameters).to(x.dtype)
    return float((levels.features(x) @ weights / family.function(x, *parameters) - 1).abs().max())


def _grid(family: Family) -> Tensor:
    """The parameters of the members that are fitted, `[members, axes]`."""
    if not family.axes:
        return torch.empty(1, 0)
    return torch.stack(torch.meshgrid(*(axis.points() for axis in family.axes), indexing="ij"), -1).flatten(0, -2)


def _values(family: Family, members: Tensor, x: Tensor) -> Tensor:
    """`[members, points]` of members `[members, axes]` at the points x."""
    return family.function(x, *members.unsqueeze(-1).unbind(1)).expand(len(members), -1)
