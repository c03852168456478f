"""Losses at equal budgets: after the same number of steps, and after the same time of training."""

import bisect
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from htmuon._files import finite
from htmuon.compare.paired import PairedLosses, paired_differences
from htmuon.compare.run_record import Curve, Records, RunRecord

# The shares of the largest common budget at which losses are read.
_SHARES = (0.25, 0.5, 0.75, 1.0)
# A line between two evaluations lies above the curve: over half of a run by as much as optimizers differ, over a tenth
# by a twenty-fifth of that. Wider gaps give no number.
_WIDEST_GAP = 0.1


@dataclass(frozen=True, kw_only=True)
class LossesAtBudget(PairedLosses):
    """One optimizer at one budget; losses and differences as in `PairedLosses`.

    Attributes:
        spec: the optimizer.
        steps: the steps that it has done by then.
        losses: by seed; not a number before the first evaluation, and between two that lie far apart.
        differences: to those of the baseline at the same budget.
    """

    spec: str
    steps: float
    losses: tuple[float, ...]
    differences: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """All optimizers at one budget.

    Attributes:
        unit: what is equal.
        amount: how much of it.
        optimizers: one entry for each that was measured.
    """

    unit: Literal["steps", "seconds"]
    amount: float
    optimizers: tuple[LossesAtBudget, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; None where there is no finite number."""
        entries = [
            {"spec": entry.spec, "steps": entry.steps, "losses": list(entry.losses), **entry.statistics()}
            for entry in self.optimizers
        ]
        plain = finite({"unit": self.unit, "amount": self.amount, "optimizers": entries})
        assert isinstance(plain, dict)
        return plain


def equal_steps(records: Records, baseline: str) -> list[Budget]:
    """Losses after a quarter, half, three quarters and all of the steps."""
    return _budgets(records, baseline, "steps", dict.fromkeys(records, 1.0))


def equal_time(records: Records, baseline: str) -> list[Budget]:
    """Losses after a quarter, half, three quarters and all of the training time that every optimizer has used.

    The whole budget is the time in which the fastest optimizer finishes; the slower ones have done fewer steps by then.
    Time is steps times the pace of `paces`, without evaluation.
    """
    return _budgets(records, baseline, "seconds", paces(records))


def paces(records: Records) -> dict[str, float]:
    """Seconds of a step of each optimizer that was measured.

    Forward and backward pass are of the same network for all: what is measured of them differs by noise only, so all
    get the median of all runs, and their own optimizer's median.
    """
    results = {
        spec: [run.result for run in runs if run.result is not None and math.isfinite(run.result.seconds_per_step)]
        for spec, runs in records.items()
    }
    passes = [r.seconds_per_step - r.optimizer_seconds_per_step for found in results.values() for r in found]
    return {
        spec: statistics.median(passes) + statistics.median(r.optimizer_seconds_per_step for r in found)
        for spec, found in results.items()
        if found
    }


def _budgets(
    records: Records, baseline: str, unit: Literal["steps", "seconds"], paces: Mapping[str, float]
) -> list[Budget]:
    """Losses at shares of the largest common budget, where a step of each optimizer costs its pace."""
    ends = [
        pace * run.config.steps
        for spec, pace in paces.items()
        for run in records[spec]
        if math.isfinite(run.final_loss)
    ]
    if not ends:
        return []
    found = []
    for amount in (share * min(ends) for share in _SHARES):
        losses = {spec: _losses(records[spec], amount / pace) for spec, pace in paces.items()}
        entries = tuple(
            LossesAtBudget(
                spec=spec,
                steps=amount / paces[spec],
                losses=tuple(by_seed.values()),
                differences=() if spec == baseline else paired_differences(by_seed, losses.get(baseline, {})),
            )
            for spec, by_seed in losses.items()
        )
        found.append(Budget(unit=unit, amount=amount, optimizers=entries))
    return found


def _losses(runs: Sequence[RunRecord], step: float) -> dict[int, float]:
    return {run.config.seed: loss_at(run.curve("evaluation"), step, _WIDEST_GAP * run.config.steps) for run in runs}


def loss_at(curve: Curve, step: float, widest: float) -> float:
    """The value of a curve at a step, linear between its points.

    NaN before the first point and between points that are more than `widest` steps apart, infinite after the last.

    Example:
        >>> loss_at(Curve([100, 200], [4.0, 3.0]), 150.0, widest=100.0)
        3.5
    """
    if not curve.steps or step > curve.steps[-1] + 1e-6:
        return math.inf
    step = min(step, curve.steps[-1])
    if step < curve.steps[0]:
        return math.nan
    after = bisect.bisect_left(curve.steps, step)
    if curve.steps[after] == step:
        return curve.values[after]
    before = after - 1
    if curve.steps[after] - curve.steps[before] > widest:
        return math.nan
    share = (step - curve.steps[before]) / (curve.steps[after] - curve.steps[before])
    return curve.values[before] + share * (curve.values[after] - curve.values[before])
