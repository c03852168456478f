"""How a comparison chooses learning rates: a geometric grid whose optimum is interior, and a file of stored results."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from htmuon.baselines.specs import has_other_rate

S = TypeVar("S")
T = TypeVar("T")

# Where the search starts. The grid is extended as far as it must be, so a start costs runs at worst, never fairness.
DEFAULT_CENTRES = {"adamw": 0.004, "adamuon": 0.004, "htadamuon": 0.004}
DEFAULT_CENTRES |= {"sgd": 0.1, "soap": 0.004, "lion": 0.0004, "ademamix": 0.004, "mars": 0.008}
DEFAULT_CENTRE = 0.02


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


@dataclass(frozen=True, kw_only=True)
class TunedOptimizer:
    """What the search found for one optimizer.

    Attributes:
        lr: the best learning rate.
        adamw_lr: the learning rate of the other parameters during the search; `lr` where there is one for all.
        grid: loss of each learning rate tried, ascending; infinite where the run diverged. Empty for a learning rate
            that others published.
        interior: whether both neighbours of `lr` were tried and are worse.
        other_grid: loss of each learning rate of the other parameters that was tried with this optimizer, ascending;
            empty where theirs was found with another one.
    """

    lr: float
    adamw_lr: float
    grid: Mapping[float, float]
    interior: bool
    other_grid: Mapping[float, float] = field(default_factory=dict)


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


def default_centre(spec: str) -> float:
    """Where the search for an optimizer spec such as "htmuon:power=0.25" starts."""
    return DEFAULT_CENTRES.get(spec.partition(":")[0], DEFAULT_CENTRE)


def are_relatives(spec: str, other: str) -> bool:
    """Whether the searches for two optimizers start at the same rate by default, and neither has one of its own.

    Example:
        >>> are_relatives("muon", "htmuon:power=0.25"), are_relatives("muon", "lion")
        (True, False)
    """
    names = {text.partition(":")[0] for text in (spec, other)}
    return not names & set(DEFAULT_CENTRES)


def _rate(centre: float, config: GridConfig, k: int) -> float:
    # Six digits: the rate names a folder, and 0.0200000000001 would be another run.
    return float(f"{centre * config.factor**k:.6g}")


def _finite_or_inf(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


@dataclass(frozen=True, kw_only=True)
class TunedRecipe:
    """Stored learning rates of one recipe.

    Attributes:
        settings: the training settings of the search, flat: what a learning rate depends on.
        seeds: seeds of the search.
        command: what was typed for the latest of them, or where they were published.
        versions: versions of the libraries used for these.
        optimizers: result of each optimizer spec.
    """

    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    command: str
    versions: Mapping[str, str]
    optimizers: Mapping[str, TunedOptimizer] = field(default_factory=dict)

    @property
    def published(self) -> bool:
        """Whether the learning rates are those that others published, and were not searched for."""
        return not any(found.grid for found in self.optimizers.values())

    def changed_settings(self, settings: Mapping[str, Any]) -> list[str]:
        """One phrase for each setting that differs from those of the search."""
        names = sorted({*self.settings, *settings})
        return [
            f"{name} was {self.settings.get(name)!r}, is {settings.get(name)!r}"
            for name in names
            if self.settings.get(name) != settings.get(name)
        ]


def load_tuned(path: Path) -> dict[str, TunedRecipe]:
    """Read a file of stored learning rates: recipe name -> results.

    Raises:
        ValueError: the file cannot be read or is not such a file.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {name: _recipe_from_json(entry) for name, entry in stored.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} must be a file written by `htmuon compare ... --learning-rates tune --save-tuned PATH`; "
            f"reading it failed: {type(error).__name__}: {error}."
        ) from error


def merge_tuned(stored: Mapping[str, TunedRecipe], recipe: str, found: TunedRecipe) -> dict[str, TunedRecipe]:
    """`stored` with the results of a search put in.

    Older results of that recipe stay if they come from the same settings and seeds, and, where both searches had a
    learning rate of the other parameters, it was the same: then the new search would have found them too.
    """
    old = stored.get(recipe)
    if old is not None and not old.changed_settings(found.settings) and old.seeds == found.seeds:
        rates = {optimizer.adamw_lr for spec, optimizer in found.optimizers.items() if has_other_rate(spec)}
        kept = {
            spec: optimizer
            for spec, optimizer in old.optimizers.items()
            if not (rates and has_other_rate(spec)) or {optimizer.adamw_lr} == rates
        }
        found = TunedRecipe(
            settings=found.settings,
            seeds=found.seeds,
            command=found.command,
            versions=found.versions,
            optimizers={**kept, **found.optimizers},
        )
    return {**stored, recipe: found}


def tuned_to_json(stored: Mapping[str, TunedRecipe]) -> str:
    """The text of a file of stored learning rates."""
    plain = {name: asdict(entry) for name, entry in stored.items()}
    for entry in plain.values():
        for optimizer in entry["optimizers"].values():
            for grid in ("grid", "other_grid"):
                optimizer[grid] = [[lr, _finite_or_none(loss)] for lr, loss in optimizer[grid].items()]
    return json.dumps(plain, indent=2, allow_nan=False) + "\n"


def _finite_or_none(loss: float) -> float | None:
    """JSON has no infinity: the loss of a diverged run is null."""
    return loss if math.isfinite(loss) else None


def _grid_from_json(pairs: list[Any]) -> dict[float, float]:
    return {float(lr): math.inf if loss is None else float(loss) for lr, loss in pairs}


def _recipe_from_json(entry: dict[str, Any]) -> TunedRecipe:
    optimizers = {
        spec: TunedOptimizer(
            lr=float(found["lr"]),
            adamw_lr=float(found["adamw_lr"]),
            grid=_grid_from_json(found["grid"]),
            interior=bool(found["interior"]),
            other_grid=_grid_from_json(found.get("other_grid", [])),
        )
        for spec, found in entry["optimizers"].items()
    }
    return TunedRecipe(
        settings=entry["settings"],
        seeds=tuple(entry["seeds"]),
        command=entry["command"],
        versions=entry["versions"],
        optimizers=optimizers,
    )
