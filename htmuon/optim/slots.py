"""The slots that a named optimizer fills around the spectral map.

A *precondition* changes the momentum direction before the map. An *adaptation* changes the mapped, normalized matrix by
statistics that it keeps, and hands back a matrix whose size it has fixed itself. Both see whole matrices in stacks and
know neither parameters nor ranks. Both are values (frozen dataclasses): made again at every step, and equal to those of
the step before while the settings are, which is how a compiled bracket is found again.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from htmuon._typing import State


class Precondition(Protocol):
    """What happens to the direction before the map."""

    def __call__(self, direction: Tensor) -> Tensor:
        """`[stack, *batch, m, n]` to the same shape."""


class Adaptation(Protocol):
    """What happens to the update after the map, with memory."""

    def state_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Name and shape of each state tensor for a parameter with matrices `[*batch, m, n]`."""

    def __call__(self, update: Tensor, state: State) -> tuple[Tensor, State]:
        """From an update `[stack, *batch, m, n]` and the state to the adapted update and the new state."""


@dataclass(frozen=True)
class Identity:
    """The direction as it is."""

    def __call__(self, direction: Tensor) -> Tensor:
        """Return `direction`."""
        return direction


@dataclass(frozen=True)
class Unadapted:
    """The update as it is; keeps nothing."""

    def state_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """No state."""
        return {}

    def __call__(self, update: Tensor, state: State) -> tuple[Tensor, State]:
        """Return both."""
        return update, state
