"""`htmuon list`: everything that can be chosen by name."""

from collections.abc import Iterable, Sequence
from typing import Any

from htmuon._registry import Registry
from htmuon._typing import NORMALIZATIONS
from htmuon.baselines.packaged import BASELINES
from htmuon.baselines.specs import ADAMW, AdamW, settings_of
from htmuon.linalg import METHODS
from htmuon.optim import OPTIMIZERS, POWER_SCHEDULES
from htmuon.recipes import RECIPES
from htmuon.spectral import MAPS

_NORMALIZATION_LINES = {
    "none": "U S^p V^T as it is: its size moves with the size of the gradient.",
    "spectral": "Divide by sigma_1^p: the largest direction gets 1.",
    "rms": "Rescale to the Frobenius norm of a polar factor, so that a learning rate of Muon carries over.",
    "lmo": "Divide by the norm that makes it the exact minimizer over a Schatten ball.",
    "auto": "none for p >= 0, rms for p < 0.",
}


def run(arguments: Sequence[str]) -> None:
    """Run the command with the arguments after `list`, of which there are none."""
    if arguments:
        raise ValueError(f"htmuon list takes no arguments; got {' '.join(arguments)}. Leave them out.")
    print(listing(), flush=True)


def listing() -> str:
    """The text that the command prints."""
    optimizers = [(ADAMW, _first_line(AdamW)), *_entries(OPTIMIZERS)]
    sections = [
        _section("Recipes", _entries(RECIPES)),
        _section("Optimizers", optimizers),
        _section("Optimizers of other packages, to compare with", _entries(BASELINES)),
        _section("Spectral maps", _entries(MAPS)),
        _section("Methods", _entries(METHODS)),
        _section("Normalizations", [(name, _NORMALIZATION_LINES[name]) for name in NORMALIZATIONS]),
        _section("Power schedules (htmuon:schedule=interval,power=0.125,every=5)", _entries(POWER_SCHEDULES)),
        _section("Settings of an optimizer (htmuon:power=0.25,normalization=rms)", _settings()),
    ]
    return "\n\n".join(sections)


def _settings() -> list[tuple[str, str]]:
    return [
        (name, ", ".join(f"{key}={_word(value)}" for key, value in settings_of(name).items()))
        for name in (ADAMW, *OPTIMIZERS, *BASELINES)
    ]


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _entries(registry: Registry[Any]) -> list[tuple[str, str]]:
    return [(name, _first_line(part)) for name, part in registry.items()]


def _first_line(part: object) -> str:
    return (part.__doc__ or "").strip().partition("\n")[0]


def _section(title: str, entries: Iterable[tuple[str, str]]) -> str:
    rows = list(entries)
    width = max(len(name) for name, _ in rows)
    return "\n".join([f"{title}:", *(f"  {name.ljust(width)}  {line}" for name, line in rows)])
