"""One optimizer step, read aloud.

    gradient -> update momentum (EMA, Nesterov)
             -> [ precondition -> spectral map -> normalize -> adapt -> update scale ]
             -> weight

The bracket works on whole matrices, stacked by shape; `layout.apply` wraps it, so nothing here knows how ranks share.
Known optimizers are choices of what stands in the slots:

| optimizer | precondition | spectral map | adapt | update scale |
|---|---|---|---|---|
| Muon | - | sigma^0 | - | max(1, out/in)^0.5 |
| HTMuon | - | sigma^p | - | max(1, out/in)^0.5 |
| NorMuon, HTNorMuon | - | sigma^0, sigma^p | row statistics | max(1, out/in)^0.5 |
| AdaMuon, HTAdaMuon | sign | sigma^0, sigma^p | element statistics | 0.2 max(out, in)^0.5 |

Nobody overrides `step`. Rules that hold for all of them: `p.grad` is never written; a parameter without a gradient is
left alone, decay included, and so is a matrix (one expert of a stack, too) whose gradient is zero; momentum below an
absolute floor counts as zero; a zero matrix maps to zero; narrow dtypes are decayed and updated in float32 and rounded
once. One gradient that is not finite masks the whole step, on the device: no parameter, state, counter or schedule
moves. What can raise comes before anything moves.
"""

import copy
import warnings
import zlib
from collections.abc import Callable
from functools import partial
from inspect import signature
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from htmuon._checks import host_may_look, plain
from htmuon._typing import Group
from htmuon.kernels import full_float32
from htmuon.layouts import Layouts, LoadBalancer, agree, check_alike
from htmuon.linalg.base import widest
from htmuon.optim.adamw import adamw_update
from htmuon.optim.buckets import has_gradient, matrix_buckets, other_buckets
from htmuon.optim.choices import check_one_power
from htmuon.optim.description import describe, describe_gradients, idle, shown
from htmuon.optim.edits import Seen
from htmuon.optim.later_groups import divided, with_or_without_names
from htmuon.optim.loading import loaded
from htmuon.optim.matrices import MatrixStack, run_staggered
from htmuon.optim.rules import Rules
from htmuon.optim.schedules import schedule_from_dict
from htmuon.optim.settings import (
    COUNTERS,
    check_parameters,
    check_settings,
    check_sides,
    check_step,
    counters_device,
    make_plain,
)
from htmuon.optim.signal import look, whole_flags
from htmuon.optim.slots import Adaptation, Identity, Precondition, Unadapted
from htmuon.optim.state import State, adamw_state, spectral_state
from htmuon.routing.views import batch_dims

if TYPE_CHECKING:
    from htmuon.layouts.base import ProcessGroup

# What is said where ranks differ.
UNLIKE = (
    "every rank must have the same parameters and settings, in the same order; {difference}. "
    "Build model and optimizer alike on every rank."
)
UNLIKE_GRADIENTS = (
    "every rank must have gradients for the same parameters; {difference}. "
    "Let each rank use every parameter, or set unused gradients to zero."
)


class SpectralOptimizer(Optimizer):
    """The step loop that every named optimizer of this library runs; see `HTMuon` for the arguments.

    Args:
        params: tensors, named tensors, or dict groups; a group with `use_muon=False` takes AdamW.
        defaults: every setting of a group, with its default.
        other_defaults: what replaces `lr`, `betas`, `eps` and `weight_decay` in groups with `use_muon=False`.
        process_group: ranks that hold the same parameters and divide the work on the matrices among them.
    """

    # Whether the adaptation gives the update the Frobenius norm sqrt(min(m, n)), whatever the normalization.
    sets_size: ClassVar[bool] = False

    def __init__(
        self,
        params: ParamsT,
        defaults: Group,
        other_defaults: Group,
        process_group: "ProcessGroup | None" = None,
    ) -> None:
        if isinstance(params, nn.Module):
            raise TypeError(
                f"params must be parameters or groups; got the model {type(params).__name__}. Pass "
                "htmuon.param_groups(model)."
            )
        check_one_power(defaults, usual=self._usual_power())
        make_plain(defaults, defaults)
        make_plain(other_defaults, other_defaults)
        check_sides(defaults, wait=True)
        check_sides(other_defaults, "adamw_", wait=True)
        self.other_defaults = other_defaults
        self.process_group = process_group
        self._layouts = Layouts(process_group)
        # Which parameters moved in the last step, of every rank; None where ranks must be compared first, for
        # parameters, settings or state are new.
        self._moved: bytes | None = None
        self._warned_idle = False
        self._seen: list[Seen] = []
        self._constructed = False
        super().__init__(params, defaults)
        self._constructed = True

    def __repr__(self) -> str:
        groups = [(f"Parameter Group {i}", shown(g, self.defaults)) for i, g in enumerate(self.param_groups)]
        lines = [line for title, settings in groups for line in (title, *(f"    {k}: {v}" for k, v in settings))]
        return "\n".join([f"{type(self).__name__} (", *lines, ")"])

    def precondition(self, group: Group) -> Precondition:
        """Slot: what happens to the momentum direction before the map."""
        return Identity()

    def adaptation(self, group: Group) -> Adaptation:
        """Slot: what happens to the update after the map."""
        return Unadapted()

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters; settings it does not name take the optimizer's defaults.

        A group that is added later, as trainers do in the middle of a training, may be of bare tensors: they get names
        if the others have, and where the group does not say `use_muon`, what cannot be a matrix goes to a group of its
        own, before the matrices, with `use_muon=False`, its learning rate in proportion and without weight decay.

        Raises:
            TypeError: a setting or parameter has the wrong type.
            ValueError: a setting is out of range, settings contradict each other, a parameter is already in another
                group, or a group of matrices holds a vector. The optimizer is left as it was.
        """
        groups = [param_group]
        if not isinstance(param_group, dict) or "params" not in param_group:
            what = sorted(param_group) if isinstance(param_group, dict) else type(param_group).__name__
            raise TypeError(f"a parameter group must be a dict with the key 'params'; got {what}.")
        if self._constructed and not isinstance(param_group["params"], set):  # which torch refuses
            groups = divided(param_group, self.defaults, self.other_defaults)
            groups = with_or_without_names(groups, self.param_groups)
        before = len(self.param_groups)
        try:
            for group in groups:
                self._add_group(group)
        except Exception:
            del self.param_groups[before:], self._seen[before:]
            raise
        self._moved = None

    def _add_group(self, param_group: Group) -> None:
        given = dict(param_group)
        check_one_power(given)
        make_plain(given, self.defaults)
        if given.get("use_muon", self.defaults["use_muon"]) is False:
            given = {**self.other_defaults, **given}
        given = {**self.defaults, **given}
        check_settings(given, sets_size=self.sets_size, wait=True)
        if isinstance(given["lr"], Tensor):
            given["lr"] = given["lr"].clone()  # a scheduler that changes it in place must find one for each group
        super().add_param_group(given)
        group = self.param_groups[-1]
        check_parameters(group)
        for counter in COUNTERS:
            group[counter] = torch.zeros((), dtype=torch.int64, device=counters_device(group))
        self._set_power(group)
        self._seen.append(Seen.of(group))

    @property
    def skipped_steps(self) -> Tensor:
        """How many steps were masked because a gradient was not finite: 0-d, on the device of the parameters."""
        return cast(Tensor, self.param_groups[0]["skipped_steps"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: evaluates the model again and returns the loss.

        Raises:
            TypeError: a setting was changed to something of the wrong type; nothing was changed.
            ValueError: a setting was changed to something invalid, a gradient is sparse, or a wrapper has flattened a
                matrix; nothing was changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_edits()
        check_step(self.param_groups)
        with full_float32():
            finite, signals = self._agreed()
            if finite is None:
                self._warn_idle()
                return loss
            ledger = LoadBalancer()
            work = [self._prepared(group, finite, signals, ledger) for group in self.param_groups]
            for update in work:
                update()
            for group in self.param_groups:
                here = finite.to(group["steps_taken"].device)
                group["steps_taken"].add_(here)
                group["skipped_steps"].add_(~here)
        return loss

    def _check_edits(self) -> None:
        """Check what users, schedulers and trainers have written into the groups since the last step, then take it."""
        if len(self._seen) != len(self.param_groups):  # a wrapper has put others in their place
            self._seen = [Seen.of(group) for group in self.param_groups]
        for group, seen in zip(self.param_groups, self._seen, strict=True):
            make_plain(group, self.defaults)
            check_settings(group, sets_size=self.sets_size)
            if seen.has_other_matrices(group):
                check_parameters(group)
        for group, seen in zip(self.param_groups, self._seen, strict=True):
            seen.follow(group)  # after all checks: what is refused must not become the momentum
        self._seen = [Seen.of(group) for group in self.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """State and settings as torch's optimizers give them, with what schedulers have written since the last step."""
        if len(self._seen) == len(self.param_groups):  # else a wrapper has put others in their place
            for group in self.param_groups:
                make_plain(group, self.defaults)
            self._seen = [seen.follow(group) for group, seen in zip(self.param_groups, self._seen, strict=True)]
        state: dict[str, Any] = super().state_dict()
        return state

    def _agreed(self) -> tuple[Tensor | None, dict[Tensor, Tensor]]:
        """Whether all gradients of all ranks are finite, a 0-d bool tensor, and which matrices have one (`Flags`).

        None in place of the first where nothing moves.
        """
        parameters = list(chain.from_iterable(group["params"] for group in self.param_groups))
        groups = self._layouts.groups(parameters)
        moving = bytes(map(has_gradient, parameters))
        if groups and self._moved is None:
            for parameter in parameters:
                self._layouts.of(parameter, 0)  # raises where it is held in a way that no parameter can be
            check_alike(describe(self.param_groups, self.defaults), groups, UNLIKE)
            check_alike(describe_gradients(self.param_groups), groups, UNLIKE_GRADIENTS)
            self._allocate()
            self._moved = moving
        for group in self.param_groups:
            self._set_power(group)
        finite, signals = look((g, self._rules(g).floor if g["use_muon"] else 0.0) for g in self.param_groups)
        if groups:
            device = counters_device(self.param_groups[0])
            flags, seen = whole_flags(self.param_groups, signals)
            flat = torch.cat([torch.zeros(0, dtype=torch.bool, device=device), *(s.flatten().to(device) for s in seen)])
            finite, same, flat = agree(finite.to(device), zlib.crc32(moving), flat, groups)
            # They moved the same a step ago; so where they differ now, one of them differs from itself. That one waits
            # for its device and looks, and no other needs to.
            if (moving != self._moved or host_may_look(same)) and not same:
                raise ValueError(UNLIKE_GRADIENTS.format(difference="in this step they differ"))
            self._moved = moving
            pieces = torch.split(flat, [s.numel() for s in seen])
            signals = {
                f.parameter: piece.view(f.shape).to(f.parameter.device) for f, piece in zip(flags, pieces, strict=True)
            }
        return (finite if any(moving) else None), signals

    def _warn_idle(self) -> None:
        """Warn, once, of a step without any gradient."""
        parameters = [p for group in self.param_groups for p in group["params"] if p.numel() > 0]
        if parameters and not self._warned_idle:
            self._warned_idle = True
            warnings.warn(idle(parameters), stacklevel=5)  # torch wraps `step` twice

    def _prepared(
        self, group: Group, finite: Tensor, signals: dict[Tensor, Tensor], ledger: LoadBalancer
    ) -> Callable[[], None]:
        """The step of one group, ready to be taken: everything in it that can raise has been done."""
        if not group["use_muon"]:
            buckets = [(bucket, [adamw_state(self.state[p], p) for p in bucket]) for bucket in other_buckets(group)]
            return partial(_adamw_updates, group, buckets, finite)
        rules = self._rules(group)
        stacks = []
        for layout, parameters in matrix_buckets(group, self._layouts, rules.stack_elements):
            shapes = rules.state_shapes(parameters[0])
            states = [self._state_of(group, p, shapes) for p in parameters]
            stacks.append(MatrixStack(group, layout, parameters, states, shapes, rules.bracket(layout, parameters[0])))
        return lambda: run_staggered(stack.update(finite, signals, ledger) for stack in stacks)

    def _set_power(self, group: Group) -> None:
        """The power of the coming step: a number on the CPU, on an accelerator a tensor that the host never reads."""
        if group["power_schedule"] is not None:
            step = group["steps_taken"]
            power = schedule_from_dict(group["power_schedule"])(step.to(widest(step.device)))
            group["power"] = power.item() if host_may_look(power) else power

    def _rules(self, group: Group) -> Rules:
        """What the settings of a group, and the slots, make of its matrices."""
        return Rules(group, self.precondition(group), self.adaptation(group))

    def _state_of(self, group: Group, parameter: Tensor, shapes: dict[str, tuple[int, ...]]) -> State:
        """This rank's part of the state of a matrix parameter."""
        return spectral_state(
            self.state[parameter], parameter, shapes, batch_dims(parameter.ndim, group["matrix_view"])
        )

    def state_shapes(self, group: Group, parameter: Tensor) -> dict[str, tuple[int, ...]]:
        """Name and shape of every state tensor of a parameter that has its shape or that of its matrices."""
        if not group["use_muon"]:
            return dict.fromkeys(("exp_avg", "exp_avg_sq"), tuple(parameter.shape))
        return self._rules(group).state_shapes(parameter)

    def _allocate(self) -> None:
        """The state of every trainable parameter, also of those that have no gradient yet.

        Ranks that save and load together need the same keys, however far each has come.
        """
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.requires_grad and p.numel() > 0):
                if group["use_muon"]:
                    self._state_of(group, p, self.state_shapes(group, p))
                else:
                    adamw_state(self.state[p], p)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned; tensors are copied, those of matrices in the dtype in which they were saved.

        Settings that an older or another optimizer's state_dict does not name stay as they are. Parameters are matched
        by name where both sides have names, with a warning if their order differs. The hooks of
        `register_load_state_dict_pre_hook` and `..._post_hook` are called as by torch.

        Raises:
            TypeError: a saved setting has the wrong type; nothing was changed.
            ValueError: a saved setting is invalid, or groups, names or states don't match; nothing was changed.
        """
        state_dict = state_dict.copy()
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = pre_hook(self, state_dict) or state_dict
        groups, state = loaded(state_dict, self)
        self.__setstate__({"state": state, "param_groups": groups})
        self._seen = [Seen.of(group) for group in groups]
        self._moved = None
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        # Ranks cannot be stored: what is loaded computes everything by itself.
        alone = {"process_group": None, "_layouts": Layouts(None), "_moved": None, "_warned_idle": False}
        own = {"other_defaults": self.other_defaults, "_seen": list(self._seen), "_constructed": True}
        return {**state, **own, **alone}

    def __deepcopy__(self, memo: dict[int, Any]) -> "SpectralOptimizer":
        """A copy with the same ranks."""
        other = type(self).__new__(type(self))
        other.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        other.process_group, other._layouts = self.process_group, Layouts(self.process_group)
        return other

    @classmethod
    def _usual_power(cls) -> object:
        """The default of `power` in the constructor of the class, or of the nearest one above that names it."""
        found = (signature(kind).parameters.get("power") for kind in cls.__mro__ if issubclass(kind, Optimizer))
        return next((parameter.default for parameter in found if parameter is not None), None)

    def _add_setting(self, name: str, value: float) -> None:
        """A setting that one variant alone has: in the defaults, and in every group that does not bring its own."""
        self.defaults[name] = value
        for group in self.param_groups:
            group[name] = plain(group.get(name, value))
            check_settings(group, sets_size=self.sets_size)


def _adamw_updates(group: Group, buckets: list[tuple[list[Tensor], list[State]]], finite: Tensor) -> None:
    for parameters, states in buckets:
        adamw_update(group, parameters, states, finite.to(parameters[0].device))
