"""Where a whole matrix is assembled.

One idea: an optimizer's elementwise work (momentum, decay) runs on whatever part of a parameter this rank holds, and
only its *bracket* needs whole matrices. A layout gives the bracket whole matrices and takes the parts back, allocates
the state that the bracket keeps, and lets the ranks agree on a flag. Nothing outside this room knows that ranks exist.
"""

from typing import Protocol

import torch
from torch import Tensor

from htmuon._typing import State


class Bracket(Protocol):
    """The part of a step that works on whole matrices: precondition, map, normalize, adapt, scale."""

    def __call__(self, direction: Tensor, state: State) -> tuple[Tensor, State]:
        """From momentum directions `[stack, *shape]` and their state to updates `[stack, *shape]` and the new state."""


class Layout(Protocol):
    """Assembles whole matrices for a bracket."""

    def allocate(self, parameter: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A zero state tensor of the given whole shape, on the device of the parameter."""

    def apply(self, bracket: Bracket, direction: Tensor, state: State) -> tuple[Tensor, State]:
        """Run the bracket on whole matrices and return this rank's part of the result."""

    def agree(self, flag: Tensor) -> Tensor:
        """True (0-d bool tensor) where the flag is true on every rank."""
