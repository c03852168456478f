"""The log of a run: one JSON object per line."""

import statistics
from pathlib import Path

from htmuon.analysis.record_log import Record, RecordLog, read_records


class MetricsLog(RecordLog):
    """Appends lines to a metrics.jsonl and remembers them; a context manager.

    Args:
        path: the file.
        last_step: the lines of later steps, which the run will write again, are dropped.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        super().__init__(path, last_step)
        self.records = read_records(path)

    def write(self, *records: Record) -> None:
        """Append lines; a killed process leaves at most a part of them."""
        self.records += records
        super().write(*records)

    def median(self, quantity: str) -> float:
        """The median of a quantity over the training lines."""
        values = [float(record[quantity]) for record in self.records if record["kind"] == "train"]
        return statistics.median(values)
