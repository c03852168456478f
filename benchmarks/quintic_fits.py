"""Quintic steps with free coefficients, fitted for a small largest relative error: what design_quintics.py is made of.

A *row* is one function to be approached, with `4 L - 1` local parameters: the coefficients of L - 1 steps, and L + 2
weights. A *coupling* says how the rows depend on what is really free: every row on its own, rows that share their
steps, or rows between the points of a table. What is minimized is the mean of |error|^m, with m up to 48 instead of
infinity, by Levenberg and Marquardt's algorithm with exact derivatives, on a grid to which the peaks of the error are
added again and again.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
TOP = 1.01
# No factor of a step may come closer to zero, so that no direction is lost or turned.
LEAST_FACTOR = 0.03
# Of the squared weights, relative to the largest value of the function: decides where nothing else does.
RIDGE = 1e-6
# Rounding in bfloat16 raises a level by up to a percent or two, beyond what the next step was made for: raised by this
# share after every step, the result may still not err by more than this.
RAISED = 0.04
RAISED_ERROR = 0.4
# Points that are added, where the error has its highest peaks, every so many rounds.
PEAKS = 40
REFRESH = 6


def grid(smallest: Array, points: int) -> Array:
    """`[rows, points]` for `[rows]` smallest values: even in log x, and finer near the top."""
    share = np.linspace(0, 1, points)
    even = smallest[:, None] ** (1 - share) * TOP**share
    near_top = TOP - (TOP - 0.5) * np.linspace(0, 1, points // 4 + 2)[1:-1] ** 2
    return np.sort(np.concatenate([even, np.broadcast_to(near_top, (len(smallest), len(near_top)))], 1), 1)


def split(rows: Array) -> tuple[Array, Array]:
    """Coefficients `[rows, L - 1, 3]` and weights `[rows, L + 2]` of parameters `[rows, 4 L - 1]`."""
    steps = (rows.shape[1] + 1) // 4
    return rows[:, : 3 * (steps - 1)].reshape(len(rows), steps - 1, 3), rows[:, 3 * (steps - 1) :]


def joined(steps: Array, weights: Array) -> Array:
    return np.concatenate([steps.reshape(len(steps), -1), weights], 1)


@dataclass(frozen=True)
class Chain:
    """Levels `X_k` and factors `X_{k+1} / X_k`, `[rows, points]` each, and their derivatives by all coefficients."""

    levels: list[Array]
    factors: list[Array]
    level_slopes: list[Array]
    factor_slopes: list[Array]

    @property
    def features(self) -> Array:
        """`[rows, points, L + 2]`: what the weights multiply."""
        last = self.levels[-1]
        return np.stack([*self.levels, last**3, last**5], -1)


def run(steps: Array, x: Array, raised: Array | float = 0.0, slopes: bool = False) -> Chain:
    """All levels; every step's result is raised by a share, of which there may be one for each point."""
    count = steps.shape[1]
    chain = Chain([x], [], [np.zeros((*x.shape, 3 * count))] if slopes else [], [])
    for k in range(count):
        level, square = chain.levels[-1], chain.levels[-1] ** 2
        a, b, c = (steps[:, k, i, None] for i in range(3))
        factor = (1 + raised) * (a + square * (b + c * square))
        if slopes:
            slope = chain.level_slopes[-1]
            factor_slope = slope * ((b + 2 * c * square) * 2 * level)[..., None]
            factor_slope[..., 3 * k : 3 * k + 3] += np.stack([np.ones_like(x), square, square**2], -1)
            factor_slope *= np.broadcast_to(1 + raised, x.shape)[..., None]
            chain.factor_slopes.append(factor_slope)
            chain.level_slopes.append(slope * factor[..., None] + level[..., None] * factor_slope)
        chain.factors.append(factor)
        chain.levels.append(level * factor)
    return chain


def result(rows: Array, x: Array, raised: float = 0.0) -> Array:
    steps, weights = split(rows)
    return (run(steps, x, raised).features @ weights[..., None])[..., 0]


def normalized(rows: Array) -> Array:
    """Scale every level so that a mean of high order over x, which is close to its largest value, is one."""
    steps, weights = (part.copy() for part in split(rows))
    x = np.concatenate([np.geomspace(1e-5, 0.1, 200), np.linspace(0.1, TOP, 300)])
    levels = run(steps, np.broadcast_to(x, (len(rows), len(x)))).levels
    return rescaled(steps, weights, [1 / (level**16).mean(1) ** (1 / 16) for level in levels[1:]])


def rescaled(steps: Array, weights: Array, scales: list[Array]) -> Array:
    """The same function with `X_k` multiplied by the k-th scale."""
    before: Array | float = 1.0
    for k, scale in enumerate(scales):
        for i in range(3):
            steps[:, k, i] *= scale / before ** (2 * i + 1)
        if k + 1 < len(scales):
            weights[:, k + 1] /= scale
        before = scale
    for i in range(3):
        weights[:, len(scales) + i] /= before ** (2 * i + 1)
    return joined(steps, weights)


@dataclass(frozen=True)
class Problem:
    """Rows of functions to be approached, each on its own range.

    Attributes:
        target: the functions: `[rows, points]` to `[rows, points]`.
        smallest: `[rows]`.
        points: of the grid, before the peaks are added.
        goal: `[rows]`: errors count relative to it, and ...
        group: ... only the largest of this many neighbouring rows does.
    """

    target: Callable[[Array], Array]
    smallest: Array
    points: int
    goal: Array
    group: int = 1

    def errors(self, rows: Array, points: int = 1500) -> Array:
        """The largest relative error of every row; infinite where a factor is not positive."""
        x = grid(self.smallest, points)
        steps, weights = split(rows)
        chain = run(steps, x)
        error = np.abs((chain.features @ weights[..., None])[..., 0] / self.target(x) - 1).max(1)
        lost = np.min([factor.min(1) for factor in chain.factors], 0) <= 0
        return np.where(lost | ~np.isfinite(error), np.inf, error)

    def scores(self, rows: Array) -> Array:
        """The errors, larger where raised levels err by more than they may: by what fits are compared."""
        _, raised = self._points(rows, self.points, PEAKS, RAISED)
        with np.errstate(invalid="ignore"):
            score = self.errors(rows, 800) * np.maximum(1, raised / RAISED_ERROR)
        return np.where(np.isfinite(score), score, np.inf)

    def sampled(self, rows: Array) -> "Sample":
        x, error = self._points(rows, self.points, PEAKS, 0.0)
        largest = (error / self.goal).reshape(-1, self.group).max(1).repeat(self.group) * self.goal
        raised, raised_error = self._points(rows, self.points // 3, PEAKS // 2, RAISED)
        size = np.repeat(np.maximum(largest, 1e-3)[:, None], x.shape[1], 1)
        raised_size = np.repeat(np.maximum(raised_error, RAISED_ERROR)[:, None], raised.shape[1], 1)
        shares = np.concatenate([np.zeros(x.shape[1]), np.full(raised.shape[1], RAISED)])
        x = np.concatenate([x, raised], 1)
        return Sample(x, self.target(x), np.concatenate([size, raised_size], 1), shares)

    def _points(self, rows: Array, points: int, peaks: int, raised: float) -> tuple[Array, Array]:
        """A grid with the highest peaks of the errors, and the largest error."""
        dense = grid(self.smallest, 10 * self.points)
        error = np.abs(result(rows, dense, raised) / self.target(dense) - 1)
        peak = np.zeros(error.shape, bool)
        peak[:, 1:-1] = (error[:, 1:-1] >= error[:, :-2]) & (error[:, 1:-1] >= error[:, 2:])
        highest = np.argsort(-np.where(peak, error, -1), 1, kind="stable")[:, :peaks]
        return np.concatenate([grid(self.smallest, points), np.take_along_axis(dense, highest, 1)], 1), error.max(1)


@dataclass(frozen=True)
class Sample:
    """Points, the functions and the sizes of errors there, `[rows, points]`, and by how much levels are raised."""

    x: Array
    target: Array
    size: Array
    raised: Array

    def value(self, rows: Array, norm: int) -> Array:
        """What is minimized, `[rows]`."""
        steps, weights = split(rows)
        chain = run(steps, self.x, self.raised)
        return self._value(chain, weights, self._residual(chain, weights), norm)

    def normal(self, rows: Array, norm: int) -> tuple[Array, Array, Array]:
        """Value, gradient `[rows, F]`, and its Gauss-Newton matrix `[rows, F, F]`."""
        steps, weights = split(rows)
        count = steps.shape[1]
        chain = run(steps, self.x, self.raised, slopes=True)
        residual = self._residual(chain, weights)
        square, top = chain.levels[-1] ** 2, self._top()
        outer = weights[:, count, None] + square * (3 * weights[:, count + 1, None] + 5 * square * weights[:, -1, None])
        slopes = chain.level_slopes[-1] * outer[..., None]
        for k in range(1, count):
            slopes += chain.level_slopes[k] * weights[:, k, None, None]
        relative = np.concatenate([slopes, chain.features], -1) / (self.target * self.size)[..., None]
        root = np.sqrt(norm * np.abs(residual) ** (norm - 2) / self.x.shape[1])
        weighted = relative * root[..., None]
        matrix = max(norm / 2, 1) * (weighted.transpose(0, 2, 1) @ weighted)
        gradient = (weighted.transpose(0, 2, 1) @ (root * residual)[..., None])[..., 0]
        for factor, slope in zip(chain.factors, chain.factor_slopes, strict=True):
            lack = np.minimum(factor - LEAST_FACTOR, 0)
            if lack.any():
                active = slope * (lack < 0)[..., None]
                matrix[:, : 3 * count, : 3 * count] += 6 * active.transpose(0, 2, 1) @ active
                gradient[:, : 3 * count] += 6 * (active.transpose(0, 2, 1) @ lack[..., None])[..., 0]
        place = np.arange(3 * count, rows.shape[1])
        gradient[:, place] += 2 * RIDGE * weights / top**2
        matrix[:, place, place] += 2 * RIDGE / top**2
        return self._value(chain, weights, residual, norm), gradient, matrix

    def _top(self) -> Array:
        return np.maximum(1, self.target.max(1, keepdims=True))

    def _residual(self, chain: Chain, weights: Array) -> Array:
        return ((chain.features @ weights[..., None])[..., 0] / self.target - 1) / self.size

    def _value(self, chain: Chain, weights: Array, residual: Array, norm: int) -> Array:
        value = (np.abs(residual) ** norm).mean(1) + RIDGE * ((weights / self._top()) ** 2).sum(1)
        value = value + sum(3 * (np.minimum(factor - LEAST_FACTOR, 0) ** 2).sum(1) for factor in chain.factors)
        return np.where(np.isfinite(value), value, np.inf)


class Separate:
    """Every row has its own parameters: `[rows, F]`."""

    def expand(self, parameters: Array) -> Array:
        return parameters

    def total(self, parameters: Array, value: Array) -> Array:
        return value

    def normal(self, parameters: Array, gradient: Array, matrix: Array) -> tuple[Array, Array]:
        return gradient, matrix


class Common:
    """Groups of rows share their steps: `[groups, 3 (L - 1) + rows of a group * (L + 2)]`."""

    def __init__(self, steps: int, group: int) -> None:
        self.group, self.shared, self.own = group, 3 * (steps - 1), steps + 2

    def expand(self, parameters: Array) -> Array:
        shared = parameters[:, : self.shared].repeat(self.group, 0)
        return np.concatenate([shared, parameters[:, self.shared :].reshape(-1, self.own)], 1)

    def collect(self, rows: Array) -> Array:
        own = rows[:, self.shared :].reshape(-1, self.group * self.own)
        return np.concatenate([rows[:: self.group, : self.shared], own], 1)

    def total(self, parameters: Array, value: Array) -> Array:
        return value.reshape(-1, self.group).sum(1)

    def normal(self, parameters: Array, gradient: Array, matrix: Array) -> tuple[Array, Array]:
        groups, size = parameters.shape
        summed, full = np.zeros((groups, size)), np.zeros((groups, size, size))
        for row in range(self.group):
            start = self.shared + row * self.own
            index = np.r_[: self.shared, start : start + self.own]
            summed[:, index] += gradient[row :: self.group]
            full[:, index[:, None], index] += matrix[row :: self.group]
        return summed, full


class Interpolated:
    """Rows between the points of a table, which is `[1, points * F]`; second differences are kept small.

    The weights at the last point, p = 1, are those of X_0 itself.
    """

    def __init__(self, shares: Array, scale: Array, smooth: float) -> None:
        self.shares, self.scale, self.smooth = shares, scale, smooth
        count = shares.shape[1]
        second = np.diff(np.eye(count), 2, axis=0)
        self.bend = second.T @ second

    def expand(self, parameters: Array) -> Array:
        return self.shares @ parameters.reshape(self.scale.shape)

    def total(self, parameters: Array, value: Array) -> Array:
        scaled = parameters.reshape(self.scale.shape) * self.scale
        # The last row is exact.
        return np.array([value[:-1].sum() + self.smooth * (scaled * (self.bend @ scaled)).sum()])

    def normal(self, parameters: Array, gradient: Array, matrix: Array) -> tuple[Array, Array]:
        points, size = self.scale.shape
        full = np.zeros((points, size, points, size))
        for share, block in zip(self.shares[:-1], matrix[:-1], strict=True):
            nodes = np.flatnonzero(share)
            outer = share[nodes, None] * share[nodes]
            full[np.ix_(nodes, range(size), nodes, range(size))] += outer[:, None, :, None] * block[None, :, None, :]
        scaled = parameters.reshape(points, size) * self.scale
        summed = self.shares[:-1].T @ gradient[:-1] + 2 * self.smooth * self.scale * (self.bend @ scaled)
        for i in range(size):
            full[:, i, :, i] += 2 * self.smooth * self.bend * self.scale[:, i, None] * self.scale[:, i]
        full = full.reshape(points * size, points * size)
        pinned = np.arange(points * size - (size + 9) // 4, points * size)  # L + 2 weights of 4 L - 1 parameters
        full[pinned], full[:, pinned] = 0, 0
        full[pinned, pinned] = 1
        summed = summed.ravel()
        summed[pinned] = 0
        return summed[None], full[None]


Coupling = Separate | Common | Interpolated


def descend(parameters: Array, coupling: Coupling, problem: Problem, norm: int, rounds: int) -> Array:
    """Levenberg and Marquardt's algorithm, for a batch of independent sets of parameters `[batch, F]`."""
    damping = np.full(len(parameters), 1e-3)
    place = np.arange(parameters.shape[1])
    for count in range(rounds):
        if count % REFRESH == 0:
            sample = problem.sampled(coupling.expand(parameters))
        value, gradient, matrix = sample.normal(coupling.expand(parameters), norm)
        total = coupling.total(parameters, value)
        gradient, matrix = coupling.normal(parameters, gradient, matrix)
        diagonal = matrix[:, place, place] + 1e-12
        done = np.zeros(len(parameters), bool)
        for _ in range(5):
            damped = matrix.copy()
            damped[:, place, place] += damping[:, None] * diagonal + 1e-13 * diagonal.max(1, keepdims=True)
            tried = parameters - np.linalg.solve(damped, gradient[..., None])[..., 0]
            with np.errstate(all="ignore"):
                better = coupling.total(tried, sample.value(coupling.expand(tried), norm)) < total
            better &= ~done
            parameters = np.where(better[:, None], tried, parameters)
            damping = np.where(done, damping, np.where(better, np.maximum(0.3 * damping, 1e-10), 5 * damping))
            done |= better
            if done.mean() > 0.7:
                break
    return parameters


def fitted(steps: Array, x: Array, target: Array, rounds: int = 15, ridge: float = 1e-9) -> Array:
    """Rows with the weights of smallest largest relative error for given steps, by Lawson's algorithm."""
    relative = run(steps, x).features / target[..., None]
    importance = np.full(x.shape, 1 / x.shape[1])
    ridge = ridge / np.maximum(1, target.max(1)) ** 2
    for _ in range(rounds):
        weighted = relative * importance[..., None]
        matrix = weighted.transpose(0, 2, 1) @ relative
        # Where levels run away, more of it, so that the matrix has an inverse.
        enough = ridge * np.maximum(1, matrix.max((1, 2)) / 1e6)
        matrix += enough[:, None, None] * np.eye(relative.shape[-1])
        weights = np.linalg.solve(matrix, weighted.sum(1)[..., None])
        importance = importance * np.abs((relative @ weights)[..., 0] - 1)
        importance /= importance.sum(1, keepdims=True)
    return joined(steps, weights[..., 0])


def minimax(features: Array, target: Array) -> Array:
    """Coefficients of smallest largest relative error, by Lawson's algorithm."""
    relative, importance = features / target[:, None], np.full(len(target), 1 / len(target))
    for _ in range(12):
        weighted = relative * importance[:, None]
        found = np.linalg.solve(weighted.T @ relative + 1e-9 * np.eye(features.shape[1]), weighted.sum(0))
        importance = importance * np.abs(relative @ found - 1)
        importance /= importance.sum()
    return found
