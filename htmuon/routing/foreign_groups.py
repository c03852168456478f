"""Parameter groups that others made, divided into matrices for the spectral side and what takes AdamW."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from htmuon._checks import check_flag
from htmuon._typing import Group, MatrixView
from htmuon.routing.routes import Routing
from htmuon.routing.routing import DEFAULT_SPLIT, SplitRules, route

# What a group says of its parameters and not of how they are trained.
_OF_PARAMETERS = ("params", "param_names")
# What only divided groups say.
_DIVIDED = ("use_muon", "matrix_view", "split")


def route_groups(
    model: nn.Module,
    groups: Iterable[Mapping[str, Any]],
    *,
    spectral: Sequence[str] | Mapping[str, MatrixView] = (),
    adamw: Sequence[str] = (),
    split: SplitRules = DEFAULT_SPLIT,
    named: bool = True,
) -> list[Group]:
    """Divide parameter groups that another library made into matrices for the spectral side and what takes AdamW.

    A schedule of learning rates over depth, or a list of what is not decayed, comes as groups: those of timm's
    `param_groups_layer_decay`, of a trainer, of one's own. Each is divided in itself, as `htmuon.param_groups` divides
    a model, and its settings go to all parts unchanged: `lr`, `weight_decay`, `lr_scale`, ... A group that says nothing
    of `weight_decay` gets 0 for its vectors and gains, as in `htmuon.param_groups`.

    A learning rate that a group states holds for its matrices too. Where it is one for AdamW, change it afterwards in
    the groups with `use_muon=True`, or set `adjust_lr_fn="match_rms_adamw"`.

    Args:
        model: which the parameters belong to.
        groups: dicts with `params`, tensors or pairs `(name, parameter)`. Parameters with `requires_grad=False` are
            left out; those of the model that are in no group stay in none. A group may list a tied parameter under
            each of its names.
        spectral: patterns over the names in the model that force parameters to the spectral side; see `htmuon.route`.
        adamw: patterns that force parameters to AdamW.
        split: how parameters that fuse several matrices are taken apart; see `htmuon.route`.
        named: whether the groups hold pairs `(name, parameter)`; else bare parameters, for wrappers that refuse names.

    Returns:
        The groups, in their order; of each the matrices come first, one group for each view and split.

    Raises:
        TypeError: as `htmuon.route`; or `groups` is no list, a group no dict with `params`, or a member of it no
            parameter.
        ValueError: as `htmuon.route`; or a parameter is not the model's, is listed twice, or, tied, in two groups; or a
            group is divided already.

    Example:
        >>> import torch, htmuon
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 9))
        >>> layers = [{"params": model[i].parameters(), "lr_scale": 0.5 ** (2 - i)} for i in range(3)]
        >>> for group in htmuon.route_groups(model, layers):
        ...     print(group["lr_scale"], group["use_muon"], [name for name, _ in group["params"]])
        0.25 True ['0.weight']
        0.25 False ['0.bias']
        0.5 True ['1.weight']
        0.5 False ['1.bias']
        1.0 False ['2.weight']
        1.0 False ['2.bias']
    """
    check_flag("named", named)
    routing = route(model, spectral=spectral, adamw=adamw, split=split)
    if isinstance(groups, Mapping | Tensor | str) or not isinstance(groups, Iterable):
        raise TypeError(f"groups must be a list of dicts with 'params'; got {type(groups).__name__}. Write [group].")
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    listed: dict[int, int] = {}
    divided = []
    for number, group in enumerate(groups):
        members = _members(group, number)
        for member in members:
            if id(member) not in names:
                raise ValueError(
                    f"groups must hold parameters of the model; group {number} has one of shape {tuple(member.shape)} "
                    f"that is not in {type(model).__name__}. Pass the model that the groups were made from."
                )
            before = listed.get(id(member))
            tied = len(names[id(member)]) > 1  # one group may list it under each of its names
            if before is not None and not (tied and before == number):
                where = f"group {number} twice" if before == number else f"groups {before} and {number}"
                called = " = ".join(map(repr, names[id(member)])) + (" (tied)" if tied else "")
                raise ValueError(
                    f"groups must hold each parameter once; {called} is in {where}. Leave it in one place."
                )
            listed[id(member)] = number
        wanted = {id(member) for member in members}
        own = Routing(tuple(found for found in routing.routes if id(found.parameter) in wanted), routing.names)
        divided += _united([{**part, **_settings(group)} for part in own.groups(named=named)])
    return divided


def _members(group: Mapping[str, Any], number: int) -> list[Tensor]:
    """The parameters of a group."""
    if not isinstance(group, Mapping) or "params" not in group:
        raise TypeError(
            f"groups must be dicts with 'params'; group {number} is {type(group).__name__}. For plain parameters call "
            "htmuon.param_groups(model)."
        )
    divided = [name for name in _DIVIDED if name in group]
    if divided:
        raise ValueError(
            f"groups must not be divided yet; group {number} has {divided[0]}={group[divided[0]]!r}. Pass it to the "
            "optimizer as it is."
        )
    params = [group["params"]] if isinstance(group["params"], Tensor) else group["params"]
    if isinstance(params, str | Mapping) or not isinstance(params, Iterable):
        raise TypeError(
            f"'params' must be parameters or pairs (name, parameter); group {number} has {type(params).__name__}. "
            "Write [parameter], or model.parameters()."
        )
    members: list[Any] = [member[-1] if isinstance(member, tuple) and member else member for member in params]
    for member in members:
        if not isinstance(member, Tensor):
            raise TypeError(
                f"'params' must be parameters or pairs (name, parameter); group {number} has {_said(member)}. Take it "
                "from model.named_parameters()."
            )
    return members


def _said(member: Any) -> str:
    """A member that is no parameter as a message says it: texts in full, tensors by their shape, others by type."""
    if member is None or isinstance(member, str):
        return repr(member)
    kind = type(member).__name__
    if isinstance(member, Tensor):
        return f"{kind} of shape {tuple(member.shape)}"
    return f"{kind} of {_said(member[0])}" if isinstance(member, list | tuple) and member else kind


def _settings(group: Mapping[str, Any]) -> Group:
    """How a group is trained; tensors are copied, for a scheduler that changes a rate in place does so by group."""
    settings = {name: value for name, value in group.items() if name not in _OF_PARAMETERS}
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in settings.items()}


def _united(parts: list[Group]) -> list[Group]:
    """Parts of one group, with those made one that are trained alike."""
    united: list[Group] = []
    for part in parts:
        alike = [other for other in united if _settings(other) == _settings(part)]
        if alike:
            alike[0]["params"] = [*alike[0]["params"], *part["params"]]
        else:
            united.append(part)
    return united
