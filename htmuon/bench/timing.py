"""Timing of several candidates side by side, and what the numbers depend on."""

import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from htmuon._device import current, pick_device


def side_by_side(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    device: torch.device | None = None,
    prepare: Callable[[str], object] | None = None,
    warm_up: bool = True,
    most_seconds: float = math.inf,
) -> dict[str, list[float]]:
    """Seconds of every candidate in every round, after one round that is not counted.

    All candidates run in every round, one after the other, so that drift of the machine's speed hits all alike; compare
    them by `ratios`, which pairs the rounds.

    Args:
        candidates: what is timed, by name.
        rounds: how many are counted.
        device: whose clock counts; CUDA if there is one.
        prepare: called with a candidate's name before each of its runs, outside of the time.
        warm_up: whether there is a round that is not counted.
        most_seconds: a candidate that has taken longer sits the remaining rounds out; all take part in the first.
    """
    device = pick_device("auto") if device is None else device
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for counted in [False] * warm_up + [True] * rounds:
        for name, run in candidates.items():
            if sum(seconds[name]) > most_seconds:
                continue
            if prepare is not None:
                prepare(name)
            taken = seconds_of(run, device)
            if counted:
                seconds[name].append(taken)
    return seconds


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """How long one run takes: by CUDA events where the device has them, else by the host's clock."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    with current(device):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(device)
        before.record()
        run()
        after.record()
        torch.cuda.synchronize(device)
        return float(before.elapsed_time(after)) / 1000


def ratios(seconds: Mapping[str, Sequence[float]], baseline: str) -> dict[str, float]:
    """Median over its rounds of the time of each candidate divided by the baseline's time in the same round.

    Example:
        >>> ratios({"old": [1.0, 2.0, 4.0], "new": [0.5, 1.0]}, "old")
        {'old': 1.0, 'new': 0.5}
    """
    return {
        name: statistics.median(a / b for a, b in zip(values, seconds[baseline], strict=False))
        for name, values in seconds.items()
    }


def conditions(command: str | None = None, device: torch.device | None = None) -> dict[str, Any]:
    """What a number depends on.

    Args:
        command: what makes the number; that of this process if None.
        device: where it was measured; CUDA if there is one.
    """
    device = pick_device("auto") if device is None else device
    on_gpu = device.type == "cuda"
    cpu = f"CPU {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    return {
        "command": "python " + " ".join(sys.argv) if command is None else command,
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name(device) if on_gpu else cpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def write(path: Path | None, results: Mapping[str, Any]) -> None:
    """Store results as JSON where a path was given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=2) + "\n")
        print(f"written to {path}")
