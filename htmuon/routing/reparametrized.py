"""Parameters of which a layer makes its weight at each call: which weight that is, and what they are in it.

Parametrizations (`torch.nn.utils.parametrize`) keep them in `layer.parametrizations.weight`, as `original` or as
`original0`, `original1`, ...; hooks (`prune`, and the older `weight_norm` and `spectral_norm` of `torch.nn.utils`) in
the layer, as `weight_orig` or as `weight_g` and `weight_v`. One can stand upon the other.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

# What hooks append to the name of a weight that they make, by how many parameters they make it of.
SUFFIXES = (("_orig",), ("_g", "_v"))
# The parametrization behind `torch.nn.utils.parametrizations.orthogonal`, by its module and name, for it is private.
ORTHOGONAL = ("torch.nn.utils.parametrizations", "_Orthogonal")


@dataclass(frozen=True)
class WeightPlace:
    """Where a parameter acts.

    Attributes:
        module: the layer whose weight it is, or is in.
        attribute: the name of that weight.
        makers: the parametrizations and hooks that make the weight of it, in their order; none where it is the weight.
        others: what else they make it of; None for what is not at hand.
    """

    module: nn.Module
    attribute: str
    makers: tuple[object, ...] = ()
    others: tuple[Tensor | None, ...] = ()

    @property
    def under(self) -> str:
        """The makers, for the listing."""
        names = [type(maker).__name__.lstrip("_") for maker in self.makers]
        return f" under {', '.join(names)}" if names else ""


def places(model: nn.Module) -> dict[nn.Parameter, list[WeightPlace]]:
    """Where every parameter of a model acts: in several places where it is tied.

    Example:
        >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3, bias=False))
        >>> [(place.attribute, place.under) for [place] in places(layer).values()]
        [('weight', ' under WeightNorm'), ('weight', ' under WeightNorm')]
    """
    homes: dict[nn.Module, tuple[nn.Module, str]] = {
        held: (module, attribute) for module in model.modules() for attribute, held in parametrizations(module).items()
    }
    found: dict[nn.Parameter, list[WeightPlace]] = {}
    for module in model.modules():
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            found.setdefault(parameter, []).append(_place(module, attribute, homes))
    return found


def parametrizations(module: nn.Module) -> dict[str, ParametrizationList]:
    """The parametrizations of a module, by the name of what they make."""
    if not is_parametrized(module):
        return {}
    held = module.parametrizations
    assert isinstance(held, nn.ModuleDict)
    return {name: of for name, of in held.items() if isinstance(of, ParametrizationList)}


def layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The named modules of a model without those that only make the weights of others."""
    makers = {
        inner for module in model.modules() for held in parametrizations(module).values() for inner in held.modules()
    }
    return [(name, module) for name, module in model.named_modules() if module not in makers]


def layer_name(module: nn.Module) -> str:
    """The class of a module: a parametrized one has a class of its own, made from the one that is asked for."""
    kind = type(module)
    return (kind.__mro__[1] if is_parametrized(module) else kind).__name__


def is_coordinates(place: WeightPlace) -> bool:
    """Whether torch's `orthogonal` makes a weight of the parameter: of angles or reflections, which decay would break.

    Its Householder form keeps signs on the diagonal, rounded toward zero when they are read.
    """
    return any((type(m).__module__, type(m).__name__) == ORTHOGONAL for m in place.makers)


def _place(module: nn.Module, attribute: str, homes: dict[nn.Module, tuple[nn.Module, str]]) -> WeightPlace:
    """From where a parameter is stored, on to what is made of it, until that is no part of anything."""
    makers: list[object] = []
    others: list[Tensor | None] = []
    while True:
        if (found := _hook(module, attribute)) is not None:
            made, names, hook = found
            home, by = (module, made), [hook]
        elif isinstance(module, ParametrizationList) and module in homes:
            names = [attribute] if module.is_tensor else [f"original{i}" for i in range(module.ntensors)]
            home, by = homes[module], [maker for key, maker in module._modules.items() if key.isdigit()]
        else:
            return WeightPlace(module, attribute, tuple(makers), tuple(others))
        makers += by
        others += [_held(module, name) for name in names if name != attribute]
        module, attribute = home


def _hook(module: nn.Module, attribute: str) -> tuple[str, list[str], object] | None:
    """What a hook makes of a parameter, the names of all that it makes it of, and the hook; None without such a hook.

    A hook is known by the name that it holds: torch's own, and the many that are written after them.
    """
    for hook in module._forward_pre_hooks.values():
        made = getattr(hook, "_tensor_name", None) or getattr(hook, "name", None)
        for suffixes in SUFFIXES:
            names = [f"{made}{suffix}" for suffix in suffixes]
            if attribute in names and made not in module._parameters:
                return str(made), names, hook
    return None


def _held(module: nn.Module, name: str) -> Tensor | None:
    """A parameter, or what a hook has left in its place; never what a parametrization would have to make."""
    held: Tensor | None = module._parameters.get(name, module.__dict__.get(name))
    return held
