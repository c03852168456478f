"""Which layers choose among experts."""

from torch import nn

ROUTER_NAMES = frozenset({"gate", "router", "gating", "wg", "gate_layer", "router_layer"})
ENDINGS = ("Router", "TopKGating", "MoEV1Gate", "MoEGate", "MoeGate")


def router_modules(model: nn.Module) -> set[nn.Module]:
    """The routers of a model and all in them: classes named so, and the gate beside a module's experts.

    Example:
        >>> block = nn.Module()
        >>> block.gate, block.experts = nn.Linear(8, 2), nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        >>> router_modules(block) == {block.gate}
        True
    """
    routers: set[nn.Module] = set()
    for module in model.modules():
        if type(module).__name__.endswith(ENDINGS):
            routers.update(module.modules())
        children = dict(module.named_children())
        if any(name == "experts" or name.endswith("_experts") for name in children):
            for name in ROUTER_NAMES & children.keys():
                routers.update(children[name].modules())
    return routers
