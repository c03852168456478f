"""How models are nested: what a wrapper holds, and which library a model says it comes from."""

import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, cast

from torch import nn

from htmuon.routing.declared import is_of
from htmuon.routing.reparametrized import parametrizations
from htmuon.routing.storage import stored_view

# Containers of torch hold layers side by side or in turn; what they hold is no model in a wrapper.
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def is_layer(module: nn.Module) -> bool:
    """Whether the module maps its input by a matrix, its `weight`."""
    return stored_view(module, "weight") is not None


def is_embedding(module: nn.Module) -> bool:
    """Whether the module looks rows up in a table."""
    return isinstance(module, nn.Embedding | nn.EmbeddingBag)


def in_width(module: nn.Module) -> int:
    """How many channels or features a layer reads at a place."""
    width = getattr(module, "in_channels", None) or getattr(module, "in_features", None) or getattr(module, "nx", 0)
    return cast(int, width)


def out_width(module: nn.Module) -> int:
    """How many channels or features a layer makes at a place."""
    width = getattr(module, "out_channels", None) or getattr(module, "out_features", None) or getattr(module, "nf", 0)
    return cast(int, width)


def changes_width(layer: nn.Module) -> bool:
    """Whether a layer makes something else than it reads, as those that answer do."""
    return in_width(layer) != out_width(layer)


def holds_layer(module: nn.Module) -> bool:
    """Whether a module is a layer or has one in it."""
    return any(is_layer(held) for held in module.modules())


def is_chain(parts: nn.ModuleList) -> bool:
    """Whether the parts of a list run one after the other, and not side by side on the same input.

    In a chain every part reads as many features as the part before it makes. Heads side by side can look so too, where
    each makes as many features as it reads: `[24 -> 48 -> 24, 24 -> 48 -> 24, 24 -> 48 -> 96]`. All of them read the
    same width. So parts that all read the same are a chain only where each is a single layer or none at all (an
    activation, a norm).

    Example:
        >>> is_chain(nn.ModuleList([nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)]))
        True
        >>> is_chain(nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, width)) for width in (8, 3)))
        False
    """
    ends = [found for part in parts if (found := [held for held in part.modules() if is_layer(held)])]
    if len(ends) < 2 or any(out_width(one[-1]) != in_width(other[0]) for one, other in pairwise(ends)):
        return False
    of_layers = all(is_layer(part) for part in parts if holds_layer(part))
    return of_layers or len({in_width(found[0]) for found in ends}) > 1


def is_stack(part: nn.Module) -> bool:
    """Whether a part of a model holds a list of alike blocks, beside which its layers stand."""
    lists = [held for held in part.children() if isinstance(held, nn.ModuleList)]
    blocks = [[block for block in held if holds_layer(block) and not is_layer(block)] for held in lists]
    return any(len({type(block) for block in alike}) == 1 for alike in blocks)


def is_of_transformers(module: nn.Module) -> bool:
    """Whether it is a model of transformers, or one that a user made from its base class."""
    return is_of(module, "transformers", "PreTrainedModel")


def library_class(model: nn.Module) -> type[nn.Module] | None:
    """The whole model of transformers that a model is, or that a user made it from.

    None where a user's model takes from the library only what all models share (`PreTrainedModel`,
    `BertPreTrainedModel`): which parts such a model has is the user's own work.
    """
    of_library = (kind for kind in type(model).__mro__ if kind.__module__.startswith("transformers."))
    nearest = next(of_library, None)
    whole = nearest is not None and is_of_transformers(model) and not nearest.__name__.endswith("PreTrainedModel")
    return nearest if whole else None


def added_parts(model: nn.Module) -> list[nn.Module]:
    """The parts that a user put into a model of transformers, in a subclass or on the model itself.

    A part is the library's where the `__init__` of one of the library's classes names it, or where its class is the
    library's.
    """
    known: set[str] = set()
    for kind in type(model).__mro__:
        if kind.__module__.startswith("transformers.") and "__init__" in vars(kind):
            known.update(inspect.unwrap(vars(kind)["__init__"]).__code__.co_names)
    return [part for name, part in model.named_children() if name not in known and not is_of(part, "transformers")]


def answer(module: nn.Module, method: str) -> Any:
    """What a module's method answers without arguments; None where it has no such method, or the method fails.

    The libraries ask their models by such names (`get_classifier`, `no_weight_decay`). A user's method may share only
    the name and want arguments or raise anything; routing then goes on as if it were not there.
    """
    asked = getattr(type(module), method, None)
    try:
        return asked(module) if callable(asked) else None
    except Exception:
        return None


def is_of_timm(module: nn.Module) -> bool:
    """Whether it is a model of timm, which says which of its layers classify, whatever their names."""
    return is_of(module, "timm") and callable(getattr(type(module), "get_classifier", None))


def is_model(module: nn.Module) -> bool:
    """Whether a module is a whole model of a library that declares its parts."""
    return is_of_transformers(module) or is_of_timm(module)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel and torch.compile, whose names would hide what is outermost in it."""
    for name in ("module", "_orig_mod"):
        inner = model._modules.get(name)
        if inner is not None and list(model.children()) == [inner]:
            return unwrapped(inner)
    return model


def core(model: nn.Module) -> nn.Module:
    """The model inside of any wrapper: a LightningModule, a module with a loss or a metric beside it.

    A wrapper is a module of which one child, no layer and no list of them, holds all parameters.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> wrapper = nn.Module()
        >>> wrapper.net, wrapper.loss = net, nn.CrossEntropyLoss()
        >>> core(wrapper) is net
        True
    """
    while not (is_model(model) or isinstance(model, CONTAINERS) or parametrizations(model)):
        holding = [child for child in model.children() if next(child.parameters(), None) is not None]
        own = next(model.parameters(recurse=False), None)
        if own is not None or len(holding) != 1 or is_layer(holding[0]):
            break
        if isinstance(holding[0], nn.ModuleList | nn.ModuleDict):
            break
        [model] = holding
    return model


def inner_models(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The outermost models of libraries in a model, with their names: itself, or those that it is put together of."""
    waiting, seen = [("", model)], set()
    while waiting:
        name, module = waiting.pop()
        if module in seen:  # shared, or held by what it holds
            continue
        seen.add(module)
        if is_model(module):
            yield name, module
        else:
            waiting += [(f"{name}.{key}" if name else key, child) for key, child in module.named_children()]
