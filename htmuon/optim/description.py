"""What every rank must have alike before the first step, in lines that can be compared."""

from collections.abc import Iterable

from torch import Tensor

from htmuon.layouts import is_distributed
from htmuon.optim.settings import Group

# Not settings: the parameters have lines of their own, and counters are tensors on a device.
_LEFT_OUT = ("params", "param_names", "step", "skipped_steps")


def describe(groups: Iterable[Group]) -> list[str]:
    """One line for the settings of each group, and one for each parameter: name, shape, dtype, placement."""
    lines = []
    for index, group in enumerate(groups):
        # A tensor is a number that only the device knows.
        settings = {k: "a tensor" if isinstance(v, Tensor) else v for k, v in group.items() if k not in _LEFT_OUT}
        names = group.get("param_names") or range(len(group["params"]))
        for name, p in zip(names, group["params"], strict=True):
            placed = f" {tuple(p.placements)} on {tuple(p.device_mesh.shape)}" if is_distributed(p) else ""
            lines.append(f"parameter {name} of group {index}: {tuple(p.shape)} {p.dtype}{placed}")
        lines += [f"{key}={value!r} in group {index}" for key, value in sorted(settings.items())]
    return lines
