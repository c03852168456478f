"""The confidence interval of a mean paired difference, and what may be concluded from it."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

CONFIDENCE = 0.95

Judgement = Literal["better", "worse", "no difference seen"]


@dataclass(frozen=True)
class ConfidenceInterval:
    """A range that holds the mean difference with the probability `CONFIDENCE`.

    Attributes:
        low: its lower end.
        high: its upper end.
    """

    low: float
    high: float

    @property
    def judgement(self) -> Judgement:
        """What a difference of losses means: below zero is better, and a range that holds zero decides nothing."""
        if self.high < 0:
            return "better"
        return "worse" if self.low > 0 else "no difference seen"


def mean_interval(differences: Sequence[float]) -> ConfidenceInterval | None:
    """Student's interval of the mean of paired differences; None for fewer than two of them.

    Args:
        differences: finite, one for each pair; taken as independent draws from a normal distribution.

    Example:
        >>> mean_interval([-0.3, -0.2, -0.1]).judgement, mean_interval([-0.3, 0.2, -0.1]).judgement
        ('no difference seen', 'no difference seen')
        >>> mean_interval([-0.23, -0.2, -0.21]).judgement
        'better'
    """
    if len(differences) < 2:
        return None
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    reach = student_quantile(CONFIDENCE, len(differences) - 1) * error
    return ConfidenceInterval(mean - reach, mean + reach)


def student_quantile(probability: float, degrees: int) -> float:
    """The t for which a Student variable lies in [-t, t] with the given probability.

    The probability is a finite sum in the angle atan(t / sqrt(degrees)): Abramowitz and Stegun, Handbook of
    Mathematical Functions, 26.7.3 and 26.7.4. It grows with the angle, so halving finds the angle to the last digits.

    Args:
        probability: two-sided, from 0 to below 1.
        degrees: of freedom, a whole number of at least 1.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> [round(student_quantile(0.95, degrees), 3) for degrees in (1, 2, 4, 30)]
        [12.706, 4.303, 2.776, 2.042]
    """
    if not 0 <= probability < 1:
        raise ValueError(f"probability must be at least 0 and below 1; got {probability}. 0.95 is the usual one.")
    if degrees < 1:
        raise ValueError(f"degrees must be at least 1; got {degrees}. An interval needs at least two values.")
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        if _probability_within(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(high)


def _probability_within(angle: float, degrees: int) -> float:
    """The probability of [-t, t] with t = sqrt(degrees) tan(angle)."""
    odd = degrees % 2
    cosine = math.cos(angle)
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
