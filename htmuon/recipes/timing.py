"""The time of a training step and of the optimizer in it."""

import statistics
import time

import torch


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
