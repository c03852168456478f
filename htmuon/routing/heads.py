"""Where a model reads raw input and where it answers: its embeddings, stems and output heads."""

from torch import nn

from htmuon.routing.reparametrized import layers
from htmuon.routing.storage import stored_view

# Whole path components, never parts of them: "head" must not match "headwise_gate".
HEAD_NAMES = frozenset(
    {"lm_head", "embed_out", "classifier", "score", "unembed", "unembedding", "to_logits", "logits", "qa_outputs"}
)


# These, and names that end in "_head", name a head only outside of repeated blocks, where there is no number before
# them.
OUTER_HEAD_NAMES = frozenset(
    {"head", "heads", "head_dist", "fc", "output", "out", "output_layer", "output_projection", "proj_out"}
)


STEM_NAMES = frozenset(
    {"patch_embed", "patch_embedding", "patch_embeddings", "to_patch_embedding", "stem", "conv_stem"}
)


def is_embedding(module: nn.Module) -> bool:
    """Whether the module looks rows up in a table."""
    return isinstance(module, nn.Embedding | nn.EmbeddingBag)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel and torch.compile, whose names would hide what is outermost in it."""
    for name in ("module", "_orig_mod"):
        inner = getattr(model, name, None)
        if isinstance(inner, nn.Module) and list(model.children()) == [inner]:
            return unwrapped(inner)
    return model


def head_modules(model: nn.Module) -> set[nn.Module]:
    """The output heads of an unwrapped model: what it says they are and what is named so, else its last layer.

    Of several layers below one name (`classifier.0`, `classifier.3`) the last is the head. The last layer counts where
    no head is named and it is outermost: an attribute of the model, or the end of a plain `nn.Sequential`.
    """
    heads: set[nn.Module] = set()
    get_output = getattr(model, "get_output_embeddings", None)
    declared = get_output() if callable(get_output) else None
    if isinstance(declared, nn.Module):
        heads.add(declared)
    matrices = [(name.split("."), m) for name, m in layers(model) if stored_view(m, "weight") is not None]
    named: dict[tuple[str, ...], nn.Module] = {}
    for path, module in matrices:
        place = _head_place(path)
        if place is not None:
            named[place] = module
    heads.update(named.values())
    if not heads and len(matrices) > 1 and _is_outermost(model, matrices[-1][0]):
        heads.add(matrices[-1][1])
    return heads


def stem_modules(model: nn.Module) -> set[nn.Module]:
    """Layers of an unwrapped model that read raw input: named stems, and a convolution that comes before all else."""
    weighted = [(n, m) for n, m in layers(model) if is_embedding(m) or stored_view(m, "weight") is not None]
    stems = {module for name, module in weighted if STEM_NAMES.intersection(name.split("."))}
    if len(weighted) > 1 and isinstance(weighted[0][1], nn.Conv1d | nn.Conv2d | nn.Conv3d):
        stems.add(weighted[0][1])
    return stems


def _head_place(path: list[str]) -> tuple[str, ...] | None:
    """The path down to the component that names a head, or None."""
    for depth, part in enumerate(path):
        outside_blocks = not any(before.isdigit() for before in path[:depth])
        if part in HEAD_NAMES or (outside_blocks and (part in OUTER_HEAD_NAMES or part.endswith("_head"))):
            return tuple(path[: depth + 1])
    return None


def _is_outermost(model: nn.Module, path: list[str]) -> bool:
    """Whether a layer is an attribute of the model or a direct child of a Sequential that is in no block."""
    *before, last = path
    if last.isdigit():
        parent = model.get_submodule(".".join(before))
        return isinstance(parent, nn.Sequential) and not any(part.isdigit() for part in before)
    return not before
