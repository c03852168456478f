"""The update of matrix parameters: momentum, bracket and weights of a stack of equally shaped ones."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from htmuon._checks import host_may_look
from htmuon._typing import Group
from htmuon.layouts import Bracket, Layout, LoadBalancer, Stack, add_up, part, part_like
from htmuon.linalg.base import compute_dtype
from htmuon.optim.buckets import cost
from htmuon.optim.hindsight import LAST_UPDATE, LOG_RATE, NUMBERS, POWER
from htmuon.optim.momentum_rules import MOMENTUM_RULES
from htmuon.optim.named import part_of
from htmuon.optim.signal import Flags
from htmuon.optim.state import State, as_the_parameter
from htmuon.optim.weight_updates import WEIGHT_UPDATES

# Elements of a matrix from which on a CPU works on each by itself.
SMALL = 2**14


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
        # The bracket does not see the state of the elementwise work around it.
        outside = {*as_the_parameter(), *NUMBERS}
        kept = {name: shape for name, shape in self.shapes.items() if name not in outside}
        moves = None if host_may_look(active) and bool(active.all()) else flags.over_parameter(active)
        stack = Stack(
            bracket=self.bracket,
            direction=self._directions(moves),
            # Of another dtype where the model was cast after it was made.
            state={n: torch.stack([s[n] for s in self.states]).to(dtype) for n in kept},
            shape=tuple(first.shape),
            state_shapes=kept,
            cost=cost(group, first),
            powers=torch.stack([state[POWER] for state in self.states]) if POWER in self.shapes else None,
        )
        update, adapted = yield from self.layout.apply(stack, ledger)

        self._move_weights(update, moves)
        if LAST_UPDATE in self.shapes:
            # Of a matrix that rests, or a step that is not taken, it stays.
            last = [state[LAST_UPDATE] for state in self.states]
            new = update if moves is None else torch.where(moves, update, torch.stack(last).to(dtype))
            torch._foreach_copy_(last, list(new.unbind()))
        for name, old in stack.state.items():
            changes = flags.over_state(active, name)
            new = torch.where(changes, adapted[name], old)
            torch._foreach_copy_([state[name] for state in self.states], list(new.unbind()))

    def _directions(self, moves: Tensor | None) -> Tensor:
        """Advance the momentum of the matrices that move; `[stack, *slice]`, finite and unused for those that rest.

        Args:
            moves: which of them move, so that it broadcasts against the result; None where all do.
        """
        dtype, rule = compute_dtype(self.parameters[0].dtype), part_of(MOMENTUM_RULES, self.group["momentum_rule"])
        gradients = [part_like(cast(Tensor, p.grad), p) for p in self.parameters]
        direction = torch.empty((len(gradients), *gradients[0].shape), dtype=dtype, device=gradients[0].device)
        for some in self._pieces():
            gradient = _stack(gradients[some], dtype)
            taken: float | Tensor = 1.0
            if moves is not None:
                gradient, taken = gradient.masked_fill(~moves[some], 0.0), moves[some].to(dtype)
            with ExitStack() as open_stacks:
                buffers = [
                    open_stacks.enter_context(stacked([state[name] for state in self.states[some]], dtype))
                    for name in rule.buffers
                ]
                rule(buffers, gradient, taken, self.group, direction[some])
        return direction

    def _move_weights(self, update: Tensor, moves: Tensor | None) -> None:
        """Decay and update the weights of the matrices that move."""
        descent = part_of(WEIGHT_UPDATES, self.group["weight_update"])
        weights = [part(p) for p in self.parameters]
        pieces = self._pieces()
        for some, rate in zip(pieces, self._rates(pieces), strict=True):
            with stacked(weights[some], update.dtype) as weight:
                # A matrix that rests takes a step of length zero.
                taken = rate if moves is None else moves[some].to(update.dtype) * rate
                descent(weight, update[some], taken, self.group, partial(add_up, groups=self.layout.groups))

    def _rates(self, pieces: Sequence[slice]) -> Sequence[float | Tensor]:
        """The learning rate of the matrices in each piece, with the factor of each where a rule moves it."""
        rate: float | Tensor = self.group["lr"]
        if LOG_RATE not in self.shapes:
            return [rate] * len(pieces)
        factors = torch.stack([state[LOG_RATE] for state in self.states]).exp()
        if len(pieces) == len(factors) and host_may_look(factors):
            return [factor * rate for factor in factors.tolist()]
        rates = factors.to(compute_dtype(self.parameters[0].dtype)).view(-1, *(1,) * self.parameters[0].ndim) * rate
        return [rates[some] for some in pieces]

    def _pieces(self) -> list[slice]:
        """How many matrices are worked on at once, element by element.

        Stacking them is a copy there and one back. That is less than the calls that it saves on an accelerator, which
        waits for its host, and on a CPU for small ones.
        """
        # The same on every rank, also where their slices are of unequal length: pieces may send.
        count, elements = len(self.parameters), self.parameters[0].numel() // self.layout.ranks
        if self.parameters[0].device.type != "cpu" or elements < SMALL:
            return [slice(0, count)]
        return [slice(number, number + 1) for number in range(count)]


def _stack(tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Equally shaped tensors as a stack of a dtype; one alone of that dtype is not copied."""
    return (tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(list(tensors))).to(dtype)


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
    stack = _stack(tensors, dtype)
    yield stack
    if len(tensors) == 1 and tensors[0].dtype == dtype:
        return
    torch._foreach_copy_(list(tensors), list(stack.unbind()))
