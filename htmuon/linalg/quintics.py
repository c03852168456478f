"""The coefficients of quintic steps, for every power: `quintics.json`, interpolated between its powers.

`benchmarks/design_quintics.py` found them and finds them again.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

import torch
from torch import Tensor

from htmuon.linalg.base import Axis, Family
from htmuon.linalg.fit import Fit
from htmuon.linalg.levels import grid

# A number, or a tensor that broadcasts against the matrices.
Coefficient = float | Tensor
# How many steps there are recipes for.
STEPS = (4, 5, 6, 7, 8)


class Recipe(NamedTuple):
    """The coefficients of L steps for one function.

        X_{k+1} = a_k X_k + (b_k A_k + c_k A_k^2) X_k,   A_k = X_k X_k^T,   k = 0 ... L - 2
        Y = sum_k w_k X_k + (a I + b A + c A^2) X_{L-1},   A = A_{L-1}

    Attributes:
        steps: `(a_k, b_k, c_k)` of all steps but the last.
        weights: `w_0 ... w_{L-2}`.
        last: `(a, b, c)`.
        rank: with these, `tr A`, `tr A^2` and `tr A^3` sum up to the number of directions in range.
    """

    steps: tuple[tuple[Coefficient, ...], ...]
    weights: tuple[Coefficient, ...]
    last: tuple[Coefficient, ...]
    rank: tuple[Coefficient, ...]

    def as_squares(self) -> "Squares":
        """The same steps on multiples of the levels, so that each is one square."""
        (a, b, c), *others = self.steps
        after: Coefficient = 1.0
        scales, steps = [after], []
        for a_k, b_k, c_k in reversed(others):
            scale = (c_k * after) ** 0.2
            growth = after / scale
            shift = b_k * growth / (2 * scale**2)
            steps.append((shift, a_k * growth - shift**2))
            scales.append(scale)
            after = scale
        weights = (self.weights[0], *(w / scale for w, scale in zip(self.weights[1:], scales[:0:-1], strict=True)))
        return Squares((a * after, b * after, c * after), tuple(reversed(steps)), weights)


class Squares(NamedTuple):
    """The steps of a recipe on `Z_k = r_k X_k`, with `r_{L-1} = 1` and `r_k^5 = c_k r_{k+1}` before it.

        Z_1 = a X_0 + (b A_0 + c A_0^2) X_0
        Z_{k+1} = ((B_k + s_k I)^2 + d_k I) Z_k,   B_k = Z_k Z_k^T,   k = 1 ... L - 2

    One product and two sums on the diagonal make a step's factor, and no pass over the matrix.

    Attributes:
        first: `(a, b, c)`.
        steps: `(s_k, d_k)` of the others but the last.
        weights: those of `X_0` and `Z_1 ... Z_{L-2}`.
    """

    first: tuple[Coefficient, ...]
    steps: tuple[tuple[Coefficient, Coefficient], ...]
    weights: tuple[Coefficient, ...]


@dataclass(frozen=True)
class Chain:
    """Steps that serve every function: the weights and the last step alone depend on it.

    Attributes:
        steps: `(a_k, b_k, c_k)` of all steps but the last.
        smallest: the lower end of the range of `sigma / bound` for which they were made.
        rank: as in `Recipe`.
    """

    steps: tuple[tuple[float, ...], ...]
    smallest: float
    rank: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.steps) + 1

    def grid(self, density: int = 1) -> Tensor:
        """The points at which weights are fitted."""
        return grid(self.smallest, density)

    def features(self, x: Tensor) -> Tensor:
        """What the weights multiply, `[points, L + 2]`: `X_0 ... X_{L-1}`, `A X_{L-1}` and `A^2 X_{L-1}`."""
        found = [x]
        for a, b, c in self.steps:
            square = found[-1] ** 2
            found.append(found[-1] * (a + b * square + c * square**2))
        square = found[-1] ** 2
        return torch.stack([*found, found[-1] * square, found[-1] * square**2], dim=-1)

    def recipe(self, weights: tuple[Coefficient, ...]) -> Recipe:
        """The recipe with these weights, in the order of the features."""
        return Recipe(self.steps, weights[:-3], weights[-3:], self.rank)


@dataclass(frozen=True, eq=False)
class Recipes:
    """The recipes of all powers, and the chain for all other functions.

    Attributes:
        steps: how many, L.
        coefficients: by power, in the order of a recipe's fields.
        smallest: of each power, the lower end of the range of `sigma / bound` for which its coefficients were made.
        errors: of each power, the largest relative error there.
        chain: for functions that are no power.
    """

    steps: int
    coefficients: Fit
    smallest: tuple[float, ...]
    errors: tuple[float, ...]
    chain: Chain

    def at(self, power: float | Tensor, device: torch.device) -> Recipe:
        """The recipe of a power in [-1, 1]: numbers for a number, 0-d ones on the device for a 0-d tensor.

        For a power of each matrix of a stack, `[batch]`, there is a column of each coefficient, `[batch, 1, 1]`.
        """
        if not isinstance(power, Tensor):
            return _at(self, power)
        flat = self.coefficients.weights(_on(self, device), power.flatten())
        alone = len(flat) == 1
        return self.recipe(tuple(column.reshape(() if alone else (-1, 1, 1)) for column in flat.unbind(-1)))

    def range_of(self, power: float) -> tuple[float, float]:
        """The smallest value and the largest error for a power.

        Between two powers of the table those of the worse, and a quarter more error, for the interpolation.

        Example:
            >>> smallest, error = recipes(5).range_of(0.125)
            >>> smallest < 0.0031 and error < 0.03
            True
        """
        (axis,) = self.coefficients.family.axes
        place = (power - axis.low) / (axis.high - axis.low) * (axis.count - 1)
        near = [int(place), min(int(place) + 1, axis.count - 1)] if place % 1 else [int(place)]
        error = max(self.errors[point] for point in near)
        return max(self.smallest[point] for point in near), error if len(near) == 1 else 1.25 * error

    def recipe(self, flat: tuple[Coefficient, ...]) -> Recipe:
        """A recipe from its coefficients in a row."""
        n = self.steps - 1
        steps = tuple(flat[3 * k : 3 * k + 3] for k in range(n))
        return Recipe(steps, flat[3 * n : 4 * n], flat[4 * n : 4 * n + 3], flat[4 * n + 3 :])


@lru_cache(maxsize=8)
def recipes(steps: int) -> Recipes:
    """The recipes of so many steps, read once."""
    table = json.loads(files("htmuon.linalg").joinpath("quintics.json").read_text())[str(steps)]
    count = len(table["powers"])
    rows = [torch.tensor(table[name], dtype=torch.float64).reshape(count, -1) for name in ("steps", "weights", "rank")]
    smallest, errors = tuple(table["smallest"]), tuple(table["errors"])
    family = Family(torch.pow, (Axis(table["powers"][0], table["powers"][-1], count),))
    shared = table["chain"]
    chain = Chain(tuple(map(tuple, shared["steps"])), shared["smallest"], tuple(shared["rank"]))
    coefficients = Fit(family, torch.cat(rows, dim=1), torch.tensor(errors, dtype=torch.float64))
    return Recipes(steps, coefficients, smallest, errors, chain)


@lru_cache(maxsize=1024)
def _at(table: Recipes, power: float) -> Recipe:
    return table.recipe(tuple(table.coefficients.weights(table.coefficients.table, power).reshape(-1).tolist()))


@lru_cache(maxsize=64)
def _on(table: Recipes, device: torch.device) -> Tensor:
    return table.coefficients.table.to(device)
