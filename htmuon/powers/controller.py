"""Sets the powers of matrices while a model trains, now and then, by a rule that looks at spectra."""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import fmean
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from htmuon._checks import check_whole
from htmuon._typing import Group
from htmuon._warnings import warn
from htmuon.analysis.followed import inner_model, inner_optimizer
from htmuon.analysis.hidden import check_unsharded
from htmuon.analysis.spectra import eigenvalues
from htmuon.linalg.parts import PartDict
from htmuon.optim.buckets import has_gradient
from htmuon.optim.hindsight import POWER, POWER_RULES, POWERS
from htmuon.optim.named import part_of
from htmuon.powers.activations import Activations
from htmuon.powers.base import RULES, SpectralRule, Spectrum
from htmuon.routing.split import part_shapes, parts_of_matrix
from htmuon.routing.views import default_view, matrix_view
from htmuon.spectral.base import POWER_RANGE

# Steps between looks.
EVERY = 100


class PowerController:
    """Gives each matrix of an optimizer with `power_rule="held"` a power, by a rule that looks at spectra.

    Made once before the loop, it needs no line in it: it listens to the steps of the optimizer. After each step whose
    number is a multiple of `every` it looks at the spectra that the rule takes, of the weights, of the gradients of
    this step and of what went into the modules in its passes, and sets

        p <- averaging p + (1 - averaging) rule(spectra)

    which counts from the next step on. A look waits for the device; between looks there are no hooks on modules, no
    copies and no waiting. A parameter has one power: the mean over its matrices, where it fuses or stacks several.

    Nothing has to be saved: powers and the number of steps are in the state of the optimizer, and after
    `optimizer.load_state_dict` the looks fall on the steps on which they would have fallen.

    Args:
        model: its modules are listened to; one inside torch.compile or DistributedDataParallel by its own modules.
        optimizer: any of this library, or a wrapper of one; groups with another power rule are left alone.
        rule: a name of `htmuon.powers.RULES`, or an object, `htmuon.powers.Alpha(highest=0.5)`.
        every: look after each step that is a multiple of this.

    Raises:
        TypeError: the rule is none; `model` is no module and holds none, `optimizer` likewise.
        ValueError: there is no such rule; `every` is below 1; no group has a power rule that leaves powers to others,
            or one whose bounds are within those of the rule; a matrix is sharded.

    Example:
        >>> import htmuon
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Linear(32, 32), torch.nn.Linear(32, 16))
        >>> optimizer = htmuon.Muon(htmuon.param_groups(model), lr=0.02, power_rule="held")
        >>> controller = PowerController(model, optimizer, "nuclear_rank", every=2)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     model(torch.randn(64, 16)).square().mean().backward()
        ...     optimizer.step()
        >>> 0 < optimizer.state[model[1].weight]["power"].item() < 1
        True
        >>> controller.close()

    A matrix keeps its power in a step that was masked, where the rule finds none (a fit that failed), where it had no
    gradient to look at, and where nobody saw its activations. These are seen of modules that are called and hold the
    weight themselves, `nn.Linear`, transformers' `Conv1D` and `nn.Conv2d` without groups: not of weights that a
    function takes (attention of torch, stacked experts), of other convolutions, of recurrent layers, of weights that a
    parametrization makes, or inside of `torch.compile`, which calls no hooks that come after it. A look that sets no
    power at all warns, once.

    Not for sharded parameters, which are no whole matrices; with rules that look at activations not for several ranks,
    each of which sees its own. Not for `CapturedStep`, whose replays call no hooks. A look decomposes `[in, in]` in
    float64 for each matrix, which for tens of thousands of inputs takes long.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        rule: str | PartDict | SpectralRule = "alpha",
        *,
        every: int = EVERY,
    ) -> None:
        self.rule = rule_of(rule)
        check_whole("every", every, 1)
        self.every = every
        self._model = inner_model(model)
        self._optimizer = inner_optimizer(optimizer, list(self._model.parameters()), hooked=True)
        _check_groups(self._optimizer, self.rule)
        self._activations: Activations | None = None
        self._warned = False
        self._resources = ExitStack()
        # Not for torch.compile(optimizer.step), which would compile the look with the step.
        after = torch.compiler.disable(self._after_step)  # type: ignore[no-untyped-call]
        for handle in (
            self._optimizer.register_step_post_hook(lambda *_: after()),
            self._optimizer.register_load_state_dict_post_hook(lambda *_: self._count_anew()),
        ):
            self._resources.callback(handle.remove)
        self._resources.callback(self._stop_listening)
        self._count_anew()

    def close(self) -> None:
        """Leave the powers as they are from now on."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _count_anew(self) -> None:
        """Take the number of steps from the optimizer, which counts on its device."""
        group = self._optimizer.param_groups[0]
        self._steps = int(group["steps_taken"]) + int(group["skipped_steps"])
        self._listen_if_due()

    def _after_step(self) -> None:
        # As the optimizer, which counts no step without any gradient.
        if not any(has_gradient(p) for group in self._optimizer.param_groups for p in group["params"]):
            return
        self._steps += 1
        if self._steps % self.every == 0:
            self._look()
        self._listen_if_due()

    def _listen_if_due(self) -> None:
        self._stop_listening()
        if "activations" in self.rule.looks_at and (self._steps + 1) % self.every == 0:
            held = {p for group in held_groups(self._optimizer) for p in group["params"]}
            self._activations = Activations(self._model, held)

    def _stop_listening(self) -> dict[Tensor, Tensor]:
        """The Gram matrices that were heard."""
        heard, self._activations = self._activations, None
        return {} if heard is None else heard.taken()

    @torch.no_grad()
    def _look(self) -> None:
        """Set the powers."""
        grams, found = self._stop_listening(), False
        gradients = [p.grad for group in self._optimizer.param_groups for p in group["params"] if p.grad is not None]
        # The largest magnitude is NaN or infinite where any entry is: a step that is masked moves no power either.
        if not bool(get_total_norm(gradients, norm_type=math.inf).isfinite()):
            return
        for group in held_groups(self._optimizer):
            for parameter in group["params"]:
                state = self._optimizer.state.get(parameter, {})
                power = self._power_of(group, parameter, grams.get(parameter)) if POWER in state else math.nan
                if math.isfinite(power):
                    found = True
                    state[POWER].lerp_(torch.full_like(state[POWER], power), 1 - self.rule.averaging)
        if not found and not self._warned:
            self._warned = True
            warn(
                f"a look must find a power for some matrix; {type(self.rule).__name__} found none after step "
                f"{self._steps}, from {' and '.join(self.rule.looks_at)}: all keep the powers that they have. Modules "
                "inside torch.compile, and weights that a function takes, show no activations; matrices below 10 x 10 "
                "have no alpha."
            )

    def _power_of(self, group: Group, parameter: Tensor, gram: Tensor | None) -> float:
        """What the rule finds for a parameter, as a mean over its matrices; NaN where it finds nothing."""
        spectra = [_spectra(kind, group, parameter, gram) for kind in self.rule.looks_at]
        powers = [self.rule(*of_run) for of_run in zip(*spectra, strict=False)]
        found = [power for of_run in powers for power in of_run.flatten().tolist() if math.isfinite(power)]
        return fmean(found) if found else math.nan


def _spectra(kind: Spectrum, group: Group, parameter: Tensor, gram: Tensor | None) -> list[Tensor]:
    """What a rule takes, for each run of equal parts of a parameter; empty where there is nothing to see."""
    view = group["matrix_view"] or default_view(parameter.ndim)
    if kind == "activations":
        if gram is None or not bool(gram.isfinite().all()):
            return []
        squares: Tensor = torch.linalg.eigvalsh(gram.double()).clamp(min=0).flip(-1)
        return [squares] * len(part_shapes(tuple(parameter.shape), view, group["split"]))
    values = parameter if kind == "weights" else parameter.grad
    if values is None:
        return []
    return [eigenvalues(part) for part in parts_of_matrix(matrix_view(values.detach(), view), group["split"])]


def rule_of(choice: str | PartDict | SpectralRule) -> SpectralRule:
    """The rule that a name, a dict or an object stands for.

    Raises:
        TypeError: it is none of the three.
        ValueError: the rule does not exist, or has no such setting.

    Example:
        >>> rule_of({"name": "alpha", "highest": 0.5})
        Alpha(lowest=0.0, highest=0.5, averaging=0.0, heavy=2.0, light=4.0)
    """
    rule: Any = part_of(RULES, choice)
    if not isinstance(rule, SpectralRule):
        raise TypeError(
            f"rule must be a name, a dict or an object of a class of htmuon.powers; got {choice!r}. Pass 'alpha'."
        )
    return rule


def held_groups(optimizer: torch.optim.Optimizer) -> Iterator[Group]:
    """The groups of matrices whose power rule leaves powers to others."""
    for group in optimizer.param_groups:
        if group.get("use_muon") and group.get(POWERS.setting) is not None and not POWERS.looks_back(group):
            yield group


def _check_groups(optimizer: torch.optim.Optimizer, rule: SpectralRule) -> None:
    """Raise ValueError unless the rule may set powers in an optimizer."""
    groups = list(held_groups(optimizer))
    if not groups:
        found = {repr(group.get(POWERS.setting)) for group in optimizer.param_groups}
        raise ValueError(
            "optimizer must have a group with power_rule='held', whose powers are set from outside; got "
            f"{type(optimizer).__name__} with {', '.join(sorted(found))}. Make it by "
            "htmuon.Muon(htmuon.param_groups(model), power_rule='held')."
        )
    for group in groups:
        low, high = getattr(part_of(POWER_RULES, group[POWERS.setting]), "powers", POWER_RANGE)
        if not low <= rule.lowest <= rule.highest <= high:
            raise ValueError(
                f"the powers of a rule must be within those of the power_rule, {low} to {high}; got {rule!r}. Pass "
                f"power_rule=htmuon.optim.Held(lowest={rule.lowest}, highest={rule.highest})."
            )
        names = group.get("param_names") or [f"number {number}" for number in range(len(group["params"]))]
        for name, parameter in zip(names, group["params"], strict=True):
            check_unsharded(name, parameter)
