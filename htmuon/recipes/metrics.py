"""The log of a run: one JSON object per line."""

import math
import statistics
from collections.abc import Callable
from pathlib import Path

from htmuon.analysis.record_log import Record, RecordLog, read_records


class MetricsLog(RecordLog):
    """Appends lines to a metrics.jsonl and remembers them; a context manager.

    Args:
        path: the file.
        last_step: the lines of later steps, which the run will write again, are dropped.
        also: called with the new lines after they are written.
    """

    def __init__(self, path: Path, last_step: int, also: Callable[..., None] | None = None) -> None:
        super().__init__(path, last_step)
        self._also = also
        self.records = read_records(path)

    def write(self, *records: Record) -> None:
        """Append lines; a killed process leaves at most a part of them."""
        self.records += records
        super().write(*records)
        if self._also is not None:
            self._also(*records)

    def median(self, quantity: str) -> float:
        """The median of a quantity over the training lines."""
        values = [float(record[quantity]) for record in self.records if record["kind"] == "train"]
        return statistics.median(values)


class NoLog:
    """The log of a process that leaves writing to another one."""

    def write(self, *records: Record) -> None:
        """Forget them."""

    def sync(self) -> None:
        """There is nothing to write."""

    def median(self, quantity: str) -> float:
        """Not known here."""
        return math.nan
