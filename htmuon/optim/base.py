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

import zlib
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor

from htmuon._checks import host_may_look
from htmuon._typing import Group
from htmuon._warnings import warn
from htmuon.kernels import full_float32
from htmuon.layouts import LoadBalancer, agree, check_alike, part_like
from htmuon.optim.adamw import adamw_update
from htmuon.optim.buckets import has_gradient, matrix_buckets, other_buckets
from htmuon.optim.description import describe, describe_gradients, idle
from htmuon.optim.groups import GroupedOptimizer
from htmuon.optim.hindsight import POWERS, Candidate, advance, looks_back
from htmuon.optim.matrices import MatrixStack, run_staggered
from htmuon.optim.rate_rules import check_one_rule
from htmuon.optim.rules import Rules
from htmuon.optim.settings import check_step, counters_device
from htmuon.optim.signal import look, whole_flags
from htmuon.optim.slots import Adaptation, Identity, Precondition, Unadapted
from htmuon.optim.state import State, adamw_state, spectral_state
from htmuon.routing.views import batch_dims

# What is said where ranks differ.
UNLIKE = (
    "every rank must have the same parameters and settings, in the same order; {difference}. "
    "Build model and optimizer alike on every rank."
)
UNLIKE_GRADIENTS = (
    "every rank must have gradients for the same parameters; {difference}. "
    "Let each rank use every parameter, or set unused gradients to zero."
)


class SpectralOptimizer(GroupedOptimizer):
    """The step loop that every named optimizer of this library runs; see `HTMuon` for the arguments.

    Args:
        params: tensors, named tensors, or dict groups; a group with `use_muon=False` takes AdamW.
        defaults: every setting of a group, with its default.
        other_defaults: what replaces `lr`, `betas`, `eps` and `weight_decay` in groups with `use_muon=False`.
        process_group: ranks that hold the same parameters and divide the work on the matrices among them.
    """

    def precondition(self, group: Group) -> Precondition:
        """Slot: what happens to the momentum direction before the map."""
        return Identity()

    def adaptation(self, group: Group) -> Adaptation:
        """Slot: what happens to the update after the map."""
        return Unadapted()

    def _check(self, group: Group, *, wait: bool = False) -> None:
        super()._check(group, wait=wait)
        slots = ("precondition", "adaptation")
        changed = any(getattr(type(self), slot) is not getattr(SpectralOptimizer, slot) for slot in slots)
        if group["use_muon"] and changed and POWERS.looks_back(group):
            raise ValueError(
                "power_rule needs an update that is the mapped momentum as it is, which it compares with the momentum; "
                f"got {group['power_rule']!r} in {type(self).__name__}, which changes it. Use Muon or HTMuon."
            )

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
        check_one_rule(self.param_groups)
        with full_float32():
            finite, signals = self._agreed()
            if finite is None:
                self._warn_idle()
                return loss
            ledger = LoadBalancer()
            work = [self._prepared(group, finite, signals, ledger) for group in self.param_groups]
            self._look_back(finite, signals)
            for update in work:
                update()
            for group in self.param_groups:
                here = finite.to(group["steps_taken"].device)
                group["steps_taken"].add_(here)
                group["skipped_steps"].add_(~here)
        return loss

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

    def _look_back(self, finite: Tensor, signals: dict[Tensor, Tensor]) -> None:
        """Let the rules look at matrices with a gradient; before the first update that is zero, and moves nothing."""
        ruled = [
            (p, group)
            for group in self.param_groups
            if group["use_muon"] and looks_back(group)
            for p in group["params"]
            if has_gradient(p)
        ]
        if ruled:
            gradients = (part_like(cast(Tensor, p.grad), p) for p, _ in ruled)
            candidates = [
                Candidate(group, gradient, self.state[p], signals[p])
                for (p, group), gradient in zip(ruled, gradients, strict=True)
            ]
            advance(candidates, finite, self._layouts.groups([p for p, _ in ruled]))

    def _warn_idle(self) -> None:
        """Warn, once, of a step without any gradient."""
        parameters = [p for group in self.param_groups for p in group["params"] if p.numel() > 0]
        if parameters and not self._warned_idle:
            self._warned_idle = True
            warn(idle(parameters))

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

    def _rules(self, group: Group) -> Rules:
        """What the settings of a group, and the slots, make of its matrices."""
        return Rules(group, self.precondition(group), self.adaptation(group))

    def _state_of(self, group: Group, parameter: Tensor, shapes: dict[str, tuple[int, ...]]) -> State:
        """This rank's part of the state of a matrix parameter."""
        dims = batch_dims(parameter.ndim, group["matrix_view"])
        return spectral_state(self.state[parameter], parameter, shapes, dims, group)

    def state_shapes(self, group: Group, parameter: Tensor) -> dict[str, tuple[int, ...]]:
        """Those of AdamW, or what the slots and the method declare."""
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


def _adamw_updates(group: Group, buckets: list[tuple[list[Tensor], list[State]]], finite: Tensor) -> None:
    for parameters, states in buckets:
        adamw_update(group, parameters, states, finite.to(parameters[0].device))
