"""The level polynomials: quadratics q_k that serve every function of the singular values.

    X_0 = x,   a_k = X_k^2,   X_{k+1} = X_k q_k(a_k),   q_k(a) = a_0 + a_1 a + a_2 a^2

`benchmarks/design_levels.py` found the coefficients and finds them again. A level multiplies the smallest values by
three to four and keeps all values in [0, 1], so that more levels cover smaller singular values.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Everything holds up to here: rounding may push a singular value slightly above 1.
TOP = 1.01


@dataclass(frozen=True)
class Levels:
    """One set of level polynomials.

    Attributes:
        coefficients: `(a_0, a_1, a_2)` of each level.
        smallest: the lower end of the range of `sigma / sigma_1` for which they were made.
    """

    coefficients: tuple[tuple[float, float, float], ...]
    smallest: float

    def __len__(self) -> int:
        return len(self.coefficients)

    def chain(self, x: Tensor) -> list[Tensor]:
        """`X_0 ... X_L` at the points x."""
        found = [x]
        for a0, a1, a2 in self.coefficients:
            square = found[-1] ** 2
            found.append(found[-1] * (a0 + a1 * square + a2 * square**2))
        return found

    def features(self, x: Tensor) -> Tensor:
        """What the weights multiply, `[points, 3 L + 3]` for points `[points]`; columns as in `Weights`."""
        levels = self.chain(x)
        squares = [level**2 for level in levels]
        by_c = levels
        by_u = [level * square for level, square in zip(levels, squares, strict=True)]
        by_v = [after * square for after, square in zip(levels[1:], squares[:-1], strict=True)]
        return torch.stack([*by_c, *by_u, *by_v, levels[-1] * squares[-1] ** 2], dim=-1)

    def grid(self, points: int = 400) -> Tensor:
        """Points of [smallest, TOP], float64: even in log x, and finer near the top, where the levels turn fastest."""
        even = torch.linspace(math.log(self.smallest), math.log(TOP), points, dtype=torch.float64).exp()
        near_top = TOP - (TOP - 0.5) * torch.linspace(0, 1, points // 4, dtype=torch.float64) ** 2
        return torch.cat([even, near_top]).sort().values


LEVELS: dict[int, Levels] = {
    3: Levels(
        ((3.542968, -7.512644, 4.905158), (3.485244, -7.430353, 4.925672), (3.116229, -5.902219, 3.796461)), 0.02
    ),
    4: Levels(
        (
            (3.06015, -5.488573, 3.01803),
            (3.431276, -6.870335, 4.340629),
            (3.235024, -5.942246, 3.31631),
            (3.058662, -5.034825, 3.030436),
        ),
        0.01,
    ),
    5: Levels(
        (
            (3.312156, -6.188671, 3.711427),
            (3.454262, -6.9457, 4.241396),
            (3.337612, -6.930972, 4.119978),
            (3.596902, -8.052597, 5.400387),
            (3.137752, -5.775329, 3.652603),
        ),
        0.002,
    ),
    6: Levels(
        (
            (3.341118, -6.852373, 4.340066),
            (2.666619, -5.940452, 4.057729),
            (4.065698, -15.594918, 18.564754),
            (3.552049, -9.87107, 8.738097),
            (3.167296, -8.696145, 7.129805),
            (4.009814, -12.062489, 12.253298),
        ),
        0.0005,
    ),
    7: Levels(
        (
            (3.04292, -5.42338, 2.974715),
            (3.427246, -6.848078, 4.364197),
            (3.036176, -5.441268, 2.999192),
            (3.278317, -6.614597, 4.229782),
            (3.417643, -6.750415, 4.117521),
            (3.158442, -5.710497, 3.159674),
            (2.866516, -4.85967, 3.014125),
        ),
        0.0003,
    ),
    8: Levels(
        (
            (2.813961, -5.686598, 3.579502),
            (3.811297, -11.686544, 11.079266),
            (3.18351, -7.935993, 6.248642),
            (3.087508, -9.13066, 8.351904),
            (3.748735, -13.920133, 16.239205),
            (3.639319, -11.601139, 11.725047),
            (4.165859, -12.289095, 11.009954),
            (3.188752, -5.583063, 3.310176),
        ),
        5e-05,
    ),
}
