"""Timing of several candidates side by side: what every benchmark here shares."""

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch


def side_by_side(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every candidate in every round, after one round that is not counted.

    All candidates run in every round, one after the other, so that drift of the machine's speed hits all alike; compare
    them by `ratios`, which pairs the rounds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for counted in [False] + [True] * rounds:
        for name, run in candidates.items():
            synchronize()
            start = time.perf_counter()
            run()
            synchronize()
            if counted:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def synchronize() -> None:
    """Wait for the accelerator where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratios(seconds: dict[str, list[float]], baseline: str) -> dict[str, float]:
    """Median over rounds of the time of each candidate divided by the baseline's time in the same round."""
    return {
        name: statistics.median(a / b for a, b in zip(values, seconds[baseline], strict=True))
        for name, values in seconds.items()
    }


def conditions() -> dict[str, Any]:
    """What a number depends on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "command": "python " + " ".join(sys.argv),
        "date": date.today().isoformat(),
        "device": gpu or f"CPU {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def write(path: Path | None, results: dict[str, Any]) -> None:
    """Store results as JSON where a path was given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=2) + "\n")
        print(f"written to {path}")
