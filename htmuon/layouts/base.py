"""Where a whole matrix is assembled.

One idea: an optimizer's elementwise work (momentum, decay) runs on whatever part of a parameter this rank holds, and
only its *bracket* needs whole matrices. A layout gives the bracket whole matrices and takes the parts back, and
allocates the state that the bracket keeps. Nothing outside this room knows that ranks exist.

Layouts are nested, one for each axis of the mesh, around `Single`, which calls the bracket:

| layout | this rank holds | what travels |
|---|---|---|
| `Single` | whole matrices | nothing |
| `Replicated` | what all ranks of the axis hold | each update from its owner to the others |
| `Sharded` | a slice along one dim | each matrix to its owner, and its update back |

Every layout works in the same stages on every rank, whatever the rank owns; so the collectives of a group are started
in one order everywhere, and those of one stack run while another is computed.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from torch import Tensor

from htmuon._typing import State

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup as ProcessGroup


T = TypeVar("T")
# Work that stops wherever it waits for other ranks, so that other work can be done meanwhile.
Stages = Generator[None, None, T]


class Bracket(Protocol):
    """The part of a step that works on whole matrices: precondition, map, normalize, adapt, scale."""

    def __call__(self, direction: Tensor, state: State, powers: Tensor | None) -> tuple[Tensor, State]:
        """From momentum directions `[stack, *shape]` and their state to updates `[stack, *shape]` and the new state.

        Args:
            direction: of the momentum.
            state: what the bracket keeps.
            powers: the exponent of each, `[stack]`; None where all have that of their settings.
        """


@dataclass(frozen=True)
class Stack:
    """Equally shaped parameters that are updated together, as far as a rank holds them.

    Attributes:
        bracket: what is done with whole matrices.
        direction: `[stack, *part]`.
        state: of the bracket; each `[stack, *part of the state]`.
        shape: of a whole parameter.
        state_shapes: of the whole state of a parameter, by name.
        cost: of the bracket for one parameter, in any unit.
        powers: the exponent of each, `[stack]`, which every rank knows; None where all have that of their settings.
    """

    bracket: Bracket
    direction: Tensor
    state: State
    shape: tuple[int, ...]
    state_shapes: dict[str, tuple[int, ...]]
    cost: float
    powers: Tensor | None = None


class Layout(Protocol):
    """Assembles whole matrices for a bracket. A value: equal for parameters that are laid out alike."""

    @property
    def groups(self) -> "tuple[ProcessGroup, ...]":
        """The groups of ranks that take part, from the outermost axis to the innermost."""

    @property
    def ranks(self) -> int:
        """Among how many ranks a parameter is divided."""

    @property
    def owners(self) -> int:
        """Among how many ranks the work on a stack is divided."""

    def bracket_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What the bracket sees of a parameter of the given whole shape."""

    def apply(self, stack: Stack, ledger: "LoadBalancer") -> Stages[tuple[Tensor, State]]:
        """Run the bracket on whole matrices and return this rank's part of the update and of the new state."""


class LoadBalancer:
    """The work given to each rank of each group in one step.

    Every rank keeps the same ledger without asking the others, for all give out the same matrices in the same order.
    """

    def __init__(self) -> None:
        self._loads: dict[ProcessGroup, list[float]] = {}
        self._inner: dict[ProcessGroup, LoadBalancer] = {}

    def owners(self, group: "ProcessGroup", count: int, cost: float) -> list[int]:
        """The owner in a group of each of `count` matrices of equal cost: always who has the least work by then.

        Given the dearest first, nobody gets more than 4/3 of the work of the best division (Graham 1969).
        """
        loads = self._loads.setdefault(group, [0.0] * group.size())
        chosen = []
        for _ in range(count):
            owner = min(range(len(loads)), key=loads.__getitem__)
            loads[owner] += cost
            chosen.append(owner)
        return chosen

    def inside(self, group: "ProcessGroup") -> "LoadBalancer":
        """The ledger for what is divided further within the share of one rank of a group.

        Not the same one: ranks with other shares divide other matrices, and would no longer agree on what comes next.
        """
        return self._inner.setdefault(group, LoadBalancer())
