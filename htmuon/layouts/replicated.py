"""All ranks of an axis hold the same: each computes a share of the matrices and sends it to the others."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from htmuon._typing import State
from htmuon.layouts.base import Layout, Stack, Stages
from htmuon.layouts.payload import inverse, pack, take, unpack

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from htmuon.layouts.base import LoadBalancer


@dataclass(frozen=True)
class Replicated:
    """Ranks with equal parameters and equal momentum, as under DDP or along the replicate axis of HSDP.

    Attributes:
        group: the ranks.
        inner: how the ranks hold the parameters beside that.
    """

    group: "ProcessGroup"
    inner: Layout

    @property
    def groups(self) -> "tuple[ProcessGroup, ...]":
        """This one, then those inside."""
        return (self.group, *self.inner.groups)

    @property
    def ranks(self) -> int:
        """Among how many ranks a parameter is divided: this axis does not."""
        return self.inner.ranks

    @property
    def owners(self) -> int:
        """Among how many ranks the work is divided."""
        return self.group.size() * self.inner.owners

    def bracket_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """That of the layout inside."""
        return self.inner.bracket_shape(shape)

    def apply(self, stack: Stack, ledger: "LoadBalancer") -> Stages[tuple[Tensor, State]]:
        """Compute what this rank owns, and exchange the results."""
        owners = ledger.owners(self.group, len(stack.direction), stack.cost)
        places = [[k for k, owner in enumerate(owners) if owner == rank] for rank in range(self.group.size())]
        mine = places[self.group.rank()]
        share = replace(
            stack,
            direction=take(stack.direction, mine),
            state={n: take(s, mine) for n, s in stack.state.items()},
            powers=None if stack.powers is None else take(stack.powers, mine),
        )
        update, state = yield from self.inner.apply(share, ledger.inside(self.group))

        own = pack([update, *state.values()])
        parts = [own if at is mine else own.new_empty(len(at), own.shape[1]) for at in places]
        works = [
            dist.broadcast(rows, group=self.group, group_src=rank, async_op=True)
            for rank, rows in enumerate(parts)
            if rows.numel()
        ]
        yield
        for work in works:
            assert work is not None
            work.wait()
        rows = take(torch.cat(parts), inverse([k for at in places for k in at]))
        found, *states = unpack(rows, [tensor.shape[1:] for tensor in (stack.direction, *stack.state.values())])
        return found, dict(zip(stack.state, states, strict=True))
