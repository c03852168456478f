"""The log of a run: one JSON object per line."""

import json
import os
import statistics
from pathlib import Path
from types import TracebackType
from typing import Any

from htmuon.recipes.files import finite, new_file


def read_metrics(path: Path, last_step: int | None = None) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, up to the first that is not complete.

    Args:
        path: the file; one that does not exist is empty.
        last_step: leave out the lines of later steps.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    records: list[dict[str, Any]] = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            break
        if last_step is None or record["step"] <= last_step:
            records.append(record)
    return records


class MetricsLog:
    """Appends lines to a metrics.jsonl; a context manager.

    Args:
        path: the file.
        last_step: the lines of later steps, which the run will write again, are dropped.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        self.records = read_metrics(path, last_step)
        with new_file(path) as new:
            new.write_text("".join(map(_line, self.records)), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Append one line; a killed process leaves at most a part of it."""
        self.records.append(record)
        self._file.write(_line(record))
        self._file.flush()

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        os.fsync(self._file.fileno())

    def median(self, quantity: str) -> float:
        """The median of a quantity over the training lines."""
        values = [float(record[quantity]) for record in self.records if record["kind"] == "train"]
        return statistics.median(values)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _line(record: dict[str, Any]) -> str:
    return json.dumps(finite(record), allow_nan=False) + "\n"
