"""Which layers choose among experts."""

from torch import nn

from htmuon.routing.declared import is_of

ROUTER_NAMES = frozenset({"gate", "router", "gating", "wg", "gate_layer", "router_layer"})
ENDINGS = ("Router", "TopKGating", "MoEV1Gate", "MoEGate", "MoeGate")


def router_modules(model: nn.Module) -> set[nn.Module]:
    """The routers of a model and all in them but experts: classes of transformers, and the gate beside experts.

    Example:
        >>> block = nn.Module()
        >>> block.gate, block.experts = nn.Linear(8, 2), nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        >>> router_modules(block) == {block.gate}
        True
    """
    routers: set[nn.Module] = set()
    experts: set[nn.Module] = set()
    for module in model.modules():
        children = dict(module.named_children())
        bare = dict(module.named_parameters(recurse=False))
        held = [name for name in {**children, **bare} if name == "experts" or name.endswith("_experts")]
        experts.update(inner for name in held if name in children for inner in children[name].modules())
        if is_of(module, "transformers") and type(module).__name__.endswith(ENDINGS):
            routers.update(module.modules())
        for name in ROUTER_NAMES & children.keys() if held else ():
            routers.update(children[name].modules())
    return routers - experts
