"""`htmuon list`: everything that can be chosen by name."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from htmuon._registry import Registry
from htmuon._typing import NORMALIZATIONS
from htmuon.baselines import optimizer_info, optimizer_names
from htmuon.baselines.info import ADAMW, first_line
from htmuon.baselines.specs import PARTS, part_settings
from htmuon.linalg import METHODS
from htmuon.optim import MOMENTUM_RULES, OPTIMIZERS, POWER_RULES, POWER_SCHEDULES, RATE_RULES, WEIGHT_UPDATES
from htmuon.powers import RULES
from htmuon.recipes import RECIPES
from htmuon.routing.kinds import KINDS
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
    own = (ADAMW, *OPTIMIZERS)
    others = [name for name in optimizer_names() if name not in own]
    sections = [
        _section("Recipes", _entries(RECIPES)),
        _section("Optimizers", map(_rule, own)),
        _section("Optimizers of other packages, to compare with", map(_rule, others)),
        _section("Spectral maps", _entries(MAPS)),
        _section("Methods", _entries(METHODS)),
        _section("Normalizations", [(name, _NORMALIZATION_LINES[name]) for name in NORMALIZATIONS]),
        _section("Rules for learning rates (htmuon:rate_rule=alignment)", _entries(RATE_RULES)),
        _section("Rules for powers (htmuon:power_rule=alignment)", _entries(POWER_RULES)),
        _section("Rules for powers that look at spectra (muon:power_by=alpha,every=100)", _entries(RULES)),
        _section("Momentum rules (htmuon:momentum_rule=sum)", _entries(MOMENTUM_RULES)),
        _section("Weight updates (htmuon:weight_update=cautious)", _entries(WEIGHT_UPDATES)),
        _section("Power schedules (htmuon:schedule=interval,power=0.125,every=5)", _entries(POWER_SCHEDULES)),
        _section("Settings of an optimizer (htmuon:power=0.25,normalization=rms)", map(_settings, (*own, *others))),
        _section("Settings of some matrices, by kind (muon:lr_scale.query+key=2,power.down=-0.4)", _of_kinds()),
        _section("Settings of a method, map or rule (htmuon:method=polynomial,levels=8)", _part_settings()),
    ]
    return "\n\n".join(sections)


def _rule(name: str) -> tuple[str, str]:
    return name, optimizer_info(name).rule


def _settings(name: str) -> tuple[str, str]:
    return name, _written(optimizer_info(name).settings)


def _of_kinds() -> list[tuple[str, str]]:
    kinds = ", ".join(KINDS)
    return [
        (
            "lr_scale=kinds",
            "A table of factors of the learning rate, better than one rate for all (docs/rates.md)",
        ),
        ("lr_scale.KIND", f"A factor of the learning rate; kinds are {kinds}, with + between them"),
        ("power.KIND", "The power"),
    ]


def _part_settings() -> list[tuple[str, str]]:
    own = optimizer_info("htmuon").settings
    found = [
        (f"{kind}={name}", {key: value for key, value in part_settings(kind, name).items() if key not in own})
        for kind, names in PARTS.items()
        for name in names
    ]
    return [(part, _written(settings)) for part, settings in found if settings]


def _written(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_word(value)}" for key, value in settings.items())


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _entries(registry: Registry[Any]) -> list[tuple[str, str]]:
    return [(name, first_line(part)) for name, part in registry.items()]


def _section(title: str, entries: Iterable[tuple[str, str]]) -> str:
    rows = list(entries)
    width = max(len(name) for name, _ in rows)
    return "\n".join([f"{title}:", *(f"  {name.ljust(width)}  {line}" for name, line in rows)])
