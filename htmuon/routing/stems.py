"""Where a model reads raw input: the first layers of its stems and patch embeddings."""

from collections.abc import Sequence
from itertools import takewhile

from torch import nn

from htmuon.routing.models import core, in_width, is_embedding, is_layer, is_of_transformers, out_width
from htmuon.routing.reparametrized import layers

STEM_NAMES = frozenset(
    {"patch_embed", "patch_embedding", "patch_embeddings", "to_patch_embedding", "patcher", "stem", "conv_stem"}
)


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Colors and a mask: an input of so few channels is read wherever a convolution has as many.
FEW_CHANNELS = 4


def stem_modules(model: nn.Module) -> set[nn.Module]:
    """The layers of a model that read raw input: the first of a named stem, a convolution that comes before all else.

    What comes after them in a stem is hidden, and so are the patch embeddings between stages. Branches that read the
    same input beside each other all count.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(16, 2))
        >>> stem_modules(model) == {model[0]}
        True
    """
    model = core(model)
    weighted = [(name, m) for name, m in layers(model) if is_embedding(m) or is_layer(m) or isinstance(m, CONVOLUTIONS)]
    stems: set[nn.Module] = set()
    if len(weighted) > 1 and isinstance(weighted[0][1], CONVOLUTIONS):
        stems.add(weighted[0][1])
    for group in _named_stems(weighted):
        if not _is_fed(group[0], weighted):
            stems |= _reading(in_width(group[0]), group)
    for reader in model.modules():
        stems |= _read_by(reader)
    widths = {in_width(stem) for stem in stems if in_width(stem) <= FEW_CHANNELS}
    convolutions = [module for _, module in weighted if isinstance(module, CONVOLUTIONS)]
    for width in widths:
        stems |= _reading(width, convolutions)
    return stems or _declared(model)


def _named_stems(weighted: list[tuple[str, nn.Module]]) -> list[list[nn.Module]]:
    """The layers below each name of a stem that is in no block."""
    groups: dict[tuple[str, ...], list[nn.Module]] = {}
    for name, module in weighted:
        path = name.split(".")
        for depth, part in enumerate(path):
            if part.isdigit():
                break
            if part in STEM_NAMES:
                groups.setdefault(tuple(path[: depth + 1]), []).append(module)
                break
    return list(groups.values())


def _is_fed(module: nn.Module, weighted: list[tuple[str, nn.Module]]) -> bool:
    """Whether a layer before this convolution makes as many channels as it reads, and more than an image has."""
    if not isinstance(module, CONVOLUTIONS) or in_width(module) <= FEW_CHANNELS:
        return False
    before = takewhile(lambda other: other is not module, (other for _, other in weighted))
    return any(out_width(other) == in_width(module) for other in before if not is_embedding(other))


def _reading(width: int, modules: Sequence[nn.Module]) -> set[nn.Module]:
    """Those of so many input channels that come before any that makes as many."""
    found: set[nn.Module] = set()
    for module in modules:
        if in_width(module) == width:
            found.add(module)
        if out_width(module) == width:
            break
    return found


def _read_by(model: nn.Module) -> set[nn.Module]:
    """The first convolution of a model of transformers that says that its input is an image or a sound."""
    if not is_of_transformers(model) or getattr(model, "main_input_name", "input_ids") == "input_ids":
        return set()
    config = getattr(model, "config", None)
    names = ("num_channels", "in_channels", "in_chans", "num_mel_bins")
    stated = [getattr(config, name, None) for name in names]  # a list for the stages of some
    raw = {*range(1, FEW_CHANNELS + 1), *(width for width in stated if isinstance(width, int))}
    first = next((module for _, module in layers(model) if is_layer(module)), None)
    return {first} if isinstance(first, CONVOLUTIONS) and in_width(first) in raw else set()


def _declared(model: nn.Module) -> set[nn.Module]:
    """The first layer that a timm model names in its configuration."""
    names = getattr(model, "pretrained_cfg", None) or {}
    declared = names.get("first_conv") if isinstance(names, dict) else None
    listed = [declared] if isinstance(declared, str) else list(declared or ())
    named = dict(model.named_modules())
    return {named[name] for name in listed if name in named and is_layer(named[name])}
