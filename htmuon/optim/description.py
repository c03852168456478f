"""What an optimizer says of itself: its groups, its gradients, and why a step does nothing."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from htmuon._typing import Group
from htmuon.layouts import is_distributed, several_processes
from htmuon.optim.settings import ADAMW_SETTINGS, NOT_SETTINGS


def shown(group: Group, defaults: Group) -> list[tuple[str, Any]]:
    """The settings that a group uses, by name, with its counters and what others, such as schedulers, keep in it.

    Args:
        group: with every key; one with `use_muon=False` uses only the settings of AdamW.
        defaults: the settings of an optimizer.
    """
    unused = () if group["use_muon"] else set(defaults).difference(ADAMW_SETTINGS)
    return sorted((key, value) for key, value in group.items() if key not in (*NOT_SETTINGS, *unused))


def describe(groups: Iterable[Group], defaults: Group) -> list[str]:
    """One line for each setting and counter of each group, and for each parameter.

    The host waits for the counters: not for every step.
    """
    lines = []
    for index, group in enumerate(groups):
        # Of matrices betas[0] is the momentum, which has a line of its own.
        left_out = "betas" if group["use_muon"] else ""
        settings = [(k, v.item() if isinstance(v, Tensor) else v) for k, v in shown(group, defaults) if k != left_out]
        for name, p in _named(group):
            placed = f" {tuple(p.placements)} on {tuple(p.device_mesh.shape)}" if is_distributed(p) else ""
            lines.append(f"parameter {name} of group {index}: {tuple(p.shape)} {p.dtype}{placed}")
        lines += [f"{key}={value!r} in group {index}" for key, value in settings]
    return lines


def describe_gradients(groups: Iterable[Group]) -> list[str]:
    """One line for each parameter: whether it has a gradient."""
    return [
        f"{'no gradient' if p.grad is None else 'a gradient'} for parameter {name} of group {index}"
        for index, group in enumerate(groups)
        for name, p in _named(group)
    ]


def _named(group: Group) -> Iterable[tuple[str | int, Tensor]]:
    """The parameters of a group with their names, or else their numbers."""
    return zip(group.get("param_names") or range(len(group["params"])), group["params"], strict=True)


def idle(parameters: Iterable[Tensor]) -> str:
    """One sentence on what happened, and the remedy for its likely cause."""
    return f"step() changed nothing: no parameter of the optimizer has a gradient. {_remedy(parameters)}"


def _remedy(parameters: Iterable[Tensor]) -> str:
    if not any(p.requires_grad for p in parameters):
        return (
            "All of them are frozen (requires_grad=False): a wrapper such as that of LoRA freezes what it wraps. Make "
            "the optimizer after it, from the wrapped model."
        )
    if several_processes():
        return (
            "Make the optimizer after fully_shard or parallelize_module, which put new parameters in place of the old "
            "ones; and where set_requires_gradient_sync(False) held gradients back, step after a backward pass that "
            "sends them."
        )
    return (
        "Call loss.backward() before, and zero_grad() after the step; and make the optimizer from the model that is "
        "trained, after whatever copies it or puts new parameters in place of the old ones."
    )
