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


def grid(smallest: float, density: int = 1) -> Tensor:
    """600 points of [smallest, TOP], or as many times that as asked for: even in log x, finer near the top.

    There compositions of polynomials turn fastest. float64.
    """
    points = 400 * density
    even = torch.linspace(math.log(smallest), math.log(TOP), points, dtype=torch.float64).exp()
    near_top = TOP - (TOP - 0.5) * torch.linspace(0, 1, points // 2, dtype=torch.float64) ** 2
    return torch.cat([even, near_top]).sort().values


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

    def grid(self, density: int = 1) -> Tensor:
        """The points at which weights are fitted."""
        return grid(self.smallest, density)


LEVELS: dict[int, Levels] = {
    3: Levels(((3.375452, -6.907413, 4.387563), (3.543692, -8.164577, 5.5404), (3.374598, -6.938997, 4.772479)), 0.02),
    4: Levels(
        (
            (2.72614, -5.965154, 3.903764),
            (3.354783, -12.822369, 14.778068),
            (3.788508, -17.168594, 22.964245),
            (4.243639, -15.350024, 18.343997),
        ),
        0.005,
    ),
    5: Levels(
        (
            (3.267397, -8.211528, 5.693462),
            (3.710683, -12.500462, 11.134864),
            (2.775781, -9.790558, 9.119249),
            (4.962175, -33.311742, 60.225493),
            (4.114041, -13.042399, 12.901655),
        ),
        0.0009,
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
            (3.071348, -6.107541, 3.814946),
            (3.793419, -9.73549, 7.669044),
            (2.892602, -6.197808, 4.164959),
            (3.858526, -12.121166, 11.727904),
            (3.499783, -8.638602, 6.902973),
            (3.85436, -9.619508, 7.138872),
            (3.204737, -5.88893, 3.665176),
        ),
        0.00015,
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
