"""Optimizers from a short text: `htmuon`, `htmuon:power=0.25,normalization=rms`, `adamw`, `lion:beta1=0.95`."""

import inspect
from collections.abc import Callable
from glob import escape
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

import htmuon
from htmuon._registry import unknown_name
from htmuon._typing import Group
from htmuon.baselines.packaged import BASELINES, BaselineRun
from htmuon.optim import OPTIMIZERS, POWER_SCHEDULES
from htmuon.routing.views import default_view

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

ADAMW = "adamw"
Matrices = Literal["hidden", "all"]
# What a spec cannot set: the run's configuration does, or a text cannot write it.
NOT_IN_SPECS = {"self", "params", "settings", "lr", "weight_decay", "power_schedule", "process_group"}


class AdamW(torch.optim.AdamW):
    """torch's fused AdamW that leaves out a step whose gradients are not all finite, as htmuon's optimizers do.

    One flag over all gradients, computed on the device, masks the step without a wait of the host. This is the flag
    that torch's own gradient scaler hands to fused optimizers.

    Args:
        params: as for `torch.optim.AdamW`.
        lr: learning rate.
        weight_decay: decoupled weight decay.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        eps: added to the root of the second moment; that of the other parameters of every optimizer here.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        weight_decay: float,
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-10,
    ) -> None:
        super().__init__(params, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, fused=True)
        for group in self.param_groups:
            group["skipped_steps"] = torch.zeros((), dtype=torch.int64, device=group["params"][0].device)

    @property
    def skipped_steps(self) -> Tensor:
        """Steps left out so far, 0-d."""
        count: Tensor = self.param_groups[0]["skipped_steps"]
        return count

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step, or none if a gradient is not finite."""
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        # The largest magnitude is NaN or infinite where any entry is.
        finite = get_total_norm(gradients, norm_type=float("inf")).isfinite()
        self.found_inf = (~finite).float()
        for group in self.param_groups:
            group["skipped_steps"] += ~finite
        loss: float | None = super().step(closure)
        return loss


def parse_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """The name and the settings of "name:key=value,...".

    Values are numbers, `true`, `false`, `none`, or else strings; of a normalization, `none` is a name.

    Raises:
        ValueError: a part is not key=value, or a key comes twice.

    Example:
        >>> parse_spec("htmuon:power=0.25,nesterov=false,normalization=rms")
        ('htmuon', {'power': 0.25, 'nesterov': False, 'normalization': 'rms'})
        >>> parse_spec("htmuon:normalization=none,precision=none")
        ('htmuon', {'normalization': 'none', 'precision': None})
    """
    name, colon, text = spec.partition(":")
    settings: dict[str, Any] = {}
    for part in text.split(",") if colon else []:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise ValueError(f"an optimizer must be written as name:key=value,key=value; got {part!r} in {spec!r}.")
        if key in settings:
            raise ValueError(f"each setting of an optimizer must be given once; {key!r} comes twice in {spec!r}.")
        settings[key] = value if key == "normalization" else _value(value)
    return name.strip(), settings


def build_optimizer(
    spec: str,
    model: torch.nn.Module,
    *,
    lr: float,
    adamw_lr: float,
    weight_decay: float,
    matrices: Matrices = "hidden",
    steps: int | None = None,
    process_group: "ProcessGroup | None" = None,
) -> torch.optim.Optimizer:
    """The optimizer that a spec names, over `htmuon.param_groups(model)`.

    "adamw" is torch's AdamW on the same groups, with `lr` for all ("adamw:two_rates=true": `lr` for the hidden matrices
    and `adamw_lr` for the rest); the names in `htmuon.baselines.packaged` are
    optimizers of other packages, which say there what they get; every other name is one of `htmuon.OPTIMIZERS`, with
    `lr` for the hidden matrices and `adamw_lr` for the rest. All decay the same parameters by `weight_decay` (Lion by
    `decay_scale` times that). A power schedule is written with its settings:
    "htmuon:schedule=interval,power=0.125,every=5", and which parameters are matrices with "htmuon:matrices=all".

    Args:
        spec: see `parse_spec`.
        model: its parameters, where they will be trained.
        lr: learning rate of the hidden matrices.
        adamw_lr: learning rate of the other parameters.
        weight_decay: decoupled, times the learning rate.
        matrices: the spectral side gets these where the spec does not say; see `OptimizerConfig`.
        process_group: ranks with equal parameters and gradients; the optimizers of this library divide their work among
            them.
        steps: of the whole run, where it is known: what some optimizers of other packages plan by.

    Raises:
        ValueError: the name or a setting is unknown, or a value is not valid.
        ImportError: the package of the optimizer is not installed.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 9))
        >>> optimizer = build_optimizer("htmuon:power=0.25", model, lr=0.02, adamw_lr=0.003, weight_decay=0.1)
        >>> type(optimizer).__name__, [(group["use_muon"], group["lr"]) for group in optimizer.param_groups]
        ('HTMuon', [(True, 0.02), (False, 0.003), (False, 0.003)])
    """
    name, settings = parse_spec(spec)
    if name != ADAMW and name not in OPTIMIZERS and name not in BASELINES:
        raise unknown_name("optimizer", name, [ADAMW, *OPTIMIZERS, *BASELINES])
    known = settings_of(name)
    arguments: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
    if name in OPTIMIZERS:
        arguments |= {"adamw_lr": adamw_lr, "adamw_weight_decay": weight_decay}
        if "schedule" in settings:
            schedule = _take_schedule(settings, default_power=known["power"])
            arguments["power_schedule"] = schedule
    for key in settings:
        if key not in known:
            raise unknown_name(f"a setting of {name}", key, list(known))
    groups = _groups(model, settings.pop("matrices", matrices))
    try:
        if name in BASELINES:
            run = BaselineRun(groups=groups, lr=lr, adamw_lr=adamw_lr, weight_decay=weight_decay, steps=steps)
            return BASELINES[name](run, **settings)
        if name == ADAMW:
            if settings.pop("two_rates", False):
                groups = [group | {"lr": lr if group["use_muon"] else adamw_lr} for group in groups]
            return AdamW(groups, **arguments, **settings)
        return OPTIMIZERS[name](groups, **arguments, **settings, process_group=process_group)
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer {spec!r}: {error}") from error


def _groups(model: torch.nn.Module, matrices: Matrices) -> list[Group]:
    if matrices not in get_args(Matrices):
        raise unknown_name("matrices", matrices, list(get_args(Matrices)))
    if matrices == "hidden":
        return htmuon.param_groups(model)
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    # A parameter that routing knows as a matrix keeps the view in which it is one.
    views = {route.name: route.view for route in htmuon.route(model).routes}
    return htmuon.param_groups(
        model, spectral={escape(name): views[name] or default_view(p.ndim) for name, p in trainable if p.ndim >= 2}
    )


def settings_of(name: str) -> dict[str, Any]:
    """What a spec of this optimizer may set, with the defaults."""
    if name in BASELINES:
        parameters = inspect.signature(BASELINES[name]).parameters.values()
        own = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
        return own | ({"matrices": "hidden"} if name == "torch_muon" else {})
    kind = AdamW if name == ADAMW else OPTIMIZERS[name]
    found: dict[str, Any] = {}
    # A variant takes its parents' settings as **settings, so the constructors of all of them count.
    for parent in kind.__mro__[: kind.__mro__.index(torch.optim.Optimizer)]:
        if not parent.__module__.startswith("htmuon."):
            continue
        for key, parameter in inspect.signature(parent.__init__).parameters.items():  # type: ignore[misc]
            if key not in NOT_IN_SPECS and parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                found.setdefault(key, parameter.default)
    own = {key: default for key, default in found.items() if not key.startswith("adamw_") or key == "adamw_eps"}
    return own | ({"two_rates": False} if name == ADAMW else {"matrices": "hidden"})


def has_other_rate(spec: str) -> bool:
    """Whether an optimizer gives the hidden matrices and the other parameters learning rates of their own.

    Example:
        >>> [has_other_rate(spec) for spec in ("htmuon", "torch_muon", "adamw:two_rates=true", "adamw", "soap")]
        [True, True, True, False, False]
    """
    name, settings = parse_spec(spec)
    return name in (*OPTIMIZERS, "torch_muon") or (name == ADAMW and settings.get("two_rates") is True)


def _take_schedule(settings: dict[str, Any], default_power: float) -> dict[str, Any]:
    """Take a power schedule and its settings out of the settings of a spec."""
    name = settings.pop("schedule")
    fields = inspect.signature(POWER_SCHEDULES[name]).parameters
    values = {key: settings.pop(key) for key in fields if key in settings}
    if "power" in fields:
        values.setdefault("power", default_power)
    return {"name": name, **values}


def _value(text: str) -> bool | int | float | str | None:
    words: dict[str, bool | None] = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
