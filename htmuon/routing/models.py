"""How models are nested: what a wrapper holds, and which library a model says it comes from."""

from collections.abc import Iterator
from itertools import pairwise
from typing import cast

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
    """Whether the parts of a list are meant one after the other: each reads what the one before it makes.

    Activations between layers say so, and widths, where not all are the same: parts of several layers that make as many
    features as they read may as well be heads beside each other.
    """
    ends = [found for part in parts if (found := [held for held in part.modules() if is_layer(held)])]
    if len(ends) < 2 or any(out_width(one[-1]) != in_width(other[0]) for one, other in pairwise(ends)):
        return False
    of_layers = all(is_layer(part) for part in parts if holds_layer(part))
    return of_layers or any(in_width(found[0]) != out_width(found[-1]) for found in ends)


def is_stack(part: nn.Module) -> bool:
    """Whether a part of a model holds a list of alike blocks, beside which its layers stand."""
    lists = [held for held in part.children() if isinstance(held, nn.ModuleList)]
    blocks = [[block for block in held if holds_layer(block) and not is_layer(block)] for held in lists]
    return any(len({type(block) for block in alike}) == 1 for alike in blocks)


def is_of_transformers(module: nn.Module) -> bool:
    """Whether it is a model of transformers, or one that a user made from its base class."""
    return is_of(module, "transformers", "PreTrainedModel")


def is_of_library(module: nn.Module, library: str) -> bool:
    """Whether the module's class is one of a library itself, not one that a user made from it."""
    kinds = (kind.__module__.partition(".")[0] for kind in type(module).__mro__)
    return next(name for name in kinds if name != "torch") == library


def is_of_timm(module: nn.Module) -> bool:
    """Whether it is a model of timm, which says which of its layers classify, whatever their names."""
    return is_of(module, "timm") and callable(getattr(type(module), "get_classifier", None))


def is_model(module: nn.Module) -> bool:
    """Whether a module is a whole model of a library that declares its parts."""
    return is_of_transformers(module) or is_of_timm(module)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel and torch.compile, whose names would hide what is outermost in it."""
    for name in ("module", "_orig_mod"):
        inner = getattr(model, name, None)
        if isinstance(inner, nn.Module) and list(model.children()) == [inner]:
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
