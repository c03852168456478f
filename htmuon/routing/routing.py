"""Which parameters are matrices for the spectral side, and which take AdamW.

Routing goes by what a parameter does in the model, not by its shape: a weight that maps hidden activations to hidden
activations is a matrix; an embedding, an output head, a stem, a position table, a gain, a bias is not. Everything that
is not recognized takes AdamW, and the listing (`print(htmuon.route(model))`) gives the reason for every parameter.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from torch import Tensor, nn
from torch.nn import Parameter

from htmuon._checks import plain
from htmuon._registry import unknown_name
from htmuon._typing import MATRIX_VIEWS, Group, MatrixView
from htmuon._warnings import warn
from htmuon.layouts import is_flattened
from htmuon.routing.declared import Holders, Stored, holders
from htmuon.routing.kinds import KindRates, kind_of
from htmuon.routing.patterns import check_patterns, matching
from htmuon.routing.reparametrized import WeightPlace, is_coordinates, layer_name, places
from htmuon.routing.roles import is_vector_like, roles, undecayed_names
from htmuon.routing.routes import Route, Routing
from htmuon.routing.split import GivenSplit, part_shapes, split_of
from htmuon.routing.storage import is_grouped, is_vector, other_reason, own_view, stored, weight_shape
from htmuon.routing.views import MINIMUM_DIMS, check_shaped, default_view

# Parts of one parameter: as a user gives them, as its module fuses them ("auto"), or none.
Parts = GivenSplit | Literal["auto"] | None
# Parts of every parameter ("auto" or none), or by pattern.
SplitRules = Mapping[str, Parts] | Literal["auto"] | None

# What becomes of a fused weight for which nothing else is said: a small LLaMA with fused q, k, v and gate, up has a
# lower test loss where its parts are updated each by itself (benchmarks/fused_split.py, docs/results).
DEFAULT_SPLIT: Literal["auto"] | None = "auto"


def _own_storage(parameter: Tensor, place: WeightPlace, by: Holders) -> Stored | None:
    """How a parameter stores matrices of its layer, by itself or in the shape of the weight that is made of it."""
    return None if own_view(parameter, place) is None else stored(place.module, place.attribute, by)


def _reason_for_adamw(parameter: Tensor, place: WeightPlace, own: Stored | None) -> str | None:
    """Why a parameter that has no role of its own takes AdamW; None for a hidden matrix."""
    if is_coordinates(place):
        return "coordinates of an orthogonal matrix"
    if own is not None:
        rivals = [other for other in place.others if other is not None and other.shape == parameter.shape]
        return other_reason(parameter, own.view) or ("one of several of the weight's shape" if rivals else None)
    if is_grouped(place.module):
        return "grouped convolution"
    if place.makers and weight_shape(place.module, place.attribute) is not None:
        return f"not of the shape of {layer_name(place.module)}.{place.attribute}"
    return f"bare parameter of {layer_name(place.module)}"


def _is_vector(parameter: Tensor, place: WeightPlace) -> bool:
    """Whether it is a vector or, by the name that all libraries give biases, the stack of those that experts add."""
    return is_vector(parameter, place) or (
        parameter.ndim == 2 and (place.attribute == "bias" or place.attribute.endswith("_bias"))
    )


def _no_matrix(parameter: Tensor, place: WeightPlace) -> str | None:
    """Why a parameter cannot be a matrix even if a pattern asks for it."""
    if _is_vector(parameter, place):
        return "vector"
    return "empty" if parameter.numel() == 0 else None


def _route_by_module(
    name: str, parameter: Parameter, at: list[WeightPlace], own: Stored | None, reasons: list[str]
) -> Route:
    """The route of a parameter that no pattern names, from all the places where it acts (several where it is tied)."""
    place = at[0]
    if _is_vector(parameter, place):
        return Route(name=name, parameter=parameter, view=None, reason=f"vector{place.under}")
    if reasons:
        tied = " (tied)" if len(at) > 1 else ""
        return Route(name=name, parameter=parameter, view=None, reason=reasons[0] + tied)
    reason = _reason_for_adamw(parameter, place, own)
    if reason is not None or own is None:
        return Route(name=name, parameter=parameter, view=None, reason=f"{reason}{place.under}")
    return Route(name=name, parameter=parameter, view=own.view, reason=own.reason + place.under)


def _route_by_pattern(
    name: str, parameter: Parameter, place: WeightPlace, own: Stored | None, pattern: str, view: MatrixView | None
) -> Route:
    """The route of a parameter that a pattern sends to the spectral side, in its module's own view if that is known."""
    if own is not None and view not in (None, own.view):
        raise ValueError(
            f"pattern {pattern!r} gives {name!r} the view {view!r}, but {layer_name(place.module)} stores it as "
            f"{own.view!r}. Give that view, or a list of patterns, by which the known one is taken."
        )
    view = view or (own.view if own is not None else default_view(parameter.ndim))
    if parameter.ndim < MINIMUM_DIMS[view]:
        raise ValueError(
            f"pattern {pattern!r} sends {name!r} of shape {tuple(parameter.shape)} to the spectral side, whose view "
            f"{view!r} needs {MINIMUM_DIMS[view]} or more dimensions. Make the pattern narrower."
        )
    known = "" if own is None else f": {own.reason}"
    return Route(name=name, parameter=parameter, view=view, reason=f"pattern {pattern!r}{known}")


def _split(route: Route, own: Stored | None, rules: Mapping[str, Parts], otherwise: Parts) -> Route:
    """The route with the parts that the rules give it."""
    if route.view is None:
        return route
    found = matching(route.name, rules)
    if len(found) > 1:
        raise ValueError(f"parameter {route.name!r} matches {len(found)} split patterns: {found}. Make one narrower.")
    parts = rules[found[0]] if found else otherwise
    if parts == "auto":
        known = None if own is None else own.split
        unsplit = "" if known is not None or kind_of(route.name) != "qkv" else ", fused by its name: not split"
        return replace(route, split=known, reason=route.reason + unsplit)
    split = None if parts is None else split_of(parts)
    try:
        part_shapes(tuple(route.parameter.shape), route.view, split)
    except ValueError as error:
        raise ValueError(f"split pattern {found[0]!r}, parameter {route.name!r}: {error}") from None
    return replace(route, split=split)


def _check_taken(argument: str, patterns: Iterable[str], routes: Sequence[Route], remedy: str) -> None:
    """Raise if nothing that a pattern matches is on the spectral side."""
    for pattern in patterns:
        found = [route for route in routes if matching(route.name, [pattern])]
        if found and all(route.view is None for route in found):
            name, shape, reason = found[0].name, tuple(found[0].parameter.shape), found[0].reason
            raise ValueError(
                f"{argument} patterns must match a matrix; {pattern!r} matches {name!r} of shape {shape}, which takes "
                f"AdamW ({reason}), and no matrix. {remedy}"
            )


def _split_rules(split: SplitRules) -> tuple[Mapping[str, Parts], Parts]:
    """The parts by pattern, and those of what no pattern matches."""
    if split is None or split == "auto":
        return {}, split
    if not isinstance(split, Mapping):
        raise TypeError(
            f'split must map patterns to parts, {{"*.qkv.weight": 3}}, or be "auto" or None; got {split!r}.'
        )
    for parts in split.values():
        if isinstance(parts, bool | float) or (isinstance(parts, str) and parts != "auto"):
            raise TypeError(
                f"parts must be a number of equal ones or a list of sizes; got {parts!r}. Write 3, say; "
                '"auto" are the parts that the module fuses.'
            )
    return split, DEFAULT_SPLIT


def route(
    model: nn.Module,
    *,
    spectral: Sequence[str] | Mapping[str, MatrixView] = (),
    adamw: Sequence[str] = (),
    split: SplitRules = DEFAULT_SPLIT,
) -> Routing:
    """Decide for every trainable parameter of a model whether it is a matrix for the spectral side or takes AdamW.

    To AdamW go embeddings, output heads (tied or not), norms, biases, patch and stem layers, routers, tables, depthwise
    convolutions, matrices of one row or column, and everything that is not recognized. To the spectral side go the
    weights of linear, recurrent and convolution layers in their own orientation, the groups of a convolution as
    matrices of their own, and parameters that a known module stacks, as the experts of transformers.

    A weight that is made at each call, by a parametrization or by a hook such as `prune`, counts as the weight: to
    the spectral side goes the parameter of its shape, while gains, factors and the coordinates of `orthogonal` take
    AdamW.

    A pattern never takes what cannot be a matrix: vectors, biases (also those that a module stacks) and empty
    parameters stay with AdamW when a wide pattern meets them. How a known module stores its matrices is known better
    than by a pattern: that view is taken, and another one is refused. A pattern that matches nothing, beside others
    that match, is a warning: scripts for several models name parts that not each of them has.

    Args:
        model: any module.
        spectral: shell-style patterns over parameter names that go to the spectral side all the same; a mapping
            from pattern to view where a parameter is neither the weight of a known module nor stored as
            `[*batch, out, in]` (see `htmuon.matrix_view`).
        adamw: patterns that go to AdamW.
        split: how parameters on the spectral side that fuse several matrices are taken apart: `"auto"`, the default,
            into the parts that their modules fuse; None leaves them whole. By pattern, so many equal parts, or the
            output rows of each, `{"*.qkv.weight": 3}` or `{"*.qkv.weight": (4096, 1024, 1024)}`, or
            `htmuon.Interleaved` rows, `"auto"` or None; what no pattern matches, as without a mapping. Split patterns
            that match nothing are a warning. The groups of a convolution are matrices of their own unless a pattern
            says otherwise.

    Returns:
        A `Routing`: `print` it for the listing, `.groups()` for an optimizer.

    Raises:
        TypeError: a single string in place of a list.
        ValueError: no pattern matches anything, or one nothing but what takes AdamW; two patterns contradict each
            other, or a view the known one; parts are not the rows of a matrix, nothing in the model is trainable, a
            lazy module in it has seen no batch, or the model is wrapped by FullyShardedDataParallel.

    Example:
        >>> import torch, htmuon
        >>> layers = torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 9)
        >>> print(htmuon.route(torch.nn.Sequential(*layers)))
        parameter  shape  optimizer  matrix [out, in]  reason
        0.weight   9x4    AdamW                        embedding
        1.weight   4x4    spectral   4x4               matrix of Linear
        2.weight   9x4    AdamW                        output head
        2.bias     9      AdamW                        vector
        16 of 97 parameters are matrices on the spectral side.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}. Pass the model itself.")
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    names = [name for name, _ in named]
    if not names:
        raise ValueError("the model must have at least one parameter with requires_grad=True; it has none.")
    for name, parameter in named:
        check_shaped(parameter, f"parameter {name!r}")
    flattened = [name for name, parameter in named if is_flattened(parameter)]
    if flattened:
        raise ValueError(
            f"the model must not be wrapped by FullyShardedDataParallel, which flattens {flattened[0]!r} and leaves no "
            "matrix of it. Wrap it by torch.distributed.fsdp.fully_shard instead."
        )
    rules, otherwise = _split_rules(plain(split))
    check_patterns("spectral", spectral, names, required=True)
    check_patterns("adamw", adamw, names, required=True)
    check_patterns("split", rules, names, required=False)
    views: dict[str, MatrixView | None] = dict(spectral) if isinstance(spectral, Mapping) else dict.fromkeys(spectral)
    for view in views.values():
        if view is not None and view not in MATRIX_VIEWS:
            raise unknown_name("matrix_view", view, list(MATRIX_VIEWS))

    taken = roles(model)
    undecayed = undecayed_names(model, names)
    acting, held = places(model), holders(model)
    routes = []
    for name, parameter in named:
        at = acting[parameter]
        impossible = _no_matrix(parameter, at[0])
        wanted = matching(name, views)
        refused = matching(name, adamw)
        if wanted and refused and not impossible:
            raise ValueError(
                f"parameter {name!r} matches both spectral={wanted[0]!r} and adamw={refused[0]!r}. Make one narrower."
            )
        own = _own_storage(parameter, at[0], held.get(at[0].module, ()))
        if refused:
            found = Route(name=name, parameter=parameter, view=None, reason=f"pattern {refused[0]!r}")
        elif wanted and impossible:
            found = Route(name=name, parameter=parameter, view=None, reason=impossible + at[0].under)
        elif wanted:
            found = _route_by_pattern(name, parameter, at[0], own, wanted[0], views[wanted[0]])
        else:
            against = [taken.get(place.module) for place in at]
            found = _route_by_module(name, parameter, at, own, [reason for reason in against if reason])
        bare = is_vector_like(parameter) and any(own_view(parameter, place) is None for place in at)
        decays = not (bare or name in undecayed or any(_is_vector(parameter, p) or is_coordinates(p) for p in at))
        unnamed: Parts = "auto" if own is not None and own.apart else otherwise
        routes.append(_split(replace(found, decays=decays), own, rules, unnamed))
    _check_taken("spectral", views, routes, "Write the pattern of a parameter that multiplies.")
    _check_taken("split", rules, routes, "Leave it out, or send the parameter to the spectral side by spectral=[...].")
    return Routing(tuple(routes), tuple(name for name, _ in model.named_parameters()))


def param_groups(
    model: nn.Module,
    *,
    spectral: Sequence[str] | Mapping[str, MatrixView] = (),
    adamw: Sequence[str] = (),
    split: SplitRules = DEFAULT_SPLIT,
    lr: float | Tensor | None = None,
    adamw_lr: float | Tensor | None = None,
    weight_decay: float | None = None,
    adamw_weight_decay: float | None = None,
    power: Mapping[str, float] | None = None,
    lr_scale: KindRates | None = None,
    named: bool = True,
) -> list[Group]:
    """Parameter groups for any optimizer of this library: hidden matrices to the spectral side, the rest to AdamW.

    The groups are plain dicts of named parameters: one with `use_muon=True` for each way of storing a matrix that
    occurs in the model, then with `use_muon=False` one for tables and heads and one, without weight decay, for vectors,
    gains and the coordinates of `orthogonal`.

    A wrapper that fills in `lr` and `weight_decay` by itself, as SAM and `ZeroRedundancyOptimizer` do, would give AdamW
    those of the matrices: state both here.

    Args:
        model: any module; parameters with `requires_grad=False` are left out.
        spectral: patterns that force parameters to the spectral side; see `htmuon.route`.
        adamw: patterns that force parameters to AdamW.
        split: how parameters that fuse several matrices are taken apart; see `htmuon.route`. Each head of its own is
            the number of heads.
        lr: learning rate of the matrices; None leaves it to the optimizer, as each of these.
        adamw_lr: learning rate of the other groups.
        weight_decay: decay of the matrices.
        adamw_weight_decay: decay of the other groups but the last, which has none.
        power: exponents of some matrices, by kind (`query`, `key`, `value`, `qkv`, `output`, `gate`, `up`, `gate_up`,
            `down`) or by pattern; what none of them names has that of the optimizer.
        lr_scale: factors of the learning rate of some matrices, in the same way; `"kinds"` is a table that was better
            than one rate for all on a small LLaMA. A fused `qkv`, and what is of no kind, keeps the rate of the
            optimizer, while value, output and down go slower: nobody has measured the table on such models.
        named: whether the groups hold pairs `(name, parameter)`; else bare parameters, for wrappers that refuse names.

    Returns:
        The groups; change their `lr`, `weight_decay`, `power`, ... at will.

    Raises:
        TypeError: as `htmuon.route`; or a rate, a decay, a power or `named` has the wrong type.
        ValueError: as `htmuon.route`; or a rate or a decay is out of range, or no pattern matches.

    Example:
        >>> import torch, htmuon
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 9))
        >>> [[name for name, _ in group["params"]] for group in htmuon.param_groups(model)]
        [['1.weight'], ['0.weight', '2.weight'], ['1.bias', '2.bias']]
        >>> groups = htmuon.param_groups(model, lr=0.02, adamw_lr=0.001, adamw_weight_decay=0.01)
        >>> [(group["lr"], group.get("weight_decay")) for group in groups]
        [(0.02, None), (0.001, 0.01), (0.001, 0.0)]
    """
    groups = route(model, spectral=spectral, adamw=adamw, split=split).groups(
        lr=lr,
        adamw_lr=adamw_lr,
        weight_decay=weight_decay,
        adamw_weight_decay=adamw_weight_decay,
        power=power,
        lr_scale=lr_scale,
        named=named,
    )
    if not any(group["use_muon"] for group in groups):
        warn(
            f"no parameter of {type(model).__name__} is a matrix for the spectral side: everything takes AdamW. "
            "print(htmuon.route(model)) gives the reasons; send parameters there by spectral=[...]."
        )
    return groups
