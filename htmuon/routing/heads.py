"""Where a model answers: its output heads.

What a model declares goes first (`get_classifier` of timm, `get_output_embeddings` of transformers and what stands
outside of its `base_model`), then the names of its parts, and where nothing is named so, the outermost last layer.
"""

import re

from torch import nn

from htmuon.routing.models import (
    CONTAINERS,
    changes_width,
    core,
    holds_layer,
    in_width,
    inner_models,
    is_chain,
    is_layer,
    is_of_library,
    is_of_timm,
    is_of_transformers,
    is_stack,
    out_width,
)
from htmuon.routing.reparametrized import layers

# Whole path components, never parts of them: "head" must not match "headwise_gate".
HEAD_NAMES = frozenset(
    {"lm_head", "embed_out", "classifier", "classifier_distill", "score", "unembed", "unembedding", "to_logits"}
    | {"logits", "logits_proj", "qa_outputs"}
)

# These, and names that end as `ENDINGS`, name a head only outside of repeated blocks, where there is no number before
# them.
OUTER_HEAD_NAMES = frozenset(
    {"head", "heads", "head_dist", "fc", "output", "out", "output_layer", "output_projection", "proj_out"}
)
ENDINGS = ("_head", "_heads", "_classifier", "_predictor", "_predictions")
# Of a user's own model these endings, and answers of detectors, may also be of hidden layers: its last one counts too.
CERTAIN_ENDING = "_head"
# torch's layers of a transformer, which have no head whatever holds them.
BLOCKS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.MultiheadAttention)

# Layers of detectors and of heads of several layers that answer, wherever they stand.
ANSWER_NAMES = frozenset(
    {"cls_logits", "cls_score", "bbox_pred", "bbox_reg", "bbox_ctrness", "class_embed", "bbox_embed"}
    | {"class_labels_classifier", "bbox_predictor", "class_predictor", "enc_score_head", "enc_bbox_head"}
    | {"pre_bbox_head", "iou_prediction_head", "pred_obj_score_head"}
    | {"seq_relationship", "sop_classifier"}
)

# What names of such layers end in, whatever they answer for (`enc_out_class_embed`, `decoder_bbox_head`).
ANSWER_ENDINGS = ("_class_embed", "_bbox_embed", "_bbox_head")

# Heads of models that declare another one.
AUXILIARY_NAMES = frozenset({"head_dist", "aux_head", "AuxLogits"})

# Names by which some models of transformers answer from within their base models, where nothing else is named.
INNER_NAMES = frozenset({"final_layer", "output_projection"})

# What ends in a head's name, and is the last hidden layer before it.
HIDDEN_NAMES = frozenset(
    {"conv_head", "pre_head", "pre_logits", "pooling_head", "attn_pool", "projection_head", "pre_classifier"}
    | {"query_pos_head", "ref_point_head", "ref_anchor_head"}
)

# The class of a model of transformers that has a task; RoFormerModel has none.
TASK = re.compile("For[A-Z]|LMHead|DoubleHeads|Generation")


def head_modules(model: nn.Module) -> set[nn.Module]:
    """The output heads of a model: what it declares and what is named so, else its last layer.

    A head of several layers (`classifier.0`, `classifier.3`) answers by its last one, parallel heads (a `ModuleDict`, a
    `ModuleList`) by each. The last layer of all counts where no head is found and it is outermost: an attribute of the
    model, or the end of a plain `nn.Sequential`. Models of libraries inside of a larger one are asked for themselves.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        >>> head_modules(model) == {model[2]}
        True
    """
    model = core(model)
    inner = dict(inner_models(model))
    heads: set[nn.Module] = set()
    for one in inner.values():
        heads |= _of_timm(one) if is_of_timm(one) else _of_transformers(one)
    if model in inner.values():
        return heads
    apart = {held for one in inner.values() for held in one.modules()}
    named = _named(model, apart)
    certain = any(_is_certain(place[-1]) for place in named)
    heads |= {head for found in named.values() for head in found}
    return heads if certain or (heads and not named) else heads | _outermost(model, apart)


def last_layers(module: nn.Module) -> set[nn.Module]:
    """The layers that make the output of a part of a model.

    Example:
        >>> parallel = nn.ModuleDict({"age": nn.Linear(8, 1), "name": nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 5))})
        >>> last_layers(parallel) == {parallel["age"], parallel["name"][1]}
        True
    """
    if is_layer(module):
        return {module}
    children = [(name, child) for name, child in module.named_children() if holds_layer(child)]
    if not children:
        return set()
    adapted = dict(children).get("base_layer")  # what a layer is called inside of an adapter such as LoRA
    if adapted is not None:
        return last_layers(adapted)
    if isinstance(module, nn.ModuleDict) or (isinstance(module, nn.ModuleList) and not is_chain(module)):
        answering = [child for _, child in children]
    else:
        answering = [child for name, child in children if _answers(name) and not _is_before_another(module, name)]
        answering = answering or [children[-1][1]]
        if isinstance(module, nn.Sequential | nn.ModuleList):
            answering = [children[-1][1]]
    return {layer for child in answering for layer in last_layers(child)}


def _of_timm(model: nn.Module) -> set[nn.Module]:
    """What a timm model says that it classifies by; nothing where it was made without classes."""
    declared = model.get_classifier()  # type: ignore[operator]
    parts = declared if isinstance(declared, list | tuple) else [declared]
    heads = {layer for part in parts if isinstance(part, nn.Module) for layer in last_layers(part)}
    beside = [part for name, part in model.named_modules() if name.rpartition(".")[2] in AUXILIARY_NAMES]
    return heads | ({layer for part in beside for layer in last_layers(part)} if heads else set())


def _of_transformers(model: nn.Module) -> set[nn.Module]:
    """The output embeddings that a model declares, and the heads of its task, which stand outside of its base model."""
    get_output = getattr(model, "get_output_embeddings", None)
    try:
        declared = get_output() if callable(get_output) else None
    except (AttributeError, NotImplementedError):  # declared for other configurations of the same class
        declared = None
    of_library = is_of_library(model, "transformers")
    if declared is None and of_library:
        declared = model._modules.get("lm_head")  # what the library takes itself where the input embeddings are known
    heads = last_layers(declared) if isinstance(declared, nn.Module) else set()
    base = getattr(model, "base_model", model)
    heads |= _strictly_named(model, ANSWER_NAMES, ANSWER_ENDINGS) if of_library else set()
    if _is_base(model) and of_library:
        parts = [part for part in model.children() if is_of_transformers(part)]
        return heads | {head for part in parts for head in _of_transformers(part)}
    below = {
        held
        for module in model.modules()
        if module is not model and is_of_transformers(module) and (module is base or _is_base(module))
        for held in module.modules()
    }
    if heads:
        return heads | _beside(model, heads, below) | (_of_vocabulary(model, heads) if of_library else set())
    named = _named(model, below)
    if not of_library:
        return {head for found in named.values() for head in found} or _outermost(model, below)
    answering = {
        head for place, found in named.items() for head in found if _is_certain(place[-1]) or changes_width(head)
    }
    return answering or _last_part(model, below) or _strictly_named(model, INNER_NAMES)


def _beside(model: nn.Module, heads: set[nn.Module], below: set[nn.Module]) -> set[nn.Module]:
    """Heads that stand beside those that a model declares, as parts of the model itself (`multiple_choice_head`)."""
    return {
        layer
        for name, part in model.named_children()
        if name.endswith(("_head", "_heads", "_classifier"))
        and name not in HEAD_NAMES | HIDDEN_NAMES
        and part not in below
        and heads.isdisjoint(part.modules())
        for layer in last_layers(part)
        if changes_width(layer) or not is_of_library(model, "transformers")
    }


def _of_vocabulary(model: nn.Module, heads: set[nn.Module]) -> set[nn.Module]:
    """Layers beside a head that read as much as it makes: further columns of it, stored the other way round."""
    return {
        layer
        for part in model.modules()
        for head in heads.intersection(part.children())
        for layer in part.children()
        if layer not in heads and is_layer(layer) and in_width(layer) == out_width(head) != out_width(layer)
    }


def _is_base(model: nn.Module) -> bool:
    """Whether a model of transformers is one without a task: its class is named for none."""
    return TASK.search(type(model).__name__) is None


def _answers(name: str) -> bool:
    """Whether a part of a head is named as one that answers."""
    return name in HEAD_NAMES or name in ANSWER_NAMES or name in ("head", "out_proj", "proj_out") or _ends_as_head(name)


def _ends_as_head(name: str) -> bool:
    return name.endswith(ENDINGS) and name not in HIDDEN_NAMES and not name.startswith("att")


def _ends(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers of a model, with their names, without those of adapters (LoRA)."""
    return [(name, m) for name, m in layers(model) if is_layer(m) and "lora_" not in name]


def _named(model: nn.Module, apart: set[nn.Module]) -> dict[tuple[str, ...], set[nn.Module]]:
    """The layers that answer for the parts of a model that are named as heads, apart from those of inner models."""
    heads: dict[tuple[str, ...], set[nn.Module]] = {}
    for name, module in _ends(model):
        place = _head_place(name.split("."))
        if place is None or place in heads or module in apart:
            continue
        before_another = _is_before_another(model.get_submodule(".".join(place[:-1])), place[-1])
        heads[place] = set() if before_another else last_layers(model.get_submodule(".".join(place))) - apart
    return {place: found for place, found in heads.items() if found}


def _is_certain(name: str) -> bool:
    """Whether a name is given to heads alone."""
    return name in HEAD_NAMES | OUTER_HEAD_NAMES or name.endswith(CERTAIN_ENDING)


def _strictly_named(model: nn.Module, names: frozenset[str], endings: tuple[str, ...] = ()) -> set[nn.Module]:
    """The layers that answer by names that nothing else has."""
    places = {
        ".".join(path[: depth + 1])
        for name, _ in _ends(model)
        for path in [name.split(".")]
        for depth, part in enumerate(path)
        if part in names or part.endswith(endings)
    }
    return {layer for place in places for layer in last_layers(model.get_submodule(place))}


def _head_place(path: list[str]) -> tuple[str, ...] | None:
    """The path down to the component that names a head, or None."""
    for depth, part in enumerate(path):
        if part in HIDDEN_NAMES:
            return None
        outside_blocks = not any(before.isdigit() for before in path[:depth])
        outer = part in OUTER_HEAD_NAMES or part in ANSWER_NAMES or _ends_as_head(part)
        if part in HEAD_NAMES or (outside_blocks and outer):
            return tuple(path[: depth + 1])
    return None


def _is_before_another(parent: nn.Module, name: str) -> bool:
    """Whether what feeds on a part of a module stands beside it, or none of what it would answer with does.

    torchvision's `box_head` feeds the `box_predictor`, ModernBERT's `head` the `classifier`.
    """
    if name == "class_embed":  # a detector's answer beside its boxes; without them what a condition is embedded by
        return not hasattr(parent, "bbox_embed")
    if name == "head":
        return any(other in HEAD_NAMES for other, _ in parent.named_children())
    predictor = name.removesuffix("_head") + "_predictor"
    return name.endswith("_head") and isinstance(getattr(parent, predictor, None), nn.Module)


def _outermost(model: nn.Module, apart: set[nn.Module]) -> set[nn.Module]:
    """The last of several layers, where it is an attribute of the model or ends a Sequential that is in no block."""
    ends = [(name, module) for name, module in _ends(model) if module not in apart]
    storing = [module for module in model.modules() if any(held.ndim > 1 for held in module.parameters(recurse=False))]
    if not ends or isinstance(model, BLOCKS) or (len(storing) == 1 and not apart):
        return set()
    name, module = ends[-1]
    *before, last = name.split(".")
    if last.isdigit():
        parent = model.get_submodule(".".join(before))
        if isinstance(parent, nn.ModuleList) and not is_chain(parent):
            return set()
        outermost = isinstance(parent, CONTAINERS) and not any(part.isdigit() for part in before)
        return {module} if outermost else set()
    return set() if before else {module}


def _last_part(model: nn.Module, below: set[nn.Module]) -> set[nn.Module]:
    """The layers that answer for the last part of a task's model that has such, where none is named.

    No projection or quantizer. A layer or a Sequential answers by its end; what the library wrote a class for, by no
    layer that makes as many features as it reads, unless that is named for it: it makes features.
    """
    named = {layer for name, layer in model.named_modules() if _is_certain(name.rpartition(".")[2])}
    for name, part in reversed(list(model.named_children())):
        inner = "quantizer" in name or ("proj" in name and not name.endswith("out_proj"))
        if part in below or inner or is_of_transformers(part):
            continue
        plain = is_layer(part) or isinstance(part, nn.Sequential)
        ends = _beside_blocks(part) if is_stack(part) else last_layers(part)
        if answering := {end for end in ends - below if plain or end in named or changes_width(end)}:
            return answering
    return set()


def _beside_blocks(part: nn.Module) -> set[nn.Module]:
    """The last layer beside the blocks of a part, and those that read as much as it does."""
    beside = [held for held in part.children() if is_layer(held)]
    return {held for held in beside if in_width(held) == in_width(beside[-1])}
