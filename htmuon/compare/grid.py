"""The search for a learning rate: a geometric grid, extended until its optimum is interior."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """A geometric grid of learning rates.

    Attributes:
        points: size of the grid before extension, at least 3.
        factor: ratio of neighbours, above 1.
        max_extensions: how many points may be added beyond the edges while the best one is at an edge.
    """

    points: int = 5
    factor: float = 2.0
    max_extensions: int = 6

    def __post_init__(self) -> None:
        if self.points < 3:
            raise ValueError(f"grid.points must be at least 3, so that an optimum can be interior; got {self.points}.")
        if not self.factor > 1:
            raise ValueError(f"grid.factor must be greater than 1; got {self.factor}.")
        if self.max_extensions < 0:
            raise ValueError(f"grid.max_extensions must not be negative; got {self.max_extensions}.")


class Map(Protocol):
    """The builtin `map` of one iterable, or one that works on several items at once; results are in order."""

    def __call__(self, function: Callable[[S], T], items: Iterable[S], /) -> Iterator[T]:
        """The results of `function`."""


def search_learning_rate(
    loss: Callable[[float], float], centre: float, config: GridConfig, each: Map = map
) -> dict[float, float]:
    """Losses over a geometric grid around `centre`, extended until the best learning rate has a neighbour on each side.

    Args:
        loss: maps a learning rate to a loss; not-a-number counts as infinite.
        centre: middle of the grid, positive.
        config: the grid.
        each: applies `loss` to the rates of the grid before extension.

    Returns:
        Learning rate -> loss, ascending in the learning rate.

    Example:
        >>> grid = search_learning_rate(lambda lr: abs(lr - 8.0), 1.0, GridConfig(points=3))
        >>> grid
        {0.5: 7.5, 1.0: 7.0, 2.0: 6.0, 4.0: 4.0, 8.0: 0.0, 16.0: 8.0}
        >>> best_learning_rate(grid), is_interior(grid)
        (8.0, True)
    """

    def loss_at(k: int) -> float:
        return _finite_or_inf(loss(_rate(centre, config, k)))

    first = -(config.points // 2)
    points = range(first, first + config.points)
    losses = dict(zip(points, each(loss_at, points), strict=True))
    for _ in range(config.max_extensions):
        best = min(losses, key=lambda k: (losses[k], k))  # of equals the smaller rate: all infinite means too large
        if best == min(losses):
            added = best - 1
        elif best == max(losses):
            added = best + 1
        else:
            break
        losses[added] = loss_at(added)
    return {_rate(centre, config, k): losses[k] for k in sorted(losses)}


def best_learning_rate(grid: Mapping[float, float]) -> float:
    """The learning rate of least loss; the smaller one of equals."""
    return min(grid, key=lambda lr: (grid[lr], lr))


def is_interior(grid: Mapping[float, float]) -> bool:
    """Whether the best learning rate of a grid has neighbours on both sides."""
    return min(grid) < best_learning_rate(grid) < max(grid)


def _rate(centre: float, config: GridConfig, k: int) -> float:
    # Six digits: the rate names a folder, and 0.0200000000001 would be another run.
    return float(f"{centre * config.factor**k:.6g}")


def _finite_or_inf(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
