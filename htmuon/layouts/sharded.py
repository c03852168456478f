"""Each rank of an axis holds a slice: matrices travel to their owners, and updates back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from htmuon._typing import State
from htmuon.layouts.base import Layout, Stack, Stages
from htmuon.layouts.payload import inverse, pack, take, unpack
from htmuon.layouts.single import slice_lengths

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from htmuon.layouts.base import LoadBalancer

Shape = tuple[int, ...]
# The divisions of a dim that were made before, each as the number of ranks and the number of this one.
Divisions = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Slicing:
    """How an axis divides one dim.

    Attributes:
        dim: the dim.
        before: what other axes have divided it by already.
    """

    dim: int
    before: Divisions = ()

    def lengths(self, shape: Shape, ranks: int) -> list[int]:
        """Of the slices of a tensor of the given whole shape, by rank."""
        length = shape[self.dim]
        for parts, part in self.before:
            length = slice_lengths(length, parts)[part]
        return slice_lengths(length, ranks)


@dataclass(frozen=True)
class Sharded:
    """Ranks with slices along one dim, as under FSDP2 and tensor parallelism.

    In one all-to-all each matrix travels to its owner, in another its update travels back; of the same shape there are
    as many matrices in each as a stack has. Slices may be of unequal length, and empty.

    Attributes:
        group: the ranks.
        parameter: how they divide a parameter.
        state: how they divide a state of the bracket.
        inner: how the ranks hold what is assembled along this axis.
    """

    group: "ProcessGroup"
    parameter: Slicing
    state: Slicing
    inner: Layout

    @property
    def groups(self) -> "tuple[ProcessGroup, ...]":
        """This one, then those inside."""
        return (self.group, *self.inner.groups)

    @property
    def ranks(self) -> int:
        """Those of this axis, times those inside."""
        return self.group.size() * self.inner.ranks

    @property
    def owners(self) -> int:
        """Among how many ranks the work is divided."""
        return self.group.size() * self.inner.owners

    def bracket_shape(self, shape: Shape) -> Shape:
        """That of the layout inside."""
        return self.inner.bracket_shape(shape)

    def apply(self, stack: Stack, ledger: "LoadBalancer") -> Stages[tuple[Tensor, State]]:
        """Send slices to the owners of their matrices, compute, and send slices of the updates back."""
        ranks, me = self.group.size(), self.group.rank()
        owners = ledger.owners(self.group, len(stack.direction), stack.cost)
        by_owner = sorted(range(len(owners)), key=owners.__getitem__)
        counts = [owners.count(rank) for rank in range(ranks)]

        tensors = [stack.direction, *stack.state.values()]
        dims = [self.parameter.dim, *(self.state.dim for _ in stack.state)]
        lengths = [self.parameter.lengths(stack.shape, ranks)]
        lengths += [self.state.lengths(stack.state_shapes[name], ranks) for name in stack.state]
        # The shapes of what each rank holds of one parameter: they differ from this rank's along the sliced dims alone.
        shapes = [
            [_with(tensor.shape[1:], dim, of[rank]) for tensor, dim, of in zip(tensors, dims, lengths, strict=True)]
            for rank in range(ranks)
        ]
        widths = [sum(torch.Size(shape).numel() for shape in of_rank) for of_rank in shapes]
        here, there = [n * widths[me] for n in counts], [counts[me] * width for width in widths]

        sent = take(pack(tensors), by_owner)
        received = sent.new_empty(sum(there))
        work = dist.all_to_all_single(received, sent.view(-1), there, here, group=self.group, async_op=True)
        yield
        assert work is not None
        work.wait()
        slices = [
            unpack(rows.view(counts[me], widths[rank]), shapes[rank])
            for rank, rows in enumerate(torch.split(received, there))
        ]
        whole = [torch.cat(parts, dim + 1) for parts, dim in zip(zip(*slices, strict=True), dims, strict=True)]

        mine = [k for k, owner in enumerate(owners) if owner == me]
        assembled = replace(
            stack,
            direction=whole[0],
            state=dict(zip(stack.state, whole[1:], strict=True)),
            powers=None if stack.powers is None else take(stack.powers, mine),
        )
        update, state = yield from self.inner.apply(assembled, ledger.inside(self.group))

        results = [update, *(state[name] for name in stack.state)]
        divided = [torch.split(t, of, dim + 1) for t, of, dim in zip(results, lengths, dims, strict=True)]
        sent = torch.cat([pack(parts).view(-1) for parts in zip(*divided, strict=True)])
        received = sent.new_empty(sum(here))
        work = dist.all_to_all_single(received, sent, here, there, group=self.group, async_op=True)
        yield
        assert work is not None
        work.wait()
        rows = take(received.view(len(owners), widths[me]), inverse(by_owner))
        found, *states = unpack(rows, shapes[me])
        return found, dict(zip(stack.state, states, strict=True))


def _with(shape: Sequence[int], dim: int, length: int) -> Shape:
    return (*shape[:dim], length, *shape[dim + 1 :])
