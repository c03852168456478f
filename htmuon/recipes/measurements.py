"""Parts of a run's result: its settings, the sizes of what was trained, and what it was trained with."""

import importlib.metadata
import platform
from typing import Any

import torch

import htmuon
from htmuon.recipes.config import RunConfig
from htmuon.recipes.memory import optimizer_state_bytes, peak_memory_bytes
from htmuon.recipes.task import TaskSource


def told_settings(config: RunConfig) -> dict[str, Any]:
    """The settings that a result repeats, so that it can be read alone."""
    spec = config.optimizer
    return {
        "documents": config.evaluate_on,
        "optimizer": spec.name,
        "lr": spec.lr,
        "adamw_lr": spec.adamw_lr,
        "weight_decay": spec.weight_decay,
        "seed": config.seed,
    }


def measured_sizes(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Numbers of parameters, bytes, and the device that they are on."""
    device = next(model.parameters()).device
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "hidden_parameters": sum(r.parameter.numel() for r in htmuon.route(model).routes if r.view is not None),
        "optimizer_state_bytes": optimizer_state_bytes(optimizer),
        "peak_memory_bytes": peak_memory_bytes(device),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


def used_software(source: TaskSource) -> dict[str, Any]:
    """The versions of Python and the libraries, and the fingerprint of the data."""
    # The package itself may be a folder on the path, of which nothing is installed.
    versions = {"python": platform.python_version(), "htmuon": htmuon.__version__}
    versions |= {name: importlib.metadata.version(name) for name in ("torch", *source.libraries)}
    return {"versions": versions, "data_fingerprint": source.fingerprint}
