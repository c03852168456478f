"""Where the noise begins: the relative singular value below which a direction counts as noise."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from htmuon._checks import check_real

# No edge lies lower: even 8 levels of the polynomial method end at half of it.
LOWEST_EDGE = 1e-4

MarchenkoPastur = Literal["marchenko_pastur"]


@dataclass(frozen=True)
class Quantile:
    """An edge below which a given share of the singular values lies, those that are zero included.

    Args:
        share: in [0, 1]; 0.5 is the median.

    Raises:
        ValueError: the share is outside its range.

    Example:
        >>> Quantile(0.5).edge(torch.tensor([1.0, 0.1, 0.3])).tolist()
        [0.30...]
    """

    share: float

    def __post_init__(self) -> None:
        check_real("share", self.share, "0.5 is the median.")
        if not 0 <= self.share <= 1:
            raise ValueError(f"a quantile needs a share in [0, 1]; got {self.share}. 0.5 is the median.")

    def edge(self, relative: Tensor) -> Tensor:
        """`[*batch, 1]` from all relative singular values, `[*batch, r]`, interpolated between neighbours."""
        return torch.quantile(relative, self.share, dim=-1, keepdim=True)


def quantile_from_dict(tau: Any) -> Any:
    """The quantile that `{"share": share}` describes, as files hold it; every other edge as it is."""
    return Quantile(tau["share"]) if isinstance(tau, dict) and tau.keys() == {"share"} else tau


def noise_edge(stable_rank: Tensor, shape: tuple[int, int]) -> Tensor:
    """The largest singular value of noise with the norm of a matrix without its leading direction.

    Independent entries of variance s^2 have singular values of up to `s (sqrt m + sqrt n)`, so relative to `sigma_1`

        edge = sqrt((norm_F^2 / sigma_1^2 - 1) / (m n)) (sqrt m + sqrt n)

    An upper estimate: what signal there is beside the leading direction counts as noise too. The leading direction is
    left out because it alone can be most of the norm: with one spike the edge is right, and a matrix of rank one has
    no noise. The difference to 1 is as precise as the stable rank, to 1e-7 in float32 and 1e-3 in half precision:
    edges far below `(1 / sqrt m + 1 / sqrt n)` times the root of that are rounding.

    Args:
        stable_rank: `norm_F^2 / sigma_1^2`, any shape.
        shape: `(m, n)`.

    Returns:
        As `stable_rank`, at most 1: noise is not larger than the largest singular value.

    Example:
        >>> noise = torch.randn(200, 300, generator=torch.Generator().manual_seed(0))
        >>> sigma = torch.linalg.svdvals(noise)
        >>> 0.95 < noise_edge((sigma / sigma[0]).square().sum(), (200, 300)).item() <= 1.0
        True

    Reference:
        Marchenko and Pastur, Distribution of eigenvalues for some sets of random matrices, 1967.
    """
    rows, columns = shape
    noise = (stable_rank - 1).clamp(min=0) / (rows * columns)
    edge: Tensor = noise.sqrt() * (rows**0.5 + columns**0.5)
    return edge.clamp(max=1.0)
