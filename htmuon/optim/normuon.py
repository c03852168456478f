"""NorMuon and HTNorMuon: after the map, rows with a history of large updates are damped."""

from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from htmuon._checks import check_number, plain
from htmuon._typing import Group, State
from htmuon.linalg.base import safe_divisor
from htmuon.optim.htmuon import OPTIMIZERS, HTMuon
from htmuon.optim.settings import Settings, refuse_unknown

# The constant of the authors' code (https://github.com/zichongli5/NorMuon), added to a mean square.
EPS = 1e-10


@dataclass(frozen=True)
class RowStatistics:
    """Divide each row by the root of its running mean square, and keep the Frobenius norm of the matrix.

        v <- beta2 v + (1 - beta2) mean_columns(O^2),  O' = O / (v + eps)^0.5,  O'' = O' norm_F(O) / norm_F(O')

    Args:
        beta2: decay of the running mean square, in [0, 1).
    """

    beta2: float

    def state_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """One number per row."""
        return {"second_momentum_buffer": (*shape[:-1], 1)}

    def __call__(self, update: Tensor, state: State) -> tuple[Tensor, State]:
        """Adapt `update` `[stack, *batch, m, n]`."""
        norm = torch.linalg.matrix_norm(update, keepdim=True)
        mean_square = update.square().mean(dim=-1, keepdim=True)
        second = state["second_momentum_buffer"].lerp(mean_square, 1 - self.beta2)
        adapted = update * (second + EPS).rsqrt()
        adapted = adapted * (norm / safe_divisor(torch.linalg.matrix_norm(adapted, keepdim=True)))
        return adapted, {"second_momentum_buffer": second}


@OPTIMIZERS.register("normuon")
class NorMuon(HTMuon):
    """NorMuon: Muon with row-wise (per-neuron) second moments after the map.

    At `power=0` this is the authors' published code: the statistics keep the Frobenius norm of the mapped matrix, so
    they change how an update is spread over rows and not how large it is. For a wide matrix of full rank all rows of
    `U V^T` already have unit length, and only p > 0, tall matrices and inexact methods give the statistics something
    to do.

    Memory: one number per row beside the momentum.

    Args:
        params: as for `HTMuon`.
        lr: learning rate of the matrices.
        power: the exponent p, in [-0.5, 1].
        beta2: decay of the row statistics, in [0, 1).
        **settings: every other argument of `HTMuon`.

    Raises:
        TypeError: as for `HTMuon`.
        ValueError: as for `HTMuon`.

    Example:
        >>> import torch, htmuon
        >>> weight = torch.nn.Parameter(torch.eye(3))
        >>> optimizer = htmuon.NorMuon([weight], lr=0.02)
        >>> weight.sum().backward(); optimizer.step()
        >>> optimizer.state[weight]["second_momentum_buffer"].shape
        torch.Size([3, 1])

    Reference:
        Li et al., NorMuon, arXiv 2510.05491.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.02,
        *,
        power: float = 0.0,
        beta2: float = 0.95,
        **settings: Unpack[Settings],
    ) -> None:
        refuse_unknown(type(self).__name__, settings, Settings.__annotations__)
        beta2 = plain(beta2)
        check_number("beta2", beta2, below=1.0, remedy="Pass a float such as 0.95.")
        super().__init__(params, lr, power=power, **settings)
        self._add_setting("beta2", beta2)

    def adaptation(self, group: Group) -> RowStatistics:
        """Row statistics with the group's `beta2`."""
        return RowStatistics(group["beta2"])


@OPTIMIZERS.register("htnormuon")
class HTNorMuon(NorMuon):
    """HTNorMuon: NorMuon on heavy-tailed updates, `power=0.125` (arXiv 2603.10067); all else as `NorMuon`."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.02,
        *,
        power: float = 0.125,
        beta2: float = 0.95,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(params, lr, power=power, beta2=beta2, **settings)
