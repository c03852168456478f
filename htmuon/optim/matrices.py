"""The update of matrix parameters: momentum, bracket and weights of a stack of equally shaped ones."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from htmuon._typing import Group
from htmuon.layouts import Bracket, Layout, LoadBalancer, Stack, part, part_like
from htmuon.linalg.base import compute_dtype
from htmuon.optim.buckets import cost
from htmuon.optim.signal import Flags
from htmuon.optim.state import State


def run_staggered(pieces: Iterable[Generator[None, None, None]]) -> None:
    """Start each piece before the one before it continues: what one waits for is sent while another computes.

    A piece stops (yields) where it has asked other ranks for something, and continues when its turn comes again. The
    order is the same on every rank as long as all pieces stop equally often there.

    Example:
        >>> def piece(name):
        ...     print(name, "sends")
        ...     yield
        ...     print(name, "computes")
        >>> run_staggered(piece(name) for name in "ab")
        a sends
        b sends
        a computes
        b computes
    """
    under_way: list[Generator[None, None, None]] = []
    for piece in pieces:
        under_way = [*_advanced([piece]), *_advanced(under_way)]
    while under_way:
        under_way = _advanced(under_way)


def _advanced(pieces: list[Generator[None, None, None]]) -> list[Generator[None, None, None]]:
    """Take every piece to its next stop; those that have not ended."""
    ended = object()
    return [piece for piece in pieces if next(piece, ended) is not ended]


@dataclass(frozen=True)
class MatrixStack:
    """Matrix parameters that are updated together, with all that it takes: made before anything moves.

    Attributes:
        group: their settings.
        layout: how the ranks hold them.
        parameters: with gradients, of one shape, dtype and device.
        states: what this rank holds of the state of each.
        shapes: of the whole state, by name.
        bracket: what is done with whole matrices.
    """

    group: Group
    layout: Layout
    parameters: Sequence[Tensor]
    states: Sequence[State]
    shapes: dict[str, tuple[int, ...]]
    bracket: Bracket

    def update(
        self, finite: Tensor, signals: dict[Tensor, Tensor], ledger: LoadBalancer
    ) -> Generator[None, None, None]:
        """Update what this rank holds; waits where the layout does.

        Args:
            finite: 0-d bool, whether the step is taken.
            signals: for each parameter, flags of its matrices that have a gradient.
            ledger: of the work given to the ranks in this step.
        """
        group, first = self.group, self.parameters[0]
        flags, dtype = Flags.of(group, first), compute_dtype(first.dtype)
        active = torch.stack([signals[p] for p in self.parameters]) & finite.to(first.device)
        moves = flags.over_parameter(active)
        stack = Stack(
            bracket=self.bracket,
            direction=self._directions(moves),
            # Of another dtype where the model was cast after it was made.
            state={
                n: torch.stack([s[n] for s in self.states]).to(dtype) for n in self.shapes if n != "momentum_buffer"
            },
            shape=tuple(first.shape),
            state_shapes=self.shapes,
            cost=cost(group, first),
        )
        update, adapted = yield from self.layout.apply(stack, ledger)

        rate = moves.to(update.dtype) * group["lr"]  # a matrix that rests takes a step of length zero
        with stacked([part(p) for p in self.parameters], update.dtype) as weight:
            weight.mul_(1 - rate * group["weight_decay"]).addcmul_(update, rate, value=-1)
        for name, old in stack.state.items():
            changes = flags.over_state(active, name)
            new = torch.where(changes, adapted[name], old)
            torch._foreach_copy_([state[name] for state in self.states], list(new.unbind()))

    def _directions(self, moves: Tensor) -> Tensor:
        """Advance the momentum of the matrices that move; `[stack, *slice]`, finite and unused for those that rest."""
        beta, dtype = self.group["momentum"], compute_dtype(self.parameters[0].dtype)
        gradients = [part_like(cast(Tensor, p.grad), p) for p in self.parameters]
        direction = torch.stack(gradients).to(dtype).masked_fill_(~moves, 0.0)
        with stacked([state["momentum_buffer"] for state in self.states], dtype) as momentum:
            momentum.lerp_(direction, (1 - beta) * moves.to(dtype))
            return direction.lerp_(momentum, beta) if self.group["nesterov"] else direction.copy_(momentum)


@contextmanager
def stacked(tensors: Sequence[Tensor], dtype: torch.dtype) -> Iterator[Tensor]:
    """Equally shaped tensors as one stack of a dtype, whose changes are theirs; one alone of that dtype is not copied.

    Example:
        >>> numbers = [torch.tensor([1.0]), torch.tensor([2.0])]
        >>> with stacked(numbers, torch.float64) as stack:
        ...     _ = stack.mul_(3)
        >>> numbers
        [tensor([3.]), tensor([6.])]
    """
    if len(tensors) == 1 and tensors[0].dtype == dtype:
        yield tensors[0].unsqueeze(0)
        return
    stack = torch.stack(list(tensors)).to(dtype)
    yield stack
    torch._foreach_copy_(list(tensors), list(stack.unbind()))
