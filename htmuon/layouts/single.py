"""One device, whole matrices: nothing to assemble."""

import torch
from torch import Tensor

from htmuon._typing import State
from htmuon.layouts.base import Bracket


class Single:
    """Every rank holds, and updates, whole parameters."""

    def allocate(self, parameter: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Zeros beside the parameter."""
        return torch.zeros(shape, dtype=dtype, device=parameter.device)

    def apply(self, bracket: Bracket, direction: Tensor, state: State) -> tuple[Tensor, State]:
        """Run the bracket as it is."""
        return bracket(direction, state)

    def agree(self, flag: Tensor) -> Tensor:
        """There is nobody else to ask."""
        return flag
