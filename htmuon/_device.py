"""A device: which one, in which precision it computes, and how much memory was taken there."""

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

RunPrecision = Literal["auto", "float32", "bfloat16"]


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        ValueError: the name is not "auto", "cpu", "cuda" or "cuda:<index>", or there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<index>; got {name!r}.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name!r} is not there ({torch.cuda.device_count()} CUDA devices); use 'auto' or 'cpu'."
        )
    return device


def current(device: torch.device) -> AbstractContextManager[object]:
    """The context in which CUDA streams and events are those of `device`."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def resolve_precision(precision: RunPrecision, device: torch.device) -> RunPrecision:
    """What "auto" stands for on a device: bfloat16 on CUDA devices that compute in it, else float32."""
    if precision != "auto":
        return precision
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def autocast(precision: RunPrecision, device: torch.device) -> AbstractContextManager[object]:
    """The context of forward passes in a precision that `resolve_precision` returned."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext()


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of the peak, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        # 5 resets the peak resident set size: proc(5), /proc/[pid]/clear_refs.
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory_bytes(device: torch.device) -> int:
    """Bytes at the peak since the reset: of torch's allocator on CUDA, else resident bytes of the process.

    Where the system cannot reset the peak, it is that of the process since its start; 0 where it has no such number.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        if sys.platform == "win32":
            return 0
        import resource  # which Windows lacks

        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def load_average() -> float:
    """Processes that computed or waited for a core, on average over the last minute; 0 where the system keeps none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def usable_cores() -> int:
    """Cores that this process may use, or all of the machine where the system does not say, as on macOS."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_size(device: torch.device) -> int | None:
    """Bytes of memory that a device has in all; None where the system does not say, as Windows for the CPU."""
    if device.type == "cuda":
        total: int = torch.cuda.get_device_properties(device).total_memory
        return total
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None


def optimizer_state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the tensors that the optimizer keeps for its parameters."""
    return sum(map(_bytes, optimizer.state.values()))


def _bytes(value: object) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0
