"""Any function of `sigma / sigma_1`, given as a Python function."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from htmuon.linalg import Axis, Family


@dataclass(frozen=True)
class Function:
    """The map of a Python function `f`: `U f(S / sigma_1) V^T`.

    Not part of the registry by itself: state_dicts hold names, not functions. To train with it, give it a name,

        @htmuon.spectral.MAPS.register("soft_sign")
        def soft_sign(power):
            return htmuon.spectral.Function(lambda x: x / (x + 0.05))

    after which `htmuon.HTMuon(groups, spectral_map="soft_sign")` uses it.

    Args:
        function: elementwise on tensors `[*batch, r]` of values in (0, 1]; it is not called with zeros, zero directions
            stay zero.

    Example:
        >>> import torch, htmuon
        >>> halve = htmuon.spectral.Function(lambda x: 0.5 * x)
        >>> htmuon.spectral_map(torch.diag(torch.tensor([2.0, 1.0])), halve).diagonal().tolist()
        [0.5, 0.25]
    """

    function: Callable[[Tensor], Tensor]

    power = None
    degree = 0.0

    @property
    def family(self) -> Family:
        """The function of `min(1, e^t x)`, t from 0 to 2."""
        return _stretched(self.function)

    def parameters(self, ratio: Tensor, stable_rank: Tensor) -> tuple[tuple[float | Tensor, ...], float | Tensor]:
        """`f(ratio x)`."""
        return (ratio.log(),), 1.0

    def __call__(self, relative: Tensor) -> Tensor:
        """`f(x)`."""
        return self.function(relative)


@lru_cache(maxsize=64)
def _stretched(function: Callable[[Tensor], Tensor]) -> Family:
    """A function at all ratios of a bound to the largest singular value, which is never above `r^(1/8)`."""
    return Family(lambda x, t: function((t.exp() * x).clamp(max=1.0)), (Axis(0.0, 2.0, 41),))
