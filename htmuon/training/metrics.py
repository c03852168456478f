"""What is measured while a run trains: the log, one JSON object a line, and the time of a step."""

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

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


class HostTimer:
    """Times steps with the host's clock: for devices that run in step with it, such as the CPU."""

    def __init__(self) -> None:
        self._steps: list[tuple[float, ...]] = []
        self._marks: list[float] = []

    def mark(self) -> None:
        """Call at the start of a step, before the optimizer, and at the end."""
        self._marks.append(time.perf_counter())
        if len(self._marks) == 3:
            self._steps.append(tuple(self._marks))
            self._marks = []

    def medians(self) -> tuple[float, float]:
        """Median seconds of a step and of its optimizer since the last call; at least one step must have ended."""
        steps, self._steps = self._steps, []
        return statistics.median(c - a for a, _, c in steps), statistics.median(c - b for _, b, c in steps)


class CudaTimer:
    """Times steps with CUDA events; the host waits for the device only in `medians`."""

    def __init__(self) -> None:
        self._marks: list[torch.cuda.Event] = []

    def mark(self) -> None:
        """Call at the start of a step, before the optimizer, and at the end."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._marks.append(event)

    def medians(self) -> tuple[float, float]:
        """Median seconds of a step and of its optimizer since the last call; at least one step must have ended."""
        marks, self._marks = self._marks, []
        marks[-1].synchronize()
        steps = list(zip(marks[0::3], marks[1::3], marks[2::3], strict=True))
        whole = statistics.median(a.elapsed_time(c) for a, _, c in steps)
        return whole / 1e3, statistics.median(b.elapsed_time(c) for _, b, c in steps) / 1e3
