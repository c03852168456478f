"""Learning rates that a search found, and the file that stores them."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from htmuon.baselines import has_separate_rates


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
        rates = {optimizer.adamw_lr for spec, optimizer in found.optimizers.items() if has_separate_rates(spec)}
        kept = {
            spec: optimizer
            for spec, optimizer in old.optimizers.items()
            if not (rates and has_separate_rates(spec)) or {optimizer.adamw_lr} == rates
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
