"""Which parameters are matrices for the spectral side, and which take AdamW.

Routing goes by what a parameter does in the model, not by its shape: a weight that maps hidden activations to hidden
activations is a matrix; an embedding, an output head, a stem, a position table, a gain, a bias is not. Everything that
is not recognized takes AdamW, and the listing (`print(htmuon.route(model))`) gives the reason for every parameter.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn import Parameter

from htmuon._checks import plain
from htmuon._registry import unknown_name
from htmuon._typing import MATRIX_VIEWS, Group, MatrixView
from htmuon.layouts import is_flattened
from htmuon.routing.heads import head_modules, is_embedding, stem_modules, unwrapped
from htmuon.routing.reparametrized import WeightPlace, is_coordinates, layer_name, places
from htmuon.routing.routes import Route, Routing
from htmuon.routing.split import GivenSplit, part_shapes, split_of
from htmuon.routing.storage import is_grouped, is_vector, other_reason, own_view, weight_shape
from htmuon.routing.views import MINIMUM_DIMS, check_shaped, default_view


def _reason_against(module: nn.Module, heads: set[nn.Module], stems: set[nn.Module]) -> str | None:
    """Why a module's parameters take AdamW whatever their shape, or None."""
    if is_embedding(module):
        return "embedding"
    if module in heads:
        return "output head"
    if module in stems:
        return "patch or stem layer"
    return None


def _reason_for_adamw(parameter: Tensor, place: WeightPlace) -> str | None:
    """Why a parameter that has no role of its own takes AdamW; None for a hidden matrix."""
    if is_coordinates(place):
        return "coordinates of an orthogonal matrix"
    view = own_view(parameter, place)
    if view is not None:
        rivals = [other for other in place.others if other is not None and other.shape == parameter.shape]
        return other_reason(parameter, view) or ("one of several of the weight's shape" if rivals else None)
    if is_grouped(place.module):
        return "grouped convolution"
    if place.makers and weight_shape(place.module, place.attribute) is not None:
        return f"not of the shape of {layer_name(place.module)}.{place.attribute}"
    return f"bare parameter of {layer_name(place.module)}"


def _route_by_module(name: str, parameter: Parameter, at: list[WeightPlace], reasons: list[str]) -> Route:
    """The route of a parameter that no pattern names, from all the places where it acts (several where it is tied)."""
    place = at[0]
    if is_vector(parameter, place):
        return Route(name=name, parameter=parameter, view=None, reason=f"vector{place.under}")
    if reasons:
        tied = " (tied)" if len(at) > 1 else ""
        return Route(name=name, parameter=parameter, view=None, reason=reasons[0] + tied)
    reason = _reason_for_adamw(parameter, place)
    if reason is not None:
        return Route(name=name, parameter=parameter, view=None, reason=reason + place.under)
    reason = f"matrix of {layer_name(place.module)}{place.under}"
    return Route(name=name, parameter=parameter, view=own_view(parameter, place), reason=reason)


def _route_by_pattern(
    name: str, parameter: Parameter, place: WeightPlace, pattern: str, view: MatrixView | None
) -> Route:
    """The route of a parameter that a pattern sends to the spectral side, by default in its layer's own view."""
    view = view or own_view(parameter, place) or default_view(parameter.ndim)
    if parameter.ndim < MINIMUM_DIMS[view]:
        raise ValueError(
            f"pattern {pattern!r} sends {name!r} of shape {tuple(parameter.shape)} to the spectral side, whose view "
            f"{view!r} needs {MINIMUM_DIMS[view]} or more dimensions. Make the pattern narrower."
        )
    return Route(name=name, parameter=parameter, view=view, reason=f"pattern {pattern!r}")


def _split(route: Route, rules: Mapping[str, GivenSplit]) -> Route:
    """The route with the parts that the rules give it."""
    found = {pattern: parts for pattern, parts in rules.items() if fnmatchcase(route.name, pattern)}
    if not found:
        return route
    if len(found) > 1:
        raise ValueError(
            f"parameter {route.name!r} matches {len(found)} split patterns: {list(found)}. Make one narrower."
        )
    [(pattern, parts)] = found.items()
    if route.view is None:
        raise ValueError(
            f"split pattern {pattern!r} matches {route.name!r}, which takes AdamW ({route.reason}). Make it "
            "narrower, or send the parameter to the spectral side by spectral=[...]."
        )
    split = split_of(parts)
    try:
        part_shapes(tuple(route.parameter.shape), route.view, split)
    except ValueError as error:
        raise ValueError(f"split pattern {pattern!r}, parameter {route.name!r}: {error}") from None
    return replace(route, split=split)


def _check_patterns(patterns: Iterable[str], names: list[str], argument: str) -> None:
    if isinstance(patterns, str):
        raise TypeError(f"{argument} must be a list of patterns; got the string {patterns!r}. Write [{patterns!r}].")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"{argument} pattern {pattern!r} matches no trainable parameter. Patterns are shell-style over whole "
                f"names such as {names[0]!r}: try {'*' + pattern.strip('*') + '*'!r}."
            )


def route(
    model: nn.Module,
    *,
    spectral: Sequence[str] | Mapping[str, MatrixView] = (),
    adamw: Sequence[str] = (),
    split: Mapping[str, GivenSplit] | None = None,
) -> Routing:
    """Decide for every trainable parameter of a model whether it is a matrix for the spectral side or takes AdamW.

    To AdamW go embeddings, the output head (tied or not), norms, biases, patch and stem layers, position tables, bare
    `nn.Parameter`s, grouped convolutions, matrices of one row or column, and everything that is not recognized. To the
    spectral side go the weights of linear and convolution layers (transposed ones and transformers' `Conv1D` in their
    own orientation).

    A weight that is made at each call, by a parametrization or by a hook such as `prune`, counts as the weight: to
    the spectral side goes the parameter of its shape, while gains, factors and the coordinates of `orthogonal` take
    AdamW.

    Args:
        model: any module.
        spectral: shell-style patterns over parameter names that go to the spectral side all the same; a mapping
            from pattern to view where a parameter is neither the weight of a known layer nor stored as
            `[*batch, out, in]` (see `htmuon.matrix_view`).
        adamw: patterns that go to AdamW.
        split: how parameters on the spectral side that fuse several matrices are taken apart, by pattern: so many
            equal parts, or the output rows of each, `{"*.qkv.weight": 3}` or `{"*.qkv.weight": (4096, 1024, 1024)}`.

    Returns:
        A `Routing`: `print` it for the listing, `.groups()` for an optimizer.

    Raises:
        TypeError: a single string in place of a list.
        ValueError: a pattern matches nothing, two patterns contradict each other, a matched parameter is a vector,
            parts are not the rows of a matrix, nothing in the model is trainable, a lazy module in it has seen no
            batch, or the model is wrapped by FullyShardedDataParallel.

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
    split = plain(split)
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
    _check_patterns(spectral, names, "spectral")
    _check_patterns(adamw, names, "adamw")
    if split is not None and not isinstance(split, Mapping):
        raise TypeError(f'split must map patterns to parts, {{"*.qkv.weight": 3}}; got {split!r}.')
    for parts in (split or {}).values():
        if isinstance(parts, str | bool | float):
            raise TypeError(f"parts must be a number of equal ones or a list of sizes; got {parts!r}. Write 3, say.")
    _check_patterns(split or {}, names, "split")
    views: dict[str, MatrixView | None] = dict(spectral) if isinstance(spectral, Mapping) else dict.fromkeys(spectral)
    for view in views.values():
        if view is not None and view not in MATRIX_VIEWS:
            raise unknown_name("matrix_view", view, list(MATRIX_VIEWS))

    heads, stems = head_modules(unwrapped(model)), stem_modules(unwrapped(model))
    acting = places(model)
    routes = []
    for name, parameter in named:
        wanted = [pattern for pattern in views if fnmatchcase(name, pattern)]
        refused = [pattern for pattern in adamw if fnmatchcase(name, pattern)]
        if wanted and refused:
            raise ValueError(
                f"parameter {name!r} matches both spectral={wanted[0]!r} and adamw={refused[0]!r}. Make one narrower."
            )
        at = acting[parameter]
        if refused:
            found = Route(name=name, parameter=parameter, view=None, reason=f"pattern {refused[0]!r}")
        elif wanted:
            found = _route_by_pattern(name, parameter, at[0], wanted[0], views[wanted[0]])
        else:
            against = [_reason_against(place.module, heads, stems) for place in at]
            found = _route_by_module(name, parameter, at, [reason for reason in against if reason])
        decays = not any(is_vector(parameter, place) or is_coordinates(place) for place in at)
        routes.append(_split(replace(found, decays=decays), split or {}))
    return Routing(tuple(routes))


def param_groups(
    model: nn.Module,
    *,
    spectral: Sequence[str] | Mapping[str, MatrixView] = (),
    adamw: Sequence[str] = (),
    split: Mapping[str, GivenSplit] | None = None,
    lr: float | Tensor | None = None,
    adamw_lr: float | Tensor | None = None,
    weight_decay: float | None = None,
    adamw_weight_decay: float | None = None,
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
        named: whether the groups hold pairs `(name, parameter)`; else bare parameters, for wrappers that refuse names.

    Returns:
        The groups; change their `lr`, `weight_decay`, `power`, ... at will.

    Raises:
        TypeError: as `htmuon.route`; or a rate, a decay or `named` has the wrong type.
        ValueError: as `htmuon.route`; or a rate or a decay is out of range.

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
        lr=lr, adamw_lr=adamw_lr, weight_decay=weight_decay, adamw_weight_decay=adamw_weight_decay, named=named
    )
    if not any(group["use_muon"] for group in groups):
        warnings.warn(
            f"no parameter of {type(model).__name__} is a matrix for the spectral side: everything takes AdamW. "
            "print(htmuon.route(model)) gives the reasons; send parameters there by spectral=[...].",
            stacklevel=2,
        )
    return groups
