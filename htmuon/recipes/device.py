"""Where a run is trained and in which precision."""

from contextlib import AbstractContextManager, nullcontext

import torch

from htmuon.recipes.config import Precision


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


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """What "auto" stands for on a device: bfloat16 on CUDA devices that compute in it, else float32."""
    if precision != "auto":
        return precision
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context of forward passes in a precision that `resolve_precision` returned."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext()
