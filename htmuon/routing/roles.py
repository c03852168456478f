"""What takes AdamW whatever its shape: the roles of modules, and the parameters that no decay is good for."""

import re
from fnmatch import fnmatchcase

from torch import Tensor, nn

from htmuon.routing.declared import is_of
from htmuon.routing.heads import head_modules
from htmuon.routing.models import is_embedding
from htmuon.routing.stems import stem_modules

ROUTER_NAMES = frozenset({"gate", "router", "gating", "wg", "gate_layer", "router_layer"})
ENDINGS = ("Router", "TopKGating", "MoEV1Gate", "MoEGate", "MoeGate")
RELATIVE_BIAS = re.compile(r"rel(ative)?_(pos|attention).*_bias")


def roles(model: nn.Module) -> dict[nn.Module, str]:
    """The modules whose parameters take AdamW whatever their shape, and why.

    Example:
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
        >>> roles(model) == {model[0]: "embedding", model[2]: "output head"}
        True
    """
    found = dict.fromkeys(stem_modules(model), "patch or stem layer")
    found |= dict.fromkeys(lookup_modules(model), "lookup stored as Linear")
    found |= dict.fromkeys(router_modules(model), "router")
    found |= dict.fromkeys(head_modules(model), "output head")
    return found | dict.fromkeys((module for module in model.modules() if is_embedding(module)), "embedding")


def router_modules(model: nn.Module) -> set[nn.Module]:
    """The routers of a model and all in them but experts: classes of transformers, and the gate beside experts.

    Example:
        >>> block = nn.Module()
        >>> block.gate, block.experts = nn.Linear(8, 2), nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        >>> router_modules(block) == {block.gate}
        True
    """
    experts: dict[nn.Module, set[nn.Module]] = {}
    routers: list[nn.Module] = []
    for module in model.modules():
        children = dict(module.named_children())
        bare = dict(module.named_parameters(recurse=False))
        held = [name for name in {**children, **bare} if name == "experts" or name.endswith("_experts")]
        experts[module] = {inner for name in held if name in children for inner in children[name].modules()}
        if is_of(module, "transformers") and type(module).__name__.endswith(ENDINGS):
            routers.append(module)
        routers += [children[name] for name in ROUTER_NAMES & children.keys() if held]
    parts = [set(router.modules()) for router in routers]
    return {part for inner in parts for part in inner.difference(*(experts[module] for module in inner))}


def lookup_modules(model: nn.Module) -> set[nn.Module]:
    """Linear layers that are read as tables: relative position biases, as the LayoutLM family keeps them.

    Example:
        >>> encoder = nn.Module()
        >>> encoder.rel_pos_bias = nn.Linear(32, 12, bias=False)
        >>> lookup_modules(encoder) == {encoder.rel_pos_bias}
        True
    """
    return {
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and RELATIVE_BIAS.fullmatch(name.rpartition(".")[2])
    }


def is_vector_like(parameter: Tensor) -> bool:
    """Whether all sides but one are 1, as those of tokens and gains that are kept in the shape of what they meet.

    Example:
        >>> import torch
        >>> is_vector_like(torch.ones(1, 1, 8)), is_vector_like(torch.ones(2, 8))
        (True, False)
    """
    return sum(side != 1 for side in parameter.shape) < 2


def undecayed_names(model: nn.Module, names: list[str]) -> set[str]:
    """Those of the names that the model, or a model in it, lists in `no_weight_decay()`.

    Example:
        >>> class Net(nn.Module):
        ...     def no_weight_decay(self):
        ...         return {"tokens"}
        >>> undecayed_names(nn.ModuleDict({"net": Net()}), ["net.tokens", "net.head"])
        {'net.tokens'}
    """
    found: set[str] = set()
    for prefix, module in model.named_modules():
        listing = getattr(type(module), "no_weight_decay", None)
        if not callable(listing):
            continue
        try:
            given = list(listing(module))
        except (TypeError, NotImplementedError, AttributeError):  # another method of that name
            continue
        listed = {f"{prefix}.{name}" if prefix else name for name in given if isinstance(name, str)}
        patterns = [name for name in listed if "*" in name]
        found |= listed & set(names)
        found |= {name for name in names for pattern in patterns if fnmatchcase(name, pattern)}
    return found
