"""The state of another Muon, taken over in the middle of a training: its buffers and settings, converted to ours.

Two things differ between packages: what the momentum is, an average of gradients or their sum, which is larger by
`1 / (1 - beta)`, and where things are kept. A row says both; a new one is one more entry of `STATES`.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from htmuon._registry import unknown_name
from htmuon._typing import Group
from htmuon.optim.translation import PEERS, like

if TYPE_CHECKING:
    from htmuon.optim.groups import GroupedOptimizer

OTHERS = ("lr", "betas", "eps", "weight_decay")


def _named_as_ours(group: Group) -> Group:
    return {name: group[name] for name in OTHERS if name in group}


def _of_timm(group: Group) -> Group:
    if group["nesterov"]:
        raise ValueError(
            "parameters beside the matrices take NAdamW in timm where nesterov=True, which has no match here. Set "
            "nesterov to False in the groups of the state_dict to continue them with AdamW, or remove their state."
        )
    return {**_named_as_ours(group), "lr": group["lr"] * group.get("fallback_lr_scale", 1.0)}


def _of_dion(group: Group) -> Group:
    betas = group["beta1"], group["beta2"]
    return {"lr": group["lr"], "betas": betas, "eps": group["epsilon"], "weight_decay": group["weight_decay"]}


class ForeignState(NamedTuple):
    """Where another optimizer keeps what.

    Attributes:
        momentum: the key of the momentum of a matrix.
        summed: whether that is a sum of gradients, `beta M + G`.
        statistics: the key of the second moments of a variant.
        adamw: the keys of the first and the second moments of the other parameters.
        kind: the value in a group, or in a state, that tells matrices from other parameters: a key, and what it has for
            matrices and for others. None where all are matrices.
        others: the settings of other parameters, from a group.
    """

    momentum: str = "momentum_buffer"
    summed: bool = False
    statistics: str | None = None
    adamw: tuple[str, str] = ("exp_avg", "exp_avg_sq")
    kind: tuple[str, object, object] | None = ("use_muon", True, False)
    others: Callable[[Group], Group] = _named_as_ours


STATES: dict[str, ForeignState] = {
    "torch": ForeignState(kind=None),
    "keller": ForeignState(),
    "pytorch_optimizer": ForeignState(),
    "pytorch_optimizer.NorMuon": ForeignState(statistics="second_momentum_buffer"),
    "pytorch_optimizer.AdaMuon": ForeignState(momentum="m", statistics="v"),
    "timm": ForeignState(statistics="exp_avg_sq", others=_of_timm),
    "dion": ForeignState(
        momentum="momentum",
        summed=True,
        adamw=("momentum", "variance"),
        kind=("algorithm", "muon", "adamw"),
        others=_of_dion,
    ),
    "gram-newton-schulz": ForeignState(momentum="momentum", summed=True, kind=None),
}
# Keys of groups by which a state_dict is known that must not be loaded as one of ours.
MARKS = {"use_adjusted_lr": "pytorch_optimizer", "fallback_lr_scale": "timm", "algorithm": "dion"}


def check_own(state_dict: dict[str, Any]) -> None:
    """Raise ValueError for the state_dict of another optimizer, whose settings have other names than ours."""
    for mark, name in MARKS.items():
        if any(mark in group for group in state_dict["param_groups"]):
            raise ValueError(
                f"the state_dict must be of this library or name its settings as this does; its groups have {mark!r}, "
                f"as {name} has, and would be read in part. Call htmuon.optim.load_from(optimizer, {name!r}, "
                "state_dict)."
            )


def load_from(
    optimizer: "GroupedOptimizer",
    name: str,
    state_dict: dict[str, Any],
    params: Sequence[Tensor] | None = None,
    **arguments: Any,
) -> None:
    """Continue a training that another Muon began: its state_dict, loaded into one of our optimizers.

    Momentum becomes an average of gradients, moments of AdamW and steps come along, and every group takes the settings
    that `htmuon.like(name, ...)` makes of those saved: with p = 0 the next step is the one that the other would have
    taken. Where a group has another power, its method and its normalization stay as they are.

    Args:
        optimizer: made from the same parameters; its groups may divide them otherwise. Is changed.
        name: of the other optimizer, as for `htmuon.like`.
        state_dict: what its `state_dict()` returned, or the file has.
        params: the parameters in the order in which the other held them, `[p for group in other.param_groups for p in
            group["params"]]`; None is the order of `optimizer`, or names where both sides have them. Keller Jordan's
            `MuonWithAuxAdam` sorts its matrices by size.
        arguments: those of the other that its groups don't hold, such as `ns_coefficients` of gram-newton-schulz.

    Raises:
        TypeError: a saved setting has the wrong type; nothing was changed.
        ValueError: the state of such an optimizer is not known, it takes steps that have no match here, a parameter is
            a matrix on one side alone, or numbers, shapes or settings don't fit; nothing was changed.

    Example:
        >>> import torch, htmuon
        >>> weight = torch.nn.Parameter(torch.eye(4))
        >>> theirs = torch.optim.Muon([weight], lr=0.01, weight_decay=0.0)
        >>> weight.sum().backward(); theirs.step()
        >>> ours = htmuon.Muon([weight])
        >>> htmuon.optim.load_from(ours, "torch", theirs.state_dict())
        >>> [ours.param_groups[0][key] for key in ("lr", "weight_decay", "method")]
        [0.01, 0.0, 'newton_schulz']
    """
    if name not in STATES:
        PEERS[name]  # raises where there is no such peer
        raise unknown_name("a peer whose state is known", name, list(STATES))
    reader = _Reader(name, STATES[name], arguments)
    saved = _saved(optimizer, state_dict, params)
    own = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}
    groups = []
    for group, packed in zip(optimizer.param_groups, own["param_groups"], strict=True):
        settings: list[Group] = []
        for position, (parameter, index) in enumerate(zip(group["params"], packed["params"], strict=True)):
            who = f"parameter {(group.get('param_names') or packed['params'])[position]!r}"
            theirs, kept = saved[parameter]
            reader.check_kind(theirs, kept, group["use_muon"], who)
            found = reader.settings(theirs, group)
            if found not in settings:
                settings.append(found)
            shapes = optimizer.state_shapes({**group, **found}, parameter)
            if kept:
                state[index] = reader.state(theirs, kept, parameter, shapes, group["use_muon"])
        if len(settings) > 1:
            differ = sorted(key for key in settings[0] if any(s.get(key) != settings[0][key] for s in settings))
            raise ValueError(
                f"the parameters of a group must have had the same settings in the other optimizer; {differ} differ. "
                "Divide the groups of this optimizer as they were divided there."
            )
        groups.append({**packed, **(settings[0] if settings else {})})
    optimizer.load_state_dict({**own, "state": state, "param_groups": groups})


def _saved(
    optimizer: "GroupedOptimizer", state_dict: dict[str, Any], params: Sequence[Tensor] | None
) -> dict[Tensor, tuple[Group, dict[str, Any]]]:
    """The saved group and state of each parameter."""
    states: dict[Any, dict[str, Any]] = state_dict["state"]
    found = [(group, states.get(index, {})) for group in state_dict["param_groups"] for index in group["params"]]
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names = [name for group in optimizer.param_groups for name in group.get("param_names") or ()]
    theirs = [name for group in state_dict["param_groups"] for name in group.get("param_names") or ()]
    if params is None and len(theirs) == len(found) and {*names} == {*theirs} and len({*names}) == len(own):
        by_name = dict(zip(names, own, strict=True))
        params = [by_name[name] for name in theirs]
    params = own if params is None else list(params)
    if len(params) != len(found) or {*params} != {*own}:
        raise ValueError(
            f"the other optimizer must have held the {len(own)} parameters of this one; the state_dict has "
            f"{len(found)}, and {len({*params} & {*own})} of params are here. Build this optimizer from the same "
            "parameters, and pass params in the order in which the other held them."
        )
    return dict(zip(params, found, strict=True))


class _Reader(NamedTuple):
    """One peer, with what its groups don't say."""

    name: str
    row: ForeignState
    arguments: dict[str, Any]

    def _given(self, theirs: Group) -> dict[str, Any]:
        """The arguments of `like` for a group of theirs."""
        known = PEERS[self.name].arguments
        return {key: value for key, value in theirs.items() if key in known} | self.arguments

    def check_kind(self, theirs: Group, kept: dict[str, Any], matrix: bool, who: str) -> None:
        """Raise unless a parameter is a matrix on both sides or on none."""
        if self.row.kind is None:
            known: object = True
        else:
            key, of_matrices, of_others = self.row.kind
            given = theirs.get(key, kept.get(key))
            if given is None and not kept:
                return  # it has not moved yet, and nobody has decided
            if given not in (of_matrices, of_others):
                raise ValueError(
                    f"{key} of {who} must be {of_matrices!r} or {of_others!r}; the state_dict has {given!r}."
                )
            known = given == of_matrices
        if known != matrix:
            there, here = ("a matrix", "with AdamW") if known else ("with AdamW", "a matrix")
            raise ValueError(
                f"{who} must be updated alike on both sides; it is {there} in {self.name} and {here} here. Say it by "
                "htmuon.param_groups(model, spectral=[...], adamw=[...])."
            )

    def settings(self, theirs: Group, group: Group) -> Group:
        """The settings of a group of ours for those of a group of theirs."""
        scheduled = "initial_lr" in theirs
        if not group["use_muon"]:
            later = {"initial_lr": self.row.others({**theirs, "lr": theirs["initial_lr"]})["lr"]} if scheduled else {}
            return self.row.others(theirs) | later
        given = self._given(theirs)
        turned = group["power_schedule"] is not None or bool(group["power"] != 0)
        left_out = {"method", "normalization"} if turned else set()
        made = like(self.name, **given)
        if not made.optimizer.own_settings.keys() <= group.keys():
            lacking = sorted(made.optimizer.own_settings.keys() - group.keys())
            raise ValueError(
                f"a state of {self.name} must be loaded into {made.optimizer.__name__} or its heavy-tailed form; the "
                f"groups of this optimizer lack {lacking}. Make it by htmuon.like({self.name!r}, ...).make(groups)."
            )
        settings = {key: value for key, value in made.items() if key in group and key not in left_out}
        # What is left out there has the choice that `like` means.
        settings = {"momentum_rule": "average", "weight_update": "decoupled"} | settings
        if scheduled:
            settings["initial_lr"] = like(self.name, **{**given, "lr": theirs["initial_lr"]})["lr"]
        step = theirs.get("step")
        return settings | ({"steps_taken": torch.as_tensor(step)} if isinstance(step, int) else {})

    def state(
        self, theirs: Group, kept: dict[str, Any], parameter: Tensor, shapes: dict[str, tuple[int, ...]], matrix: bool
    ) -> dict[str, Any]:
        """The state of a parameter of ours."""
        if not matrix:
            step = kept.get("step", theirs.get("step"))
            moments = dict(zip(("exp_avg", "exp_avg_sq"), (kept.get(key) for key in self.row.adamw), strict=True))
            return {key: value for key, value in ({"step": step} | moments).items() if value is not None}
        momentum = kept.get(self.row.momentum)
        if momentum is None:
            raise ValueError(
                f"the state of a matrix in {self.name} must have {self.row.momentum!r}; it has {', '.join(kept)}. "
                "Remove it from the state_dict to start this parameter from zero."
            )
        if self.row.summed:
            momentum = momentum * (1 - like(self.name, **self._given(theirs))["momentum"])
        state: dict[str, Any] = {"momentum_buffer": momentum}
        key, ours = self.row.statistics, "second_momentum_buffer"
        if key in kept and ours in shapes:
            state[ours] = kept[key].reshape(shapes[ours])
        return state
