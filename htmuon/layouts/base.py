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

    from htmuon.layouts.owners import Ledger

T = TypeVar("T")
# Work that stops wherever it waits for other ranks, so that other work can be done meanwhile.
Stages = Generator[None, None, T]


class Bracket(Protocol):
    """The part of a step that works on whole matrices: precondition, map, normalize, adapt, scale."""

    def __call__(self, direction: Tensor, state: State) -> tuple[Tensor, State]:
        """From momentum directions `[stack, *shape]` and their state to updates `[stack, *shape]` and the new state."""


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
    """

    bracket: Bracket
    direction: Tensor
    state: State
    shape: tuple[int, ...]
    state_shapes: dict[str, tuple[int, ...]]
    cost: float


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

    def apply(self, stack: Stack, ledger: "Ledger") -> Stages[tuple[Tensor, State]]:
        """Run the bracket on whole matrices and return this rank's part of the update and of the new state."""
