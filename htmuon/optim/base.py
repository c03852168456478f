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
left alone, decay included; a zero matrix maps to zero; narrow dtypes are decayed and updated in float32 and rounded
once. One gradient that is not finite masks the whole step, on the device: no parameter, state, counter or schedule
moves.
"""

import copy
import warnings
import zlib
from collections.abc import Callable, Generator
from itertools import chain, compress
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from htmuon.kernels import full_float32
from htmuon.layouts import (
    Layout,
    Layouts,
    Ledger,
    Stack,
    agree,
    check_alike,
    part,
    part_like,
    several_processes,
)
from htmuon.linalg.base import host_may_look, widest, working
from htmuon.optim.adamw import adamw_update
from htmuon.optim.buckets import cost, matrix_buckets, moves, other_buckets
from htmuon.optim.description import describe, describe_gradients
from htmuon.optim.rules import Rules
from htmuon.optim.schedules import schedule_from_dict
from htmuon.optim.settings import Group, check_gradients, check_parameters, check_settings, completed
from htmuon.optim.slots import Adaptation, Identity, Precondition, Unadapted
from htmuon.optim.staggered import run_staggered
from htmuon.optim.state import adamw_state, check_state, copied, spectral_state
from htmuon.optim.views import batch_dims

if TYPE_CHECKING:
    from htmuon.layouts.base import ProcessGroup

COUNTERS = ("step", "skipped_steps")
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
        other_defaults: what replaces `lr` and `weight_decay` in groups with `use_muon=False`.
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
        self.other_defaults = other_defaults
        self.process_group = process_group
        self._layouts = Layouts(process_group)
        # Which parameters moved in the last step, of every rank; None where ranks must be compared first, for
        # parameters, settings or state are new.
        self._moved: bytes | None = None
        self._told_idle = False
        super().__init__(params, defaults)

    def precondition(self, group: Group) -> Precondition:
        """Slot: what happens to the momentum direction before the map."""
        return Identity()

    def adaptation(self, group: Group) -> Adaptation:
        """Slot: what happens to the update after the map."""
        return Unadapted()

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters; settings it does not name take the optimizer's defaults.

        Raises:
            TypeError: a setting or parameter has the wrong type.
            ValueError: a setting is out of range, settings contradict each other, a parameter is already in another
                group, or a group of matrices holds a vector. The optimizer is left as it was.
        """
        given = dict(param_group)
        if given.get("use_muon", self.defaults["use_muon"]) is False:
            given = {**self.other_defaults, **given}
        given = completed(given, self.defaults)
        check_settings(given, sets_size=self.sets_size)
        lr = given.get("lr", self.defaults["lr"])
        if isinstance(lr, Tensor):
            given["lr"] = lr.clone()  # a scheduler that changes it in place must find one for each group
        super().add_param_group(given)
        group = self.param_groups[-1]
        try:
            check_parameters(group)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        for counter in COUNTERS:
            group[counter] = torch.zeros((), dtype=torch.int64, device=_device(group))
        self._set_power(group)
        self._moved = None

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
            ValueError: a setting was changed to something invalid, or a gradient is sparse; nothing was changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        parameters = list(chain.from_iterable(group["params"] for group in self.param_groups))
        check_gradients(parameters)
        for group in self.param_groups:
            check_settings(group, sets_size=self.sets_size)
        finite = self._agreed(parameters)
        if finite is None:
            self._tell_idle(parameters)
            return loss
        ledger = Ledger()
        with full_float32():
            for group in self.param_groups:
                self._group_step(group, finite, ledger)
        return loss

    def _agreed(self, parameters: list[Tensor]) -> Tensor | None:
        """Whether all gradients of all ranks are finite, a 0-d bool tensor; None where nothing moves."""
        groups = self._layouts.groups(parameters)
        moving = bytes(map(moves, parameters))
        if groups and self._moved is None:
            for parameter in parameters:
                self._layouts.of(parameter, 0)  # raises where it is held in a way that no parameter can be
            check_alike(describe(self.param_groups), groups, UNLIKE)
            check_alike(describe_gradients(self.param_groups), groups, UNLIKE_GRADIENTS)
            self._allocate()
            self._moved = moving
        finite = _all_finite(list(compress(parameters, moving)))
        if groups:
            finite, same = agree(finite.to(_device(self.param_groups[0])), zlib.crc32(moving), groups)
            # They moved the same a step ago; so where they differ now, one of them differs from itself. That one waits
            # for its device and looks, and no other needs to.
            if (moving != self._moved or host_may_look(same)) and not same:
                raise ValueError(UNLIKE_GRADIENTS.format(difference="in this step they differ"))
            self._moved = moving
        return finite if any(moving) else None

    def _tell_idle(self, parameters: list[Tensor]) -> None:
        """Warn, once, of a step without any gradient where several processes train."""
        trainable = any(p.requires_grad and p.numel() > 0 for p in parameters)
        if trainable and not self._told_idle and several_processes():
            self._told_idle = True
            warnings.warn(
                "step() changed nothing: no parameter of the optimizer has a gradient. Make the optimizer after "
                "fully_shard or parallelize_module, which put new parameters in place of the old ones; and where "
                "set_requires_gradient_sync(False) held gradients back, step after a backward pass that sends them.",
                stacklevel=5,  # torch wraps `step` twice
            )

    def _group_step(self, group: Group, finite: Tensor, ledger: Ledger) -> None:
        """Power, parameters and counters of one group."""
        self._set_power(group)
        if group["use_muon"]:
            stacks = matrix_buckets(group, self._layouts)
            run_staggered(self._spectral_update(group, *stack, finite, ledger) for stack in stacks)
        else:
            for bucket in other_buckets(group):
                states = [adamw_state(self.state[p], p) for p in bucket]
                adamw_update(group, bucket, states, finite.to(bucket[0].device))
        here = finite.to(group["step"].device)
        group["step"].add_(here)
        group["skipped_steps"].add_(~here)

    def _set_power(self, group: Group) -> None:
        """The power of the coming step: a number on the CPU, on an accelerator a tensor that the host never reads."""
        if group["power_schedule"] is not None:
            step = group["step"]
            power = schedule_from_dict(group["power_schedule"])(step.to(widest(step.device)))
            group["power"] = power.item() if host_may_look(power) else power

    def _spectral_update(
        self, group: Group, layout: Layout, parameters: list[Tensor], finite: Tensor, ledger: Ledger
    ) -> Generator[None, None, None]:
        """Momentum, bracket and weights of equally shaped parameters, as one stack; waits where the layout does."""
        dtype = working(parameters[0].dtype)
        finite = finite.to(parameters[0].device)
        shapes = self._state_shapes(group, parameters[0])
        states = [self._state_of(group, p, shapes) for p in parameters]
        stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}

        gradient = torch.stack([part_like(cast(Tensor, p.grad), p) for p in parameters]).to(dtype)
        buffer = stacked.pop("momentum_buffer").to(dtype)
        gradient = torch.where(finite, gradient, buffer)
        momentum = buffer.lerp(gradient, 1 - group["momentum"])
        direction = gradient.lerp_(momentum, group["momentum"]) if group["nesterov"] else momentum

        stack = Stack(
            bracket=self._rules(group).bracket(layout, parameters[0]),
            direction=direction,
            state=stacked,
            shape=tuple(parameters[0].shape),
            state_shapes=shapes,
            cost=cost(group, parameters[0]),
        )
        update, adapted = yield from layout.apply(stack, ledger)

        rate = finite.to(dtype) * group["lr"]  # a masked step is a step of length zero
        weights = [part(p) for p in parameters]
        weight = torch.stack(weights).to(dtype)
        weight.mul_(1 - rate * group["weight_decay"]).sub_(update.mul_(rate))

        torch._foreach_copy_(weights, list(weight.unbind()))
        torch._foreach_copy_([state["momentum_buffer"] for state in states], list(momentum.unbind()))
        for name, old in stacked.items():
            new = torch.where(finite, adapted[name], old)
            torch._foreach_copy_([state[name] for state in states], list(new.unbind()))

    def _rules(self, group: Group) -> Rules:
        """What the settings of a group, and the slots, make of its matrices."""
        return Rules(group, self.precondition(group), self.adaptation(group))

    def _state_of(self, group: Group, parameter: Tensor, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """This rank's part of the state of a matrix parameter."""
        return spectral_state(
            self.state[parameter], parameter, shapes, batch_dims(parameter.ndim, group["matrix_view"])
        )

    def _state_shapes(self, group: Group, parameter: Tensor) -> dict[str, tuple[int, ...]]:
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
                    self._state_of(group, p, self._state_shapes(group, p))
                else:
                    adamw_state(self.state[p], p)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned; every tensor keeps the dtype in which it was saved and is copied.

        torch casts floating-point state to the dtype of the parameter, which would round float32 statistics of bfloat16
        parameters; so the saved tensors are put back as they were. Settings that an older or another optimizer's
        state_dict does not name stay as they are; those of a method don't follow into another method.

        Raises:
            TypeError: a saved setting has the wrong type; nothing was changed.
            ValueError: a saved setting is invalid, or the groups don't match; nothing was changed.
        """
        saved_groups = state_dict["param_groups"]
        if len(saved_groups) == len(self.param_groups):  # else torch says what is wrong
            ours = ({name: value for name, value in group.items() if name != "params"} for group in self.param_groups)
            saved_groups = [completed(saved, mine) for mine, saved in zip(ours, saved_groups, strict=True)]
            for group in saved_groups:
                check_settings(group, sets_size=self.sets_size)
            for group, saved in zip(self.param_groups, saved_groups, strict=True):
                for parameter, index in zip(group["params"], saved["params"], strict=False):  # torch says so too
                    shapes = self._state_shapes(saved, parameter)
                    check_state(state_dict["state"].get(index, {}), parameter, shapes, f"parameter {index}")
        super().load_state_dict({**state_dict, "param_groups": saved_groups})
        parameters = chain.from_iterable(group["params"] for group in self.param_groups)
        indices = chain.from_iterable(group["params"] for group in saved_groups)
        for parameter, index in zip(parameters, indices, strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                if isinstance(value, Tensor):
                    self.state[parameter][name] = copied(value, parameter)
        for group in self.param_groups:
            for counter in COUNTERS:
                group[counter] = group[counter].to(_device(group))
        self._moved = None

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        # Ranks cannot be stored: what is loaded computes everything by itself.
        own = {"process_group": None, "_layouts": Layouts(None), "_moved": None, "_told_idle": False}
        return {**state, "other_defaults": self.other_defaults, **own}

    def __deepcopy__(self, memo: dict[int, Any]) -> "SpectralOptimizer":
        """A copy with the same ranks."""
        other = type(self).__new__(type(self))
        other.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        other.process_group, other._layouts = self.process_group, Layouts(self.process_group)
        return other

    def _add_setting(self, name: str, value: float) -> None:
        """A setting that one variant alone has: in the defaults, and in every group that does not bring its own."""
        self.defaults[name] = value
        for group in self.param_groups:
            group.setdefault(name, value)


def _all_finite(parameters: list[Tensor]) -> Tensor:
    """One flag, 0-d bool, for all that this rank holds of the gradients of some parameters."""
    gradients = [g for g in (part_like(cast(Tensor, p.grad), p) for p in parameters) if g.numel() > 0]
    if not gradients:
        return torch.ones((), dtype=torch.bool)
    # The largest magnitude is NaN or infinite where any entry is.
    return get_total_norm(gradients, norm_type=float("inf")).isfinite()


def _device(group: Group) -> torch.device:
    """Where the counters of a group live."""
    return group["params"][0].device if group["params"] else torch.device("cpu")
