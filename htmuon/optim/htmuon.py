"""HTMuon and Muon: the step loop with nothing but the spectral map in its slots."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from htmuon._registry import Registry
from htmuon._typing import AdjustLrFn, MatrixView, Normalization
from htmuon.linalg import MethodChoice
from htmuon.optim.arguments import explained
from htmuon.optim.base import SpectralOptimizer
from htmuon.optim.momentum_rules import MomentumRuleChoice
from htmuon.optim.power_rules import PowerRuleChoice
from htmuon.optim.rate_rules import RateRuleChoice
from htmuon.optim.schedules import ScheduleDict
from htmuon.optim.weight_updates import WeightUpdateChoice
from htmuon.routing.kinds import KindRates
from htmuon.routing.routing import DEFAULT_SPLIT, SplitRules, param_groups
from htmuon.spectral import MapChoice

if TYPE_CHECKING:
    from htmuon.layouts.base import ProcessGroup

OPTIMIZERS: Registry[type["HTMuon"]] = Registry("optimizer")


@OPTIMIZERS.register("htmuon")
class HTMuon(SpectralOptimizer):
    """HTMuon: momentum matrices `U S V^T` become updates `U S^p V^T` (p = 1/8).

    For a matrix parameter W with gradient G, `a = max(1, rows / columns)^0.5`:

        M <- beta M + (1 - beta) G
        N  = beta M + (1 - beta) G                  (Nesterov; else N = M)
        O  = U S^p V^T,  N = U S V^T                (then normalized)
        W <- (1 - lr weight_decay) W - lr a O

    Strong directions stay strong and noisy ones are damped; p = 0 is Muon, p = 1 is SGD with momentum. Parameters in
    groups with `use_muon=False` take torch's AdamW, in the same object. A convolution weight is the matrix
    `[out, in * kernel]`, a stack `[experts, out, in]` is a batch of matrices.

    Memory: one `momentum_buffer` per matrix, in the dtype of the parameter.

    Once a step has allocated the state, later ones don't wait for an accelerator (`svd` and `eigh` do) and can be
    captured in a CUDA graph. A graph keeps numbers as they were: what moves has to be a learning rate that is a tensor
    on the device, changed in place, and a `power_schedule`, which follows the step that the graph counts.

    Args:
        params: tensors or named tensors of two or more dimensions, or dict groups with `use_muon: bool`;
            `htmuon.param_groups(model)` makes them. Groups may override every setting below.
        lr: learning rate of the matrices.
        power: the exponent p, in [-1, 1]; with a `spectral_map` that is an object, which brings its own, to be left
            out.
        power_schedule: a dict made by `htmuon.power_schedule`, which then sets `group["power"]` at every step.
        rate_rule: how each matrix finds a factor of `lr` for itself: `alignment`, or an object,
            `htmuon.optim.Alignment(speed=0.2)`; None is the same rate for all. It keeps the last update of each
            parameter, as large as the momentum.
        power_rule: how each matrix finds its own exponent, from `power` on: `alignment`, or an object,
            `htmuon.optim.PowerAlignment(speed=0.01)`; `held` leaves them to you or to `htmuon.powers`; None is `power`
            for all. With `normalization="auto"` the size is then `rms`. `alignment` keeps the last update, which a rate
            rule shares.
        spectral_map: a name in `htmuon.spectral.MAPS`: `power` (sigma^p), `rank_power` (i^-p), `knee`, `soft_clip`,
            `hard_clip`, `soren`, or one of your own; or an object, `htmuon.spectral.Knee(0.125, tau=0.02)`, of which
            groups hold the exponent as `power` and the rest as a plain dict.
        momentum: beta, in [0, 1).
        nesterov: look one step ahead.
        momentum_rule: what is remembered of the gradients: `average`, `sum` (`M <- beta M + G`, as SGD has it) or
            `two_averages`, a fast and a slow one; or an object, `htmuon.optim.TwoAverages(slow=0.99)`. Two averages
            have betas of their own, no Nesterov step, and a second buffer as large as the momentum: a `momentum` that
            is given has no effect, as a warning says.
        weight_decay: times `lr`; with `weight_update="independent"` alone, and with `hyperball` of no effect.
        weight_update: how matrices take the update and decay: `decoupled`, `cautious` (only weights decay that the
            update makes smaller), `independent` (of the rate: it needs a `weight_decay` of at most 0.01, 2e-3, say) or
            `hyperball` (weights keep their norm, and `lr` is relative to it: `weight_decay` and `adjust_lr_fn` have no
            effect, and weights that are zero stay zero, as a warning says: not for adapters).
        normalization: what fixes the size of O: `none` (the published method: it moves with the p-th power of the
            gradient's scale, and for p < 0 grows as the gradient shrinks), `spectral`, `rms` (the size of Muon's
            update, so that its learning rates carry over), `lmo`; `auto` is `none` for p >= 0 and `rms` for p < 0.
        eps: a matrix rests where the largest entry of its gradient times the root of their number is not above this,
            and momentum of a millionth of it counts as zero: a floor far below every signal, so that no update is made
            of rounding. `method="newton_schulz"` rests at zero and fades below the floor as `torch.optim.Muon` does.
        adjust_lr_fn: the scale a by the names of `torch.optim.Muon`: `original`, or `match_rms_adamw`
            (`0.2 max(rows, columns)^0.5`; needs `normalization="rms"`), `spectral_unclamped`
            (`(rows / columns)^0.5`, by the name of timm `rms_to_rms`), `none` (1).
        method: how the map is computed: a name in `htmuon.linalg.METHODS`; an object,
            `htmuon.linalg.Polynomial(levels=8)`, which groups hold as a plain dict; `exact`, a decomposition; or
            `auto`, the cheapest that errs by less than 10 % (`htmuon.linalg.select_method` says what that picks).
        compile: run the part of the step that works on whole matrices through `torch.compile`: once for each shape,
            whatever schedules do to power and learning rate, and for each power that is set by hand. For methods made
            of products; `svd` and `eigh` decompose, and stay as they are, as does `newton_schulz` with a power that
            only the device knows.
        stack_elements: how many elements of equally shaped matrices are stacked and updated at once, at most, but one
            parameter at least. A step needs the memory of a few stacks in float32, not of the model. None is what the
            method gains by on a CPU (1 to 4 MiB) and `2**26` elsewhere (256 MiB), where smaller stacks are computed
            faster than launched.
        adamw_lr: learning rate of groups with `use_muon=False` that name none; the prefix is that of these groups,
            whose keys are `lr`, `betas`, `eps` and `weight_decay` as in every other.
        adamw_betas: AdamW's betas.
        adamw_eps: AdamW's epsilon.
        adamw_weight_decay: decay of groups with `use_muon=False` that name none.
        process_group: ranks that hold the same plain parameters with the same gradients, as under
            DistributedDataParallel: each matrix is then computed by one of them. Without it every rank computes all.
            A DTensor needs none: it says by itself how the ranks hold it.

    Raises:
        TypeError: a setting or a parameter has the wrong type.
        ValueError: a setting is out of range, a group of matrices holds a vector, a parameter is on the meta device or
            in a lazy module that has seen no batch, or this rank is not in `process_group`.

    Example:
        >>> import torch, htmuon
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> optimizer = htmuon.HTMuon(htmuon.param_groups(model), lr=0.02)
        >>> model(torch.ones(3, 4)).square().mean().backward()
        >>> optimizer.step()
        >>> [group["use_muon"] for group in optimizer.param_groups]
        [True, False, False]

    Reference:
        Pang et al., HTMuon: Improving Muon via Heavy-Tailed Spectral Correction, arXiv 2603.10067.

    Not for embeddings, output heads, norms and biases as matrices, and not for sparse or complex gradients. A
    `torch.amp.GradScaler` must unscale before the step: with `normalization="none"` a forgotten scale changes the
    update.
    """

    @classmethod
    @explained
    def for_model(
        cls,
        model: nn.Module,
        *,
        lr: float | Tensor,
        adamw_lr: float | Tensor,
        spectral: Sequence[str] | Mapping[str, MatrixView] = (),
        adamw: Sequence[str] = (),
        split: SplitRules = DEFAULT_SPLIT,
        power: float | Mapping[str, float] | None = None,
        lr_scale: KindRates | None = None,
        **settings: Any,
    ) -> Self:
        """The optimizer of a model in one line: `cls(htmuon.param_groups(model, ...), lr, ...)`.

        Args:
            model: its trainable parameters, where they will be trained.
            lr: learning rate of the matrices.
            adamw_lr: learning rate of the other parameters.
            spectral: patterns that force parameters to the spectral side; see `htmuon.route`.
            adamw: patterns that force parameters to AdamW.
            split: how fused weights are taken apart; see `htmuon.route`.
            power: the exponent of all matrices, or exponents of some by kind or pattern; see `htmuon.param_groups`.
            lr_scale: factors of the learning rate by kind or pattern, or `"kinds"`, a table in which a fused `qkv` has
                none; see `htmuon.param_groups`.
            settings: all else that the optimizer takes.

        Raises:
            TypeError: as `htmuon.param_groups` and the optimizer.
            ValueError: as these.

        Example:
            >>> import torch, htmuon
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
            >>> optimizer = htmuon.HTMuon.for_model(model, lr=0.02, adamw_lr=3e-3)
            >>> [(group["use_muon"], group["lr"]) for group in optimizer.param_groups]
            [(True, 0.02), (False, 0.003), (False, 0.003)]
        """
        of_some = power if isinstance(power, Mapping) else None
        groups = param_groups(model, spectral=spectral, adamw=adamw, split=split, power=of_some, lr_scale=lr_scale)
        if power is not None and of_some is None:
            settings["power"] = power
        return cls(groups, lr=lr, adamw_lr=adamw_lr, **settings)

    @explained
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.02,
        *,
        power: float = 0.125,
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
        defaults = {
            "use_muon": True,
            "lr": lr,
            "weight_decay": weight_decay,
            "weight_update": weight_update,
            "power": power,
            "power_schedule": power_schedule,
            "rate_rule": rate_rule,
            "power_rule": power_rule,
            "spectral_map": spectral_map,
            "momentum": momentum,
            "nesterov": nesterov,
            "momentum_rule": momentum_rule,
            "normalization": normalization,
            "adjust_lr_fn": adjust_lr_fn,
            "method": method,
            "compile": compile,
            "stack_elements": stack_elements,
            "matrix_view": None,
            "split": None,
            "betas": adamw_betas,
            "eps": eps,
        }
        others = {"lr": adamw_lr, "betas": adamw_betas, "eps": adamw_eps, "weight_decay": adamw_weight_decay}
        super().__init__(params, defaults, others, process_group)


@OPTIMIZERS.register("muon")
class Muon(HTMuon):
    """Muon: every direction of the momentum weighs the same, `U V^T`.

    HTMuon with `power=0.0`; every other argument as there. `method="auto"` computes the polar factor to a few
    percent, `method="exact"` to full precision, and `method="newton_schulz"` with the five bfloat16 steps of
    `torch.optim.Muon`, 16 to 45 percent from it, which this then matches step by step.

    Example:
        >>> import torch, htmuon
        >>> optimizer = htmuon.Muon([torch.nn.Parameter(torch.eye(2))], lr=0.02, method="newton_schulz")

    Reference:
        Keller Jordan, Muon: An optimizer for hidden layers in neural networks, 2024.
    """

    @explained
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.02,
        *,
        power: float = 0.0,
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
