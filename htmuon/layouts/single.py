"""Whole matrices: nothing to assemble."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from htmuon._typing import State
from htmuon.layouts.base import Stack, Stages

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from htmuon.layouts.base import LoadBalancer


@dataclass(frozen=True)
class Single:
    """This rank holds, and updates, whole parameters.

    Attributes:
        batch: for each mesh axis along which a stack of matrices is divided, as experts are: the dim, the number of
            ranks and the number of this one. Each rank then has whole matrices of its own.
        groups: the ranks of those axes, who must agree whether a step is taken.
    """

    batch: tuple[tuple[int, int, int], ...] = ()
    groups: "tuple[ProcessGroup, ...]" = ()

    @property
    def ranks(self) -> int:
        """One: what a rank holds it holds whole."""
        return 1

    @property
    def owners(self) -> int:
        """One: this rank."""
        return 1

    def bracket_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape itself, with this rank's share of a stack of matrices."""
        lengths = list(shape)
        for dim, ranks, rank in self.batch:
            lengths[dim] = slice_lengths(lengths[dim], ranks)[rank]
        return tuple(lengths)

    def apply(self, stack: Stack, ledger: "LoadBalancer") -> Stages[tuple[Tensor, State]]:
        """Run the bracket as it is."""
        yield from ()
        if stack.direction.numel() == 0:
            return stack.direction, stack.state
        return stack.bracket(stack.direction, stack.state, stack.powers)


def slice_lengths(length: int, ranks: int) -> list[int]:
    """How torch divides a dim: slices of `ceil(length / ranks)`, as long as there is something left.

    Example:
        >>> slice_lengths(7, 3), slice_lengths(2, 4)
        ([3, 3, 1], [1, 1, 0, 0])
    """
    longest = -(-length // ranks)
    return [min(longest, max(0, length - rank * longest)) for rank in range(ranks)]
