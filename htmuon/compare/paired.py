"""Statistics of losses that are paired by seed with those of the baseline."""

import math
import statistics
from collections.abc import Mapping

from htmuon.compare.interval import ConfidenceInterval, Judgement, mean_interval
from htmuon.reporting.tables import sample_spread


class PairedLosses:
    """What follows from losses by seed, and from the differences to the baseline's; a base for dataclasses of both.

    Attributes:
        losses: one for each seed; infinite where the run diverged or stopped.
        differences: losses minus those of the baseline with the same seed; empty where there is none.
    """

    losses: tuple[float, ...]
    differences: tuple[float, ...]

    @property
    def loss(self) -> float:
        """Mean loss over the seeds; infinite if any run diverged."""
        return statistics.fmean(self.losses)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation of the loss over the seeds; None for a single or a diverged run."""
        return sample_spread(self.losses)

    @property
    def difference(self) -> float | None:
        """Mean over seeds of the loss minus the baseline's of the same seed."""
        return statistics.fmean(self.differences) if self.differences else None

    @property
    def difference_spread(self) -> float | None:
        """Sample standard deviation of the paired differences."""
        return sample_spread(self.differences)

    @property
    def interval(self) -> ConfidenceInterval | None:
        """Confidence interval of the mean difference; None for fewer than two pairs, or where a run of either diverged.

        The pairs that are left after a divergence say nothing about the others.
        """
        complete = math.isfinite(self.loss) and len(self.differences) == len(self.losses)
        return mean_interval(self.differences) if complete else None

    @property
    def judgement(self) -> Judgement | None:
        """Whether the loss is better or worse than the baseline's, as far as the interval tells; None without one."""
        return self.interval.judgement if self.interval is not None else None

    def statistics(self) -> dict[str, float | str | None]:
        """All of these by name, as plain values."""
        interval = self.interval
        return {
            "loss": self.loss,
            "spread": self.spread,
            "difference": self.difference,
            "difference_spread": self.difference_spread,
            "difference_low": interval.low if interval else None,
            "difference_high": interval.high if interval else None,
            "judgement": self.judgement,
        }


def paired_differences(losses: Mapping[int, float], baseline: Mapping[int, float]) -> tuple[float, ...]:
    """Losses minus those of the baseline, for every seed at which both are finite.

    Example:
        >>> paired_differences({0: 3.5, 1: 3.25, 2: 3.0}, {0: 3.0, 1: 3.5})
        (0.5, -0.25)
    """
    pairs = [(loss, baseline.get(seed, math.inf)) for seed, loss in losses.items()]
    return tuple(loss - other for loss, other in pairs if math.isfinite(loss) and math.isfinite(other))
