"""Checkpoints without pickle: tensors as safetensors, the rest as JSON, checksums over both."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from htmuon._files import DamagedFolderError, read_tensors, sealed_folder, verify_sealed_folder, write_tensors

KEEP = 2
MODEL, AVERAGE, OPTIMIZER, STATE = "model.safetensors", "average.safetensors", "optimizer.safetensors", "state.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunState:
    """A run between two steps.

    Args:
        step: steps done.
        model: the model's state_dict.
        optimizer: the optimizer's state_dict: dicts, lists, tuples, tensors, numbers, strings and None.
        progress: what else the run needs to resume, as plain JSON values.
        average: the state_dict of the averaged weights, in a run that has them.
    """

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    progress: dict[str, Any]
    average: dict[str, Tensor] | None = None


def save_checkpoint(folder: Path, checkpoint: RunState) -> None:
    """Write `folder`/step-<step>, whole or not at all, and remove all but the last two.

    Args:
        folder: the run's folder of checkpoints; made if it does not exist.
        checkpoint: what to write.

    Raises:
        OSError: the folder cannot be written; the checkpoints before it are as they were.
    """
    folder.mkdir(exist_ok=True)
    tensors: dict[str, Tensor] = {}
    state = {"step": checkpoint.step, "progress": checkpoint.progress, "optimizer": pack(checkpoint.optimizer, tensors)}
    with sealed_folder(folder / f"step-{checkpoint.step:08d}") as new:
        write_tensors(new / MODEL, checkpoint.model)
        if checkpoint.average is not None:
            write_tensors(new / AVERAGE, checkpoint.average)
        write_tensors(new / OPTIMIZER, tensors)
        (new / STATE).write_text(json.dumps(state))
    for old in _newest_first(folder)[KEEP:]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path, device: torch.device, on_message: Callable[[str], None]) -> RunState | None:
    """The newest checkpoint that is not damaged, or None; damaged ones and remains of a kill are removed.

    Args:
        folder: the run's folder of checkpoints; it need not exist.
        device: where the optimizer's tensors are needed.
        on_message: called with a sentence about each damaged checkpoint.
    """
    for remains in folder.glob(".step-*"):
        shutil.rmtree(remains)
    for path in _newest_first(folder):
        try:
            verify_sealed_folder(path)
            return _read(path, device)
        except DamagedFolderError as error:
            on_message(f"{error}; going back to the checkpoint before it, or to the start.")
            shutil.rmtree(path)
    return None


def _read(path: Path, device: torch.device) -> RunState:
    state = json.loads((path / STATE).read_text())
    tensors = {name: tensor.to(device) for name, tensor in read_tensors(path / OPTIMIZER).items()}
    optimizer = unpack(state["optimizer"], tensors)
    return RunState(
        step=state["step"],
        model=read_tensors(path / MODEL),
        optimizer=optimizer,
        progress=state["progress"],
        average=read_tensors(path / AVERAGE) if (path / AVERAGE).exists() else None,
    )


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """`value` as what JSON can hold; its tensors go to `tensors`, and tuples and keys of dicts keep their type.

    Example:
        >>> tensors = {}
        >>> packed = pack({0: (0.9, torch.ones(2)), "lr": None}, tensors)
        >>> json.dumps(packed)
        '{"dict": [[0, {"tuple": [0.9, {"tensor": "0"}]}], ["lr", null]]}'
        >>> unpack(packed, tensors)
        {0: (0.9, tensor([1., 1.])), 'lr': None}
    """
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [pack(item, tensors) for item in value]
    assert value is None or isinstance(value, (bool, int, float, str)), f"a state_dict with a {type(value).__name__}"
    return value


def unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `pack`."""
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(unpack(item, tensors) for item in content)
    return {key: unpack(item, tensors) for key, item in content}
