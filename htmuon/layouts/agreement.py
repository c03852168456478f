"""What all ranks must agree on: whether a step is taken, and that they train the same thing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def agree(flag: Tensor, moving: int, seen: Tensor, groups: "Sequence[ProcessGroup]") -> tuple[Tensor, Tensor, Tensor]:
    """Whether a flag is true on every rank of the groups, whether all move the same, and what any of them has seen.

    Args:
        flag: 0-d bool tensor.
        moving: a number that stands for the parameters that move, below 2^62.
        seen: bool, `[n]`, of the same things on every rank.
        groups: of ranks; along all of them together every rank hears of every other.

    Returns:
        Two 0-d bool tensors, and `[n]`, which is true where `seen` is on some rank; all on the device of the flag. The
        host does not wait for them.
    """
    said = torch.cat([flag.long().view(1), torch.full((2,), moving, device=flag.device), -seen.long()])
    said[2] = -said[2]
    for group in groups:
        dist.all_reduce(said, op=dist.ReduceOp.MIN, group=group)
    return said[0].bool(), said[1] == -said[2], said[3:] < 0


def add_up(values: Tensor, groups: "Sequence[ProcessGroup]") -> Tensor:
    """The sums of numbers over all ranks of the groups, in their place; the host does not wait for them."""
    for group in groups:
        dist.all_reduce(values, group=group)
    return values


def check_alike(lines: Sequence[str], groups: "Sequence[ProcessGroup]", message: str) -> None:
    """Raise ValueError on every rank if what a rank says of itself differs from what another one says.

    Args:
        lines: what every rank must say alike.
        groups: of ranks; along all of them together every rank hears of every other.
        message: of the error, with `{difference}` in it.
    """
    said = {dist.get_rank(): list(lines)}
    for group in groups:
        heard: list[dict[int, list[str]]] = [{} for _ in range(group.size())]
        dist.all_gather_object(heard, said, group=group)
        said = {rank: text for part in heard for rank, text in part.items()}
    (first, expected), *others = sorted(said.items())
    for rank, text in others:
        if text != expected:
            raise ValueError(message.format(difference=_first_difference(first, expected, rank, text)))


def _first_difference(rank: int, lines: Sequence[str], other: int, others: Sequence[str]) -> str:
    for mine, theirs in zip(lines, others, strict=False):
        if mine != theirs:
            return f"rank {rank} has {mine}, rank {other} has {theirs}"
    longer, more = (rank, lines) if len(lines) > len(others) else (other, others)
    return f"only rank {longer} has {more[min(len(lines), len(others))]}"
