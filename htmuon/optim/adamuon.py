"""AdaMuon and HTAdaMuon: the sign of the momentum is mapped, and elements are adapted by their own statistics."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from htmuon._checks import check_flag, plain
from htmuon._typing import AdjustLrFn, Group, Normalization, State
from htmuon.linalg import MethodChoice
from htmuon.linalg.base import safe_divisor
from htmuon.optim.arguments import explained
from htmuon.optim.htmuon import OPTIMIZERS, HTMuon
from htmuon.optim.momentum_rules import MomentumRuleChoice
from htmuon.optim.power_rules import PowerRuleChoice
from htmuon.optim.rate_rules import RateRuleChoice
from htmuon.optim.rules import FADED
from htmuon.optim.schedules import ScheduleDict
from htmuon.optim.settings import check_beta2
from htmuon.optim.slots import Identity, Precondition
from htmuon.optim.weight_updates import WeightUpdateChoice
from htmuon.spectral import MapChoice

if TYPE_CHECKING:
    from htmuon.layouts.base import ProcessGroup

# The constant of the paper's algorithm, added to a root mean square.
EPS = 1e-8


@dataclass(frozen=True)
class Sign:
    """The sign of every entry: an input for the map whose scale says nothing.

    Args:
        floor: matrices whose Frobenius norm is not above it become zero: their signs are those of rounding.
    """

    floor: float

    def __call__(self, direction: Tensor) -> Tensor:
        """`sign(direction)`."""
        signal: Tensor = torch.linalg.matrix_norm(direction, keepdim=True) > self.floor
        return direction.sign() * signal


@dataclass(frozen=True)
class ElementStatistics:
    """Divide each element by its running root mean square, and give the result a fixed size.

        v <- beta2 v + (1 - beta2) O^2,  O' = O / (v^0.5 + eps),  O'' = O' min(m, n)^0.5 / norm_F(O')

    Args:
        beta2: decay of the running mean square, in [0, 1).
    """

    beta2: float

    def state_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """One number per element."""
        return {"second_momentum_buffer": shape}

    def __call__(self, update: Tensor, state: State) -> tuple[Tensor, State]:
        """Adapt `update` `[stack, *batch, m, n]`."""
        second = state["second_momentum_buffer"].lerp(update.square(), 1 - self.beta2)
        adapted = update / (second.sqrt() + EPS)
        size = min(update.shape[-2:]) ** 0.5
        adapted = adapted * (size / safe_divisor(torch.linalg.matrix_norm(adapted, keepdim=True)))
        return adapted, {"second_momentum_buffer": second}


@OPTIMIZERS.register("adamuon")
class AdaMuon(HTMuon):
    """AdaMuon: Muon on the sign of the momentum, with element-wise second moments after the map.

    The rescaling fixes the size of the update; `normalization` decides only how much steps with large gradients weigh
    in the running statistics, which at p = 0 is nothing. With the default scale `match_rms_adamw` the update has the
    root mean square 0.2 of the paper (`0.2 (mn)^0.5 / norm_F`), and AdamW's learning rates apply: hence the smaller
    default.

    Memory: one number per element beside the momentum.

    Args:
        params: as for `HTMuon`.
        lr: learning rate of the matrices, of the size of AdamW's.
        power: the exponent p, in [-1, 1].
        beta2: decay of the element statistics, in [0, 1).
        sign: map the sign of the momentum, as the paper does; False maps the momentum itself, as pytorch_optimizer
            and timm do in their AdaMuon.
        adjust_lr_fn: as for `HTMuon`.

    Every other argument is as for `HTMuon`.

    Raises:
        TypeError: as for `HTMuon`.
        ValueError: as for `HTMuon`.

    Example:
        >>> import torch, htmuon
        >>> weight = torch.nn.Parameter(torch.eye(3))
        >>> optimizer = htmuon.AdaMuon([weight], lr=1e-3, weight_decay=0.0)
        >>> weight.sum().backward(); optimizer.step()
        >>> round((weight - torch.eye(3)).square().mean().sqrt().item(), 6)
        0.0002

    Reference:
        Si et al., AdaMuon: Adaptive Muon Optimizer, arXiv 2507.11005.
    """

    sets_size = True
    own_settings: ClassVar = {"beta2": check_beta2, "sign": partial(check_flag, "sign")}

    @explained
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        *,
        power: float = 0.0,
        beta2: float = 0.95,
        sign: bool = True,
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
        adjust_lr_fn: AdjustLrFn | None = "match_rms_adamw",
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
        check_flag("sign", sign)
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
        self._add_setting("sign", sign)

    def precondition(self, group: Group) -> Precondition:
        """The sign of the direction, or the direction itself."""
        return Sign(FADED * group["eps"]) if group.get("sign", True) else Identity()

    def adaptation(self, group: Group) -> ElementStatistics:
        """Element statistics with the group's `beta2`."""
        return ElementStatistics(group["beta2"])


@OPTIMIZERS.register("htadamuon")
class HTAdaMuon(AdaMuon):
    """HTAdaMuon: AdaMuon on heavy-tailed updates, `power=0.125`; all else as `AdaMuon`."""

    @explained
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        *,
        power: float = 0.125,
        beta2: float = 0.95,
        sign: bool = True,
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
        adjust_lr_fn: AdjustLrFn | None = "match_rms_adamw",
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
            sign=sign,
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
