"""Sweeps over the power: many optimizers from a few specs, and the family that such optimizers belong to."""

from collections.abc import Sequence
from typing import Any

from htmuon.baselines import optimizer_info, parse_spec

# What a schedule's name stands for without settings of its own: the numbers of its publication.
_PUBLISHED: dict[str, dict[str, float]] = {"interval": {"every": 5}, "logistic": {"start": 1, "end": -0.25}}
_AS_LONG_AS_THE_RUN = ("linear", "logistic")


def expand(
    optimizers: Sequence[str], powers: Sequence[float], schedules: Sequence[str], *, steps: int
) -> tuple[str, ...]:
    """Specs with every power and every schedule in place of each heavy-tailed optimizer that leaves its power open.

    Heavy-tailed are those whose own power is not 0. The others stay as they are, and so does a spec that sets a power,
    a schedule or a rule for powers. A spec made here that means the same as another one is left out: `htmuon:power=0`
    beside `muon`.

    Args:
        optimizers: specs.
        powers: exponents.
        schedules: `name` or `name:key=value,...`; `interval` alone takes every fifth step, as HTMuon_interval does, and
            `logistic` alone goes from 1 to -1/4, as DynMuon does. `total_steps` is that of the run, if not given.
        steps: optimizer steps of a run.

    Raises:
        ValueError: there is nothing to put the powers or schedules in.

    Example:
        >>> expand(["adamw", "muon", "htmuon"], [-0.125, 0, 0.25], ["interval"], steps=200)
        ('adamw', 'muon', 'htmuon:power=-0.125', 'htmuon:power=0.25', 'htmuon:schedule=interval,every=5')
    """
    if not powers and not schedules:
        return tuple(optimizers)
    endings = [f"power={power:g}" for power in powers] + [_schedule_settings(text, steps) for text in schedules]
    found: list[str] = []
    taken = {_meaning(spec) for spec in optimizers if not _is_open(spec)}
    for spec in optimizers:
        made = [f"{spec}{',' if ':' in spec else ':'}{ending}" for ending in endings] if _is_open(spec) else [spec]
        for new in made:
            if new == spec or _meaning(new) not in taken:
                found.append(new)
                taken.add(_meaning(new))
    if not any(map(_is_open, optimizers)):
        raise ValueError(
            "power and schedules need a heavy-tailed optimizer that leaves its power open, such as htmuon; got "
            f"{' '.join(optimizers)}. Add htmuon to the optimizers."
        )
    return tuple(found)


def power_of(spec: str) -> float | None:
    """The exponent that a spec keeps during training; None for an optimizer without one, with a schedule or a rule.

    Example:
        >>> power_of("htmuon:power=0.25"), power_of("muon"), power_of("adamw")
        (0.25, 0.0, None)
    """
    name, settings = parse_spec(spec)
    if "schedule" in settings or settings.get("power_rule") is not None:
        return None
    power = settings.get("power", optimizer_info(name).settings.get("power"))
    return float(power) if isinstance(power, (int, float)) else None


def family_of(spec: str) -> str:
    """The same text for all specs that differ in nothing but the power; it is one of them without the power.

    Example:
        >>> family_of("htmuon:power=0.25,normalization=rms"), family_of("muon:normalization=rms")
        ('htmuon:normalization=rms', 'htmuon:normalization=rms')
    """
    name, settings = parse_spec(spec)
    name = optimizer_info(name).family
    usual = optimizer_info(name).settings
    changed = sorted(
        f"{key}={_word(value)}" for key, value in settings.items() if key != "power" and usual.get(key) != value
    )
    return f"{name}:{','.join(changed)}" if changed else name


def _is_open(spec: str) -> bool:
    """Whether a spec is of a heavy-tailed optimizer and says nothing about its power."""
    name, settings = parse_spec(spec)
    return bool(optimizer_info(name).settings.get("power")) and not {"power", "schedule", "power_rule"} & set(settings)


def _meaning(spec: str) -> str:
    power = power_of(spec)
    return spec if power is None else f"{family_of(spec)} {power}"


def _schedule_settings(text: str, steps: int) -> str:
    """A schedule as settings of a spec; those that are not given are the published ones."""
    name, given = parse_spec(text)
    settings: dict[str, Any] = {"schedule": name, **_PUBLISHED.get(name, {})}
    if name in _AS_LONG_AS_THE_RUN:
        settings["total_steps"] = steps
    return ",".join(f"{key}={_word(value)}" for key, value in (settings | given).items())


def _word(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
