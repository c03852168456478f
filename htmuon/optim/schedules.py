"""How the power changes over training: pure functions of the number of steps taken.

A group holds its schedule as a plain dict, so that it is saved and loaded like every other setting; `group["power"]` is
the value of the moment. A step that was masked is not counted, and a resumed run continues exactly.
"""

from dataclasses import MISSING, asdict, dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from htmuon._checks import plain
from htmuon._registry import Registry
from htmuon.spectral import check_power

ScheduleDict = dict[str, str | int | float]


class PowerSchedule(Protocol):
    """The power as a function of the step."""

    @property
    def powers(self) -> tuple[float, ...]:
        """All values of the schedule, or an even sample with both ends: a method must be able to compute each."""

    def __call__(self, step: Tensor) -> Tensor:
        """The power of the step after `step` (0-d float tensor, 0 at the start) others."""


POWER_SCHEDULES: Registry[type[PowerSchedule]] = Registry("power schedule")


def _check_steps(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of steps, at least 1; got {value!r}.")


def _sample(start: float, end: float) -> tuple[float, ...]:
    return tuple(start + (end - start) * step / 8 for step in range(9))


@POWER_SCHEDULES.register("constant")
@dataclass(frozen=True, kw_only=True)
class Constant:
    """The same power at every step.

    Args:
        power: the exponent.
    """

    power: float

    def __post_init__(self) -> None:
        check_power(self.power)

    @property
    def powers(self) -> tuple[float, ...]:
        """The one value."""
        return (self.power,)

    def __call__(self, step: Tensor) -> Tensor:
        """`power`."""
        return torch.full_like(step, self.power)


@POWER_SCHEDULES.register("interval")
@dataclass(frozen=True, kw_only=True)
class Interval:
    """Heavy-tailed at every k-th step, the polar factor between (HTMuon_interval, arXiv 2603.10067).

    Args:
        power: the exponent of steps 0, every, 2 every, ...; the others take 0.
        every: k; the paper's scripts use 5.
    """

    power: float
    every: int

    def __post_init__(self) -> None:
        check_power(self.power)
        _check_steps("every", self.every)

    @property
    def powers(self) -> tuple[float, ...]:
        """Both values."""
        return (self.power, 0.0)

    def __call__(self, step: Tensor) -> Tensor:
        """`power` where `step` is a multiple of `every`, else 0."""
        return self.power * (step % self.every == 0).to(step.dtype)


@POWER_SCHEDULES.register("linear")
@dataclass(frozen=True, kw_only=True)
class Linear:
    """From one power to another in equal steps, constant afterwards.

    Args:
        start: the exponent of the first step.
        end: the exponent from step `total_steps` on.
        total_steps: the length of the way.
    """

    start: float
    end: float
    total_steps: int

    def __post_init__(self) -> None:
        check_power(self.start)
        check_power(self.end)
        _check_steps("total_steps", self.total_steps)

    @property
    def powers(self) -> tuple[float, ...]:
        """A sample from end to end."""
        return _sample(self.start, self.end)

    def __call__(self, step: Tensor) -> Tensor:
        """`start + (end - start) min(step / total_steps, 1)`."""
        return self.start + (self.end - self.start) * (step / self.total_steps).clamp(max=1.0)


@POWER_SCHEDULES.register("logistic")
@dataclass(frozen=True, kw_only=True)
class Logistic:
    """A smooth switch from one power to another (DynMuon, arXiv 2605.17109).

    Args:
        start: the exponent before the switch; DynMuon takes 1.
        end: the exponent after it; DynMuon takes -0.25.
        total_steps: T, the length of training.
        midpoint: tau, where the switch is halfway, as a fraction of T.
        width: w, how slow it is, as a fraction of T.
    """

    start: float
    end: float
    total_steps: int
    midpoint: float = 0.04
    width: float = 0.04

    def __post_init__(self) -> None:
        check_power(self.start)
        check_power(self.end)
        _check_steps("total_steps", self.total_steps)
        if not self.width > 0:
            raise ValueError(f"width must be positive (a fraction of total_steps); got {self.width!r}. Try 0.04.")

    @property
    def powers(self) -> tuple[float, ...]:
        """A sample from end to end."""
        return _sample(self.start, self.end)

    def __call__(self, step: Tensor) -> Tensor:
        """`end + (start - end) / (1 + exp((step / T - tau) / w))`."""
        passed = (step / self.total_steps - self.midpoint) / self.width
        return self.end + (self.start - self.end) * torch.sigmoid(-passed)


def power_schedule(name: str, **settings: float) -> ScheduleDict:
    """A power schedule as the plain dict that `power_schedule=` and parameter groups take.

    Args:
        name: `constant`, `interval`, `linear`, `logistic`.
        **settings: the fields of that schedule.

    Returns:
        `{"name": name, **all settings}`.

    Raises:
        ValueError: an unknown name or setting, a missing one, or a value out of range.

    Example:
        >>> power_schedule("interval", power=0.125, every=5)
        {'name': 'interval', 'power': 0.125, 'every': 5}
    """
    return {"name": name, **asdict(schedule_from_dict({"name": name, **plain(settings)}))}  # type: ignore[call-overload]


def schedule_from_dict(settings: object) -> PowerSchedule:
    """The schedule that a plain dict describes; raises TypeError or ValueError where it describes none."""
    if not isinstance(settings, dict) or "name" not in settings:
        raise TypeError(
            f"power_schedule must be None or a dict with the key 'name'; got {settings!r}. {_example(settings)}"
        )
    values = {key: value for key, value in settings.items() if key != "name"}
    kind = POWER_SCHEDULES[settings["name"]]
    known = {field.name: field.default is not MISSING for field in fields(kind)}  # type: ignore[arg-type]
    missing = [name for name, optional in known.items() if not optional and name not in values]
    unknown = [name for name in values if name not in known]
    if missing or unknown:
        wrong = [f"{name} is missing" for name in missing] + [f"{name} is unknown" for name in unknown]
        raise ValueError(f"power schedule {settings['name']!r} takes {', '.join(known)}; {', '.join(wrong)}.")
    return kind(**values)


def _example(name: object) -> str:
    """How to make a schedule: the one of that name, if there is one."""
    if isinstance(name, str) and name in POWER_SCHEDULES:
        needed = ", ".join(f"{f.name}=..." for f in fields(POWER_SCHEDULES[name]) if f.default is MISSING)  # type: ignore[arg-type]
        return f"Make it with htmuon.power_schedule({name!r}, {needed})."
    return 'Make one with htmuon.power_schedule("interval", power=0.125, every=5).'
