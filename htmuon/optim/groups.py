"""The parameter groups of an optimizer: what is checked when settings come in, by whomever, and how they are saved.

Settings reach a group by the constructor, by `add_param_group`, by a checkpoint, and by whoever writes into
`param_groups` between two steps: schedulers, trainers, users. All of them are checked before anything is stored.
"""

import copy
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from htmuon._checks import host_may_look, plain
from htmuon._typing import Group
from htmuon._warnings import warn
from htmuon.layouts import Layouts
from htmuon.linalg.base import widest
from htmuon.optim.choices import check_one_power
from htmuon.optim.description import shown
from htmuon.optim.edits import Seen
from htmuon.optim.foreign import check_own
from htmuon.optim.later_groups import divided, with_or_without_names
from htmuon.optim.loading import loaded
from htmuon.optim.schedules import schedule_from_dict
from htmuon.optim.settings import (
    COUNTERS,
    check_parameters,
    check_settings,
    check_sides,
    counters_device,
    make_plain,
)
from htmuon.optim.without_effect import warn_of_no_effect

if TYPE_CHECKING:
    from htmuon.layouts.base import ProcessGroup


class GroupedOptimizer(Optimizer):
    """An optimizer whose groups are matrices or take AdamW, with every setting in every group; it has no step yet.

    Args:
        params: tensors, named tensors, or dict groups; a group with `use_muon=False` takes AdamW.
        defaults: every setting of a group, with its default.
        other_defaults: what replaces `lr`, `betas`, `eps` and `weight_decay` in groups with `use_muon=False`.
        process_group: ranks that hold the same parameters and divide the work on the matrices among them.
    """

    # Whether the adaptation gives the update the Frobenius norm sqrt(min(m, n)), whatever the normalization.
    sets_size: ClassVar[bool] = False
    # The settings that a variant has beside those of all, each with what raises for a bad value.
    own_settings: ClassVar[Mapping[str, Callable[[object], None]]] = {}

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
        # For groups that name a map of their own: the power of an object is that of the object alone.
        self._power_of_names = defaults["power"]
        check_one_power(defaults, usual=self._usual_settings()["power"])
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
        warn_of_no_effect(self.param_groups, self._usual_settings())

    def __repr__(self) -> str:
        groups = [(f"Parameter Group {i}", shown(g, self.defaults)) for i, g in enumerate(self.param_groups)]
        lines = [line for title, settings in groups for line in (title, *(f"    {k}: {v}" for k, v in settings))]
        return "\n".join([f"{type(self).__name__} (", *lines, ")"])

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
        if self._constructed:
            warn_of_no_effect(self.param_groups[before:], self._usual_settings())

    def _add_group(self, param_group: Group) -> None:
        given = dict(param_group)
        check_one_power(given)
        make_plain(given, self._setting_names)
        _warn_of_near_misses(given, self._setting_names)
        if "spectral_map" in given:
            given.setdefault("power", self._power_of_names)
        if given.get("use_muon", self.defaults["use_muon"]) is False:
            given = {**self.other_defaults, **given}
        usual = {name: plain(value) if isinstance(value, dict) else value for name, value in self.defaults.items()}
        given = {**usual, **given}  # dicts are copied: no two groups share one
        # By another name than the `lr_scale` of timm, whose schedulers multiply by it at every step.
        given["lr"] = given["lr"] * given.pop("rate_factor", 1.0)
        if "power" in param_group and "power_schedule" not in param_group:
            given["power_schedule"] = None  # a group's own power is not that of all
        self._check(given, wait=True)
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
    def _setting_names(self) -> set[str]:
        return {*self.defaults, *self.own_settings}

    def _check(self, group: Group, *, wait: bool = False) -> None:
        """Raise TypeError or ValueError, with a remedy, unless every setting of a group is valid."""
        check_settings(group, sets_size=self.sets_size, wait=wait)
        for name in self.own_settings.keys() & group:
            self.own_settings[name](group[name])

    def check_group(self, group: Group) -> None:
        """Write the settings of a group in Python's own types and check them, also what an accelerator holds."""
        make_plain(group, self._setting_names)
        self._check(group, wait=True)

    def _add_setting(self, name: str, value: float) -> None:
        """A setting that one variant alone has: in the defaults, and in every group that does not bring its own."""
        self.defaults[name] = value
        for group in self.param_groups:
            group[name] = plain(group.get(name, value))
            self._check(group)

    def _check_edits(self) -> None:
        """Check what users, schedulers and trainers have written into the groups since the last step, then take it."""
        if len(self._seen) != len(self.param_groups):  # a wrapper has put others in their place
            self._seen = [Seen.of(group) for group in self.param_groups]
        for group, seen in zip(self.param_groups, self._seen, strict=True):
            make_plain(group, self._setting_names)
            self._check(group)
            if seen.has_other_matrices(group):
                check_parameters(group)
        for group, seen in zip(self.param_groups, self._seen, strict=True):
            seen.follow(group)  # after all checks: what is refused must not become the momentum
            seen.warn_of_power(group)
        self._seen = [Seen.of(group) for group in self.param_groups]

    def _set_power(self, group: Group) -> None:
        """The power of the coming step: a number on the CPU, on an accelerator a tensor that the host never reads."""
        if group["power_schedule"] is not None:
            step = group["steps_taken"]
            power = schedule_from_dict(group["power_schedule"])(step.to(widest(step.device)))
            group["power"] = power.item() if host_may_look(power) else power

    def state_dict(self) -> dict[str, Any]:
        """State and settings as torch's optimizers give them, with what schedulers have written since the last step."""
        if len(self._seen) == len(self.param_groups):  # else a wrapper has put others in their place
            for group in self.param_groups:
                make_plain(group, self._setting_names)
            self._seen = [seen.follow(group) for group, seen in zip(self.param_groups, self._seen, strict=True)]
        state: dict[str, Any] = super().state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned; tensors are copied, those of matrices in the dtype in which they were saved.

        Settings come with the state, with a warning if that changes a rule, the map, its power or size, or
        `weight_update`; those that the state_dict does not name stay as they are. Parameters are matched by name where
        both sides have names, with a warning if their order differs. The hooks of
        `register_load_state_dict_pre_hook` and `..._post_hook` are called as by torch.

        Raises:
            TypeError: a saved setting has the wrong type; nothing was changed.
            ValueError: a saved setting is invalid, groups, names or states don't match, or it is of an optimizer that
                names its settings otherwise, which `htmuon.optim.load_from` loads; nothing was changed.
        """
        state_dict = state_dict.copy()
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = pre_hook(self, state_dict) or state_dict
        check_own(state_dict)
        groups, state = loaded(state_dict, self)
        self.__setstate__({"state": state, "param_groups": groups})
        self._seen = [Seen.of(group) for group in groups]
        self._moved = None
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def state_shapes(self, group: Group, parameter: Tensor) -> dict[str, tuple[int, ...]]:
        """Name and shape of every state tensor of a parameter that has its shape or that of its matrices."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        # Ranks cannot be stored: what is loaded computes everything by itself.
        alone = {"process_group": None, "_layouts": Layouts(None), "_moved": None, "_warned_idle": False}
        own = {
            "other_defaults": self.other_defaults,
            "_power_of_names": self._power_of_names,
            "_seen": list(self._seen),
            "_constructed": True,
        }
        return {**state, **own, **alone}

    def __deepcopy__(self, memo: dict[int, Any]) -> "GroupedOptimizer":
        """A copy with the same ranks."""
        other = type(self).__new__(type(self))
        other.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        other.process_group, other._layouts = self.process_group, Layouts(self.process_group)
        return other

    @classmethod
    def _usual_settings(cls) -> dict[str, object]:
        """The defaults in the constructor of the class, or of the nearest one above that names a setting."""
        kinds = [kind for kind in reversed(cls.__mro__) if issubclass(kind, Optimizer)]
        return {name: p.default for kind in kinds for name, p in signature(kind).parameters.items()}


def _warn_of_near_misses(group: Group, known: set[str]) -> None:
    """Warn of keys that look like a setting but are none; wrappers and schedulers put in others of their own."""
    for key in (key for key in group if key not in known):
        in_a_group = key.removeprefix("adamw_")
        near = [in_a_group] if key != in_a_group and in_a_group in known else get_close_matches(key, known, 1, 0.8)
        if near and near[0] not in key.removeprefix(f"adamw_{near[0]}"):
            warn(f"a parameter group has the key {key!r}, which has no effect. Did you mean {near[0]!r}?")
