"""The numbers of a bench, and their JSON form."""

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One candidate.

    Attributes:
        name: of the candidate.
        picks: the method that it chose by itself, or "".
        seconds: of its steps, one of each round.
        ratio: median over rounds of its time by the baseline's in the same round.
        computes: the function of the singular values that its errors refer to, or "".
        errors: relative Frobenius errors by shape and column; empty where it computes no such function.
    """

    name: str
    picks: str
    seconds: list[float]
    ratio: float
    computes: str
    errors: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def median_seconds(self) -> float:
        """Of a step."""
        return statistics.median(self.seconds)

    def worst(self, column: str) -> float | None:
        """The error in a column, of the shape where it is largest."""
        values = [errors[column] for errors in self.errors.values() if column in errors]
        return max(values, default=None)


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """What a bench measured, and under which conditions.

    Attributes:
        conditions: command, date, device, threads and versions of torch and Python.
        versions: of htmuon and of the other libraries.
        matrices: which matrices were stepped on, in words.
        shapes: the same as ROWSxCOLUMNS*COUNT.
        dtype: of parameters and gradients.
        baseline: the candidate of ratio 1.
        measured: every candidate that ran.
        columns: what the errors were measured on.
        failed: why the candidates of other libraries that failed did.
        missing: packages of other libraries that are not installed.
        notes: what a reader of the numbers should know.
    """

    conditions: dict[str, Any]
    versions: dict[str, str]
    matrices: str
    shapes: list[str]
    dtype: str
    baseline: str
    measured: list[Measured]
    columns: list[str]
    failed: dict[str, str]
    missing: list[str]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "BenchResult":
        """The inverse of `to_dict`."""
        return cls(**{**values, "measured": [Measured(**entry) for entry in values["measured"]]})
