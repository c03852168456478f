"""Design the level polynomials of the polynomial method, and print them with the errors that they allow.

    python benchmarks/design_levels.py                # every number of levels in htmuon/linalg/levels.py
    python benchmarks/design_levels.py --levels 6 --smallest 5e-4

With `X_0 = x`, `a_k = X_k^2`, `X_{k+1} = X_k q_k(a_k)` and quadratics q_k, every function f on [smallest, 1] is
approached by

    Y = R_0 x,   R_k = c_k + u_k a_k + q_k (R_{k+1} + v_k a_k),   R_L = c_L + u_L a_L + v_L a_L^2.

For fixed q_k the weights that minimize the largest relative error are a linear program. The q_k are found by
sequential linear programming: linearize the errors of several powers at once in q and in all weights, minimize the
largest within a trust region, and keep the step if the true optimum improved. Starts are greedy minimax polynomials for
x^0 in the manner of Polar Express (arXiv 2505.16932), made for a larger smallest value than asked for ("cushion").
Weights are bounded, so that nothing cancels and rounding stays small; levels stay below 1, rounding included; all of it
holds up to x = 1.01, so that rounding cannot push a singular value out of the range. Needs scipy.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sparse
from scipy.optimize import linprog

Array = np.ndarray
TOP = 1.01
# The powers that share the q_k, by the relative error that counts as much as one at p = 0. A negative power asks for
# more, and its error may be larger.
TARGETS = {-0.25: 8.0, 0.0: 1.0, 0.125: 1.0, 0.3: 1.0, 0.6: 1.0}
LARGEST_WEIGHT = 3.0
SMALLEST = {3: 2e-2, 4: 5e-3, 5: 9e-4, 6: 5e-4, 7: 1.5e-4, 8: 5e-5}
# By how much rounding may raise every level, relative to it, and none of them may pass 1 still: several percent in half
# precision, where coefficients are large. The five levels are steep for their number, and need what others have anyway.
RAISED = {5: 0.05}
CUSHIONS = (0.1, 0.15, 0.2, 0.25)


def grid(smallest: float, points: int) -> Array:
    """Even in log x, and finer near the top, where the composition oscillates fastest."""
    near_top = TOP - (TOP - 0.5) * np.linspace(0, 1, points // 4) ** 2
    return np.unique(np.concatenate([np.geomspace(smallest, TOP, points), near_top]))


@dataclass(frozen=True)
class Chain:
    """Levels on a grid, with derivatives by the 3 L coefficients.

    Attributes:
        features: `[points, 3 L + 3]`, what the weights multiply.
        slopes: `[points, 3 L + 3, 3 L]`.
        levels: X_1 ... X_L.
        level_slopes: their derivatives `[points, 3 L]`.
    """

    features: Array
    slopes: Array
    levels: list[Array]
    level_slopes: list[Array]


def chain(q: Array, x: Array, raised: float = 0.0) -> Chain:
    """Run the levels, each raised by rounding; `q` is `[L, 3]`."""
    count = q.size
    level, slope = x, np.zeros((len(x), count))
    features, slopes, levels, level_slopes = [level], [slope], [], []

    def add(value: Array, derivative: Array) -> None:
        features.append(value)
        slopes.append(derivative)

    for k, (a, b, c) in enumerate(q):
        square, square_slope = level**2, 2 * level[:, None] * slope
        add(level * square, slope * square[:, None] + level[:, None] * square_slope)
        value = a + b * square + c * square**2
        value_slope = (b + 2 * c * square)[:, None] * square_slope
        value_slope[:, 3 * k : 3 * k + 3] += np.stack([np.ones_like(x), square, square**2], 1)
        slope = (1 + raised) * (slope * value[:, None] + level[:, None] * value_slope)
        level = (1 + raised) * level * value
        levels.append(level)
        level_slopes.append(slope)
        add(level * square, slope * square[:, None] + level[:, None] * square_slope)
        add(level, slope)
    square, square_slope = level**2, 2 * level[:, None] * slope
    add(level * square, slope * square[:, None] + level[:, None] * square_slope)
    add(level * square**2, slope * (square**2)[:, None] + (2 * level * square)[:, None] * square_slope)
    return Chain(np.stack(features, 1), np.stack(slopes, 1), levels, level_slopes)


def largest_weight(power: float) -> float:
    return LARGEST_WEIGHT * TARGETS[power]


def best_weights(features: Array, target: Array, bound: float) -> tuple[Array, float]:
    """The weights with the smallest largest relative error, and that error: a linear program."""
    relative = features / target[:, None]
    ones = np.ones((len(target), 1))
    result = linprog(
        np.r_[np.zeros(features.shape[1]), 1.0],
        A_ub=np.block([[relative, -ones], [-relative, -ones]]),
        b_ub=np.r_[np.ones(len(target)), -np.ones(len(target))],
        bounds=[(-bound, bound)] * features.shape[1] + [(0, None)],
        method="highs",
    )
    if result.x is None:  # the solver gave up: as bad as can be, so that the search turns back
        return np.zeros(features.shape[1]), np.inf
    return result.x[:-1], float(result.x[-1])


class Search:
    """Sequential linear programming over the coefficients of all levels.

    Args:
        smallest: the lower end of the range.
        points: of the first grid; `refine` adds the places of the largest errors.
        raised: by how much rounding may raise every level.
    """

    def __init__(self, smallest: float, points: int, raised: float) -> None:
        self.smallest = smallest
        self.raised = raised
        self.x = grid(smallest, points)
        self.bounded = np.unique(np.concatenate([np.geomspace(smallest / 30, smallest, 20), grid(smallest, 160)]))

    def value(self, q: Array) -> tuple[float, list[Array], dict[float, float]]:
        """The largest weighted error, the weights of every power, and the error of every power."""
        features = chain(q, self.x).features
        found = {p: best_weights(features, self.x**p, largest_weight(p)) for p in TARGETS}
        errors = {p: error for p, (_, error) in found.items()}
        return max(errors[p] / TARGETS[p] for p in TARGETS), [w for w, _ in found.values()], errors

    def step(self, q: Array, weights: list[Array], radius: float) -> Array | None:
        """The best coefficients within the trust region, to first order."""
        here, edge = chain(q, self.x), chain(q, self.bounded, self.raised)
        points, count, size = len(self.x), here.features.shape[1], q.size
        rows, limits = [], []
        for index, ((power, scale), weight) in enumerate(zip(TARGETS.items(), weights, strict=True)):
            target = scale * self.x[:, None] ** power
            by_q = np.einsum("nfq,f->nq", here.slopes, weight) / target
            blocks = [sparse.csr_matrix(by_q)]
            blocks += [sparse.csr_matrix((points, count)) for _ in range(index)]
            blocks += [sparse.csr_matrix(here.features / target)]
            blocks += [sparse.csr_matrix((points, count)) for _ in range(len(TARGETS) - index - 1)]
            row = sparse.hstack(blocks)
            error = sparse.csr_matrix(-np.ones((points, 1)))
            rows += [sparse.hstack([row, error]), sparse.hstack([-row, error])]
            limits += [np.full(points, 1 / scale), np.full(points, -1 / scale)]
        rest = sparse.csr_matrix((len(self.bounded), len(TARGETS) * count + 1))
        for level, slope in zip(edge.levels, edge.level_slopes, strict=True):
            row = sparse.hstack([sparse.csr_matrix(slope), rest])
            rows += [row, -row]
            # A start may lie outside of [0, 1]: then it has to come closer.
            limits += [max(1.0, 0.8 * level.max() + 0.2) - level, level - min(0.0, level.min())]
        reach = radius * np.maximum(1, np.abs(q.ravel()))
        result = linprog(
            np.r_[np.zeros(size + len(TARGETS) * count), 1.0],
            A_ub=sparse.vstack(rows).tocsc(),
            b_ub=np.concatenate(limits),
            bounds=[*zip(-reach, reach, strict=True)]
            + [(-largest_weight(p), largest_weight(p)) for p in TARGETS for _ in range(count)]
            + [(0, None)],
            method="highs",
        )
        return None if result.x is None else q + result.x[:size].reshape(q.shape)

    def descend(self, q: Array, steps: int, radius: float) -> Array:
        """Steps of an adapting trust region, until they gain nothing."""
        value, weights, _ = self.value(q)
        for _ in range(steps):
            tried = self.step(q, weights, radius)
            new = self.value(tried) if tried is not None else (np.inf, weights, {})
            if tried is None or new[0] >= value:
                radius *= 0.35
                if radius < 1e-5:
                    break
                continue
            gain = (value - new[0]) / value
            q, (value, weights, _) = tried, new
            radius = min(1.6 * radius, 0.3)
            if gain < 1e-4:
                break
        return q

    def refine(self, q: Array) -> dict[float, float]:
        """Add the peaks of a dense grid to the points of the search; the true errors."""
        dense = grid(self.smallest, 8000)
        reached = chain(q, dense)
        errors, peaks = {}, []
        for power, weight in zip(TARGETS, self.value(q)[1], strict=True):
            error = np.abs(reached.features @ weight / dense**power - 1)
            errors[power] = float(error.max())
            peaks.append(dense[1:-1][(error[1:-1] >= error[:-2]) & (error[1:-1] >= error[2:])])
        for level in chain(q, dense, self.raised).levels:
            top = (level[1:-1] >= level[:-2]) & (level[1:-1] >= level[2:]) & (level[1:-1] > 0.97)
            self.bounded = np.unique(np.concatenate([self.bounded, dense[1:-1][top]]))
        self.x = np.unique(np.concatenate([self.x, *peaks]))
        return errors


def greedy_start(levels: int, smallest: float, cushion: float, raised: float) -> Array:
    """One level after the other: the odd quintic that comes closest to 1 on what the levels before left."""
    found, low, top = [], smallest, TOP
    for _ in range(levels):
        first = max(low, cushion)
        x = np.unique(np.concatenate([np.linspace(first, top, 1500), np.geomspace(first, top, 500)]))
        coefficients, error = best_weights(np.stack([x, x**3, x**5], 1), np.ones_like(x), np.inf)
        coefficients /= (1 + error) * (1 + raised) ** 2
        inside = np.linspace(low, top, 4000)
        low, top = float((coefficients @ np.stack([inside, inside**3, inside**5])).min()), 1 / (1 + raised)
        found.append(coefficients)
    return np.array(found)


def searched(levels: int, smallest: float, points: int, steps: int) -> Iterator[dict[str, Any]]:
    """A local optimum from every start."""
    for cushion in CUSHIONS:
        began = time.monotonic()
        search = Search(smallest, points, RAISED.get(levels, 0.0))
        q = search.descend(greedy_start(levels, smallest, cushion, search.raised), steps, 0.05)
        for _ in range(4):
            errors = search.refine(q)
            if max(errors[p] / TARGETS[p] for p in TARGETS) <= 1.02 * search.value(q)[0]:
                break
            q = search.descend(q, steps // 3, 0.02)
        errors = search.refine(q)
        yield {
            "levels": levels,
            "smallest": smallest,
            "cushion": cushion,
            "worst": max(errors[p] / TARGETS[p] for p in TARGETS),
            "errors": errors,
            "coefficients": q.round(6).tolist(),
            "seconds": round(time.monotonic() - began),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", type=int, nargs="+", default=list(SMALLEST), help="numbers of levels (default all)")
    parser.add_argument("--smallest", type=float, help="lower end of the range (default by the number of levels)")
    parser.add_argument("--points", type=int, default=180, help="points of the first grid (default 180)")
    parser.add_argument("--steps", type=int, default=80, help="steps of each search, at most (default 80)")
    arguments = parser.parse_args()
    for levels in arguments.levels:
        best: dict[str, Any] | None = None
        for found in searched(levels, arguments.smallest or SMALLEST[levels], arguments.points, arguments.steps):
            print(json.dumps(found), flush=True)
            best = found if best is None or found["worst"] < best["worst"] else best
        assert best is not None
        print(f"\n{levels} levels on [{best['smallest']:g}, {TOP}], largest error by power: {best['errors']}")
        print("\n".join(f"    ({a!r}, {b!r}, {c!r})," for a, b, c in best["coefficients"]), flush=True)


if __name__ == "__main__":
    main()
