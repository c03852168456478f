"""NorMuon and HTNorMuon: after the map, rows with a history of large updates are damped."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from htmuon._checks import plain
from htmuon._typing import AdjustLrFn, Group, Normalization, State
from htmuon.linalg import MethodChoice
from htmuon.linalg.base import safe_divisor
from htmuon.optim.arguments import explained
from htmuon.optim.htmuon import OPTIMIZERS, HTMuon
from htmuon.optim.momentum_rules import MomentumRuleChoice
from htmuon.optim.power_rules import PowerRuleChoice
from htmuon.optim.rate_rules import RateRuleChoice
from htmuon.optim.schedules import ScheduleDict
from htmuon.optim.settings import check_beta2
from htmuon.optim.weight_updates import WeightUpdateChoice
from htmuon.spectral import MapChoice

if TYPE_CHECKING:
    from htmuon.layouts.base import ProcessGroup

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
        power: the exponent p, in [-1, 1].
        beta2: decay of the row statistics, in [0, 1).

    Every other argument is as for `HTMuon`.

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

    own_settings: ClassVar = {"beta2": check_beta2}

    @explained
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.02,
        *,
        power: float = 0.0,
        beta2: float = 0.95,
        power_schedule: ScheduleDict | None = None,
        rate_rule: RateRuleChoice = None,
        power_rule: PowerRuleChoice = None,
        spectral_map: MapChoice = "power",
        momentum: float = 0.95,
        nesterov: bool = True,
        momentum_rule: MomentumRuleChoice = "average",
        weight_decay: float = 0.1,
        weight_update: WeightUpdateChoice = "decoupled",
        normalization: Normalization = "auto",
        eps: float = 1e-7,
        adjust_lr_fn: AdjustLrFn | None = "original",
        method: MethodChoice = "auto",
        compile: bool = False,  # noqa: A002 - the word of torch
        stack_elements: int | None = None,
        adamw_lr: float | Tensor = 3e-4,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-10,
        adamw_weight_decay: float = 0.1,
        process_group: "ProcessGroup | None" = None,
    ) -> None:
        beta2 = plain(beta2)
        check_beta2(beta2)
        super().__init__(
            params,
            lr,
            power=power,
            power_schedule=power_schedule,
            rate_rule=rate_rule,
            power_rule=power_rule,
            spectral_map=spectral_map,
            momentum=momentum,
            nesterov=nesterov,
            momentum_rule=momentum_rule,
            weight_decay=weight_decay,
            weight_update=weight_update,
            normalization=normalization,
            eps=eps,
            adjust_lr_fn=adjust_lr_fn,
            method=method,
            compile=compile,
            stack_elements=stack_elements,
            adamw_lr=adamw_lr,
            adamw_betas=adamw_betas,
            adamw_eps=adamw_eps,
            adamw_weight_decay=adamw_weight_decay,
            process_group=process_group,
        )
        self._add_setting("beta2", beta2)

    def adaptation(self, group: Group) -> RowStatistics:
        """Row statistics with the group's `beta2`."""
        return RowStatistics(group["beta2"])


@OPTIMIZERS.register("htnormuon")
class HTNorMuon(NorMuon):
    """HTNorMuon: NorMuon on heavy-tailed updates, `power=0.125` (arXiv 2603.10067); all else as `NorMuon`."""

    @explained
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.02,
        *,
        power: float = 0.125,
        beta2: float = 0.95,
        power_schedule: ScheduleDict | None = None,
        rate_rule: RateRuleChoice = None,
        power_rule: PowerRuleChoice = None,
        spectral_map: MapChoice = "power",
        momentum: float = 0.95,
        nesterov: bool = True,
        momentum_rule: MomentumRuleChoice = "average",
        weight_decay: float = 0.1,
        weight_update: WeightUpdateChoice = "decoupled",
        normalization: Normalization = "auto",
        eps: float = 1e-7,
        adjust_lr_fn: AdjustLrFn | None = "original",
        method: MethodChoice = "auto",
        compile: bool = False,  # noqa: A002 - the word of torch
        stack_elements: int | None = None,
        adamw_lr: float | Tensor = 3e-4,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-10,
        adamw_weight_decay: float = 0.1,
        process_group: "ProcessGroup | None" = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            power=power,
            beta2=beta2,
            power_schedule=power_schedule,
            rate_rule=rate_rule,
            power_rule=power_rule,
            spectral_map=spectral_map,
            momentum=momentum,
            nesterov=nesterov,
            momentum_rule=momentum_rule,
            weight_decay=weight_decay,
            weight_update=weight_update,
            normalization=normalization,
            eps=eps,
            adjust_lr_fn=adjust_lr_fn,
            method=method,
            compile=compile,
            stack_elements=stack_elements,
            adamw_lr=adamw_lr,
            adamw_betas=adamw_betas,
            adamw_eps=adamw_eps,
            adamw_weight_decay=adamw_weight_decay,
            process_group=process_group,
        )
