"""Which parameters the routing takes for output heads, stems and routers, judged by the flow of data of a forward pass.

    python benchmarks/heads.py --libraries timm torchvision --out runs/heads.jsonl
    python benchmarks/heads.py --libraries transformers --tasks OBJECT_DETECTION --out runs/heads.jsonl --wrong
    python benchmarks/heads.py --truth runs/heads.jsonl --out runs/after.jsonl --wrong
    python benchmarks/heads.py --summary --out runs/heads.jsonl

Every model is built from its default configuration on the meta device, where a forward pass takes no memory and no
arithmetic, and its operators are watched. The oracle knows nothing of names:

    head: what the weight made reaches an output of the model through reshaping, slicing, activations, pooling and
          resizing alone: no further product, no norm, no residual.
    stem: the weight is multiplied with an input of the model that only such operators have touched.
    open: the weight takes no part in the forward pass, as what training or generation alone asks for, or nothing in the
          model takes up what it makes, as what a loss alone reads. A head by the routing that is open is not wrong.

A line of --out is one model: what the routing says, what the oracle says, the share of the parameters. Models that are
in the file already are not run again. A forward pass that needs real numbers (`item`, `nonzero`) can't be judged; it is
counted as such. Minutes on two cores for timm and torchvision, about half an hour for all of transformers.
"""

import argparse
import gc
import inspect
import json
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import htmuon

# Operators by what they do to data; all that is in none of these lists passes on where its inputs come from.
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "_grouped_mm", "mv", "addmv", "dot", "einsum", "linear"}
PRODUCTS |= {
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_attention_math",
    "lstm",
    "gru",
    "_conv_depthwise2d",
}
NORMS = {
    "native_layer_norm",
    "native_batch_norm",
    "native_group_norm",
    "rsqrt",
    "linalg_vector_norm",
    "_fused_rms_norm",
}
NORMS |= {"_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "cudnn_batch_norm"}
SUMS = {"add", "sub", "rsub", "mul", "div"}
LOOKUPS = {"embedding", "_embedding_bag", "index_select", "index"}
# Outputs of transformers that are no answers: states, embeddings, and numbers of training.
STATES = (
    "hidden",
    "past",
    "attent",
    "embed",
    "pool",
    "cache",
    "feature",
    "last_",
    "intermediate",
    "vision_",
    "text_model",
    "loss",
    "projected_",
    "perplexity",
)
REASONS = {"output head": "heads", "patch or stem layer": "stems", "router": "routers"}


@dataclass(frozen=True)
class Origin:
    """Where a tensor comes from.

    Attributes:
        weights: parameters of which it is a view or a function.
        heads: weights whose product it is, but for activations and reshaping.
        raw: whether it is an input of the model, but for the same.
        active: whether it depends on data at all.
    """

    weights: frozenset[str] = frozenset()
    heads: frozenset[str] = frozenset()
    raw: bool = False
    active: bool = False


NOTHING = Origin()


class Watch(TorchDispatchMode):
    """Follows the tensors of a forward pass from inputs and weights to outputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.origins: dict[int, tuple[Tensor, Origin]] = {}
        self.stems: set[str] = set()
        self.used: set[str] = set()
        self.taken: set[str] = set()  # heads, but for what takes up what they make
        for name, parameter in model.named_parameters():
            self.mark(parameter, Origin(weights=frozenset({name})))

    def mark(self, tensor: Tensor, origin: Origin) -> None:
        self.origins[id(tensor)] = (tensor, origin)  # the tensor too, lest its id be given to another one

    def of(self, tensor: Tensor) -> Origin:
        return self.origins.get(id(tensor), (tensor, NOTHING))[1]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = answer_without_numbers(func, args, kwargs or {})
        tensors = [t for t in torch.utils._pytree.tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)]
        results = [t for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, Tensor)]
        name = func.overloadpacket._qualified_op_name.split("::")[1]
        for result in results:
            self.mark(result, self.origin(name.rstrip("_") if name.endswith("_") else name, tensors, result))
        return out

    def origin(self, operator: str, tensors: list[Tensor], result: Tensor) -> Origin:
        given = [(t, self.of(t)) for t in tensors if t.is_floating_point() or self.of(t).raw]
        origins = [origin for _, origin in given]
        active = any(o.active for o in origins)
        data = [o for o in origins if o.active]
        if operator in PRODUCTS:
            used = frozenset().union(*(o.weights for t, o in given if t.ndim > 1))
            if not data:
                return Origin(weights=used)
            if not used and len(data) == 1:  # a fixed map, as the bins of a distribution are weighed
                return Origin(heads=data[0].heads, active=True)
            self.taken |= union(data, "heads")
            self.used |= used
            if any(o.raw for o in data):
                self.stems |= used
            return Origin(heads=used, active=True)
        if operator in NORMS or (operator in LOOKUPS and any(o.weights for o in origins)):
            self.taken |= union(data, "heads")
            return Origin(active=True) if data or operator in LOOKUPS else Origin(weights=union(origins, "weights"))
        if not active:
            return Origin(weights=union(origins, "weights"))
        small = result.ndim > 0 and result.shape[-1] <= 4  # the coordinates of boxes are added to reference points
        if operator in SUMS and len(data) > 1 and not small and any(not o.heads for o in data):
            self.taken |= union(data, "heads")
            return Origin(active=True, raw=all(o.raw for o in data))
        return Origin(heads=union(data, "heads"), raw=all(o.raw for o in data), active=True)


def answer_without_numbers(func: Any, args: Any, kwargs: Any) -> Any:
    """The operator's result; for those that ask for numbers, which a meta tensor lacks, that of a tensor of ones."""
    name = func.overloadpacket._qualified_op_name.split("::")[1]
    first = args[0] if args else None
    if not (isinstance(first, Tensor) and first.is_meta):
        return func(*args, **kwargs)
    if name == "_local_scalar_dense":
        return first.dtype.is_floating_point * 1.0 or (True if first.dtype == torch.bool else 1)
    if name == "nonzero":
        return first.new_empty(first.numel(), first.ndim, dtype=torch.long)
    if name in ("index", "index_put", "index_put_"):
        places = [place for one in args[1] for place in numbered(one)]
        return func(first, places, *args[2:], **kwargs)
    if name == "_grouped_mm":
        return first.new_empty(*first.shape[:-1], args[1].shape[-1])
    return func(*args, **kwargs)


def numbered(index: Tensor | None) -> list[Tensor | None]:
    """An index; a mask as indices that take all."""
    if index is None or index.dtype not in (torch.bool, torch.uint8):
        return [index]
    return [torch.empty(index.numel(), dtype=torch.long, device=index.device) for _ in range(index.ndim)]


def union(origins: list[Origin], of: str) -> frozenset[str]:
    return frozenset().union(*(getattr(origin, of) for origin in origins))


def answers(out: Any) -> list[Tensor]:
    """The tensors of a model's output that answer, not its states."""
    if isinstance(out, Tensor):
        return [out]
    if isinstance(out, dict):
        kept = [value for key, value in out.items() if not any(state in str(key) for state in STATES)]
        return [t for value in kept for t in answers(value)]
    if isinstance(out, list | tuple):
        return [t for value in out for t in answers(value)]
    return []


@dataclass
class Case:
    """A model to judge."""

    library: str
    name: str
    build: Callable[[], nn.Module] = field(repr=False)
    inputs: Callable[[nn.Module], dict[str, Any]] = field(repr=False)
    base: bool = False

    @property
    def key(self) -> str:
        return f"{self.library}/{self.name}"


@dataclass
class Result:
    key: str
    base: bool = False
    parameters: int = 0
    count: int = 0
    seconds: float = 0.0
    heads: list[str] = field(default_factory=list)
    stems: list[str] = field(default_factory=list)
    routers: list[str] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    true_heads: list[str] | None = None
    true_stems: list[str] | None = None
    unused: list[str] = field(default_factory=list)  # stems of an input that the forward pass had none of
    open: list[str] = field(default_factory=list)  # heads that the pass does not use, or whose product nothing takes up
    error: str = ""
    unjudged: str = ""

    def false(self, what: str) -> list[str]:
        true = getattr(self, f"true_{what}")
        return [] if true is None else sorted(set(getattr(self, what)) - set(true) - {*self.unused, *self.open})

    def missed(self, what: str) -> list[str]:
        true = getattr(self, f"true_{what}")
        return [] if true is None else sorted(set(true) - set(getattr(self, what)))


def judged(case: Case, known: Result | None = None) -> Result:
    """The routing and the oracle of a model: on the meta device, else on the processor if it is small."""
    result = Result(case.key, case.base)
    for device in ("meta", "cpu"):
        try:
            with torch.device(device):
                model = case.build().eval()
        except Exception as error:
            result.unjudged = f"build: {type(error).__name__}: {error}"[:200]
            if case.library == "transformers":  # whose default sizes may be those of the largest models
                break
            continue
        sizes = {name: p.numel() for name, p in model.named_parameters()}
        result.count, result.parameters = len(sizes), sum(sizes.values())
        try:
            gc.disable()  # as timeit does: the models before left much to collect
            begin = time.process_time()  # of this process alone, for the machine may be busy
            routes = htmuon.route(model).routes
            result.seconds = time.process_time() - begin
            gc.enable()
        except Exception as error:
            result.error = f"{type(error).__name__}: {error}"[:300]
            return result
        for reason, what in REASONS.items():
            found = [r.name for r in routes if r.reason.startswith(reason)]
            setattr(result, what, found)
            result.shares[what] = sum(sizes[name] for name in found) / max(result.parameters, 1)
        if known is not None and (known.true_heads is not None or known.unjudged):
            result.true_heads, result.true_stems = known.true_heads, known.true_stems
            result.base, result.unjudged, result.open = known.base, known.unjudged, known.open
            result.unused = known.unused
            return result
        # What an embedding is tied to, and a table, can't be taken for a head; it takes AdamW all the same.
        settled = {r.name for r in routes if r.view is None and not r.reason.startswith(tuple(REASONS))}
        matrices = {name for name, p in model.named_parameters() if p.ndim > 1} - settled
        try:
            with torch.no_grad(), torch.device(device):
                watch, heads = flow(model, case.inputs(model))
        except Exception as error:
            result.unjudged = f"forward: {type(error).__name__}: {error}"[:200]
            if result.parameters > SMALL:
                break
            continue
        result.true_heads, result.true_stems = sorted(heads & matrices), sorted(watch.stems & matrices)
        result.unjudged = ""
        result.unused = sorted(set(result.stems) - watch.used)
        result.open = sorted(matrices - (watch.used & watch.taken))
        break
    if not result.unjudged.startswith("build") and callable(classifier := getattr(model, "get_classifier", None)):
        case.base = result.base = isinstance(classifier(), nn.Identity)  # as timm's models without classes
    if case.base and not result.unjudged.startswith("build"):  # all its outputs are states but what it takes for heads
        result.true_heads, result.open = sorted(set(result.true_heads or ()) & set(result.heads)), []
    return result


SMALL = 150_000_000  # parameters of a model that may be built with numbers in it


def flow(model: nn.Module, inputs: dict[str, Any]) -> tuple[Watch, frozenset[str]]:
    """The watched forward pass of a model, and the weights that make its outputs."""
    watch = Watch(model)
    for tensor in torch.utils._pytree.tree_leaves(inputs):
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            watch.mark(tensor, Origin(raw=True, active=True))
    with watch:
        out = model(**inputs)
    return watch, frozenset().union(*(watch.of(t).heads for t in answers(out)))


def timm_cases() -> Iterator[Case]:
    """The smallest model of each family: of each first word of a name in each of timm's files."""
    import timm
    from timm.models import _registry

    families = defaultdict(list)
    for name in timm.list_models():
        families[_registry._model_to_module[name], name.split("_")[0]].append(name)
    order = ("atto", "femto", "pico", "nano", "zepto", "test", "xxt", "tiny", "_xxs", "_xs", "_s", "small", "18", "_t_")
    for (_, _), names in sorted(families.items()):
        smallest = min(names, key=lambda n: next((i for i, word in enumerate(order) if word in n), len(order)))

        def build(name: str = smallest) -> nn.Module:
            return timm.create_model(name)

        def inputs(model: nn.Module) -> dict[str, Any]:
            size = model.pretrained_cfg.get("input_size") or (3, 224, 224)
            name = next(iter(inspect.signature(model.forward).parameters))
            return {name: torch.randn(1, *size)}

        yield Case("timm", smallest, build, inputs)


def torchvision_cases() -> Iterator[Case]:
    import torchvision

    for name in torchvision.models.list_models():
        if "quantized" in name:
            continue

        def build(name: str = name) -> nn.Module:
            weights = (
                {"weights_backbone": None}
                if "segmentation" in repr(torchvision.models.get_model_builder(name))
                or name.startswith(
                    ("fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet", "fcos", "ssd", "deeplab", "fcn", "lraspp")
                )
                else {}
            )
            return torchvision.models.get_model(name, weights=None, **weights)

        def inputs(model: nn.Module) -> dict[str, Any]:
            kind = type(model).__module__
            first = next(iter(inspect.signature(model.forward).parameters))
            if "detection" in kind:
                return {first: [torch.randn(3, 320, 320)]}
            if "optical_flow" in kind:
                return {"image1": torch.randn(1, 3, 128, 128), "image2": torch.randn(1, 3, 128, 128)}
            if "video" in kind:
                return {first: torch.randn(1, 3, 16, 224, 224)}
            size = 299 if "inception" in kind else getattr(model, "image_size", 224)
            return {first: torch.randn(1, 3, size, size)}

        yield Case("torchvision", name, build, inputs)


def transformers_cases(tasks: list[str]) -> Iterator[Case]:
    """Every class of the auto mappings; of MODEL_MAPPING, the base models, which have no heads."""
    import transformers
    from transformers.models.auto import modeling_auto as auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    seen = set()
    mappings = {
        name: value for name, value in vars(auto).items() if name.endswith("_NAMES") and isinstance(value, dict)
    }
    # Base models last: the mapping has the names of models with heads where a type has no base model.
    for mapping in sorted(mappings, key=lambda name: (name == "MODEL_MAPPING_NAMES", name)):
        task = mapping.removesuffix("_NAMES").removesuffix("_MAPPING").removeprefix("MODEL").removeprefix("_FOR_")
        if mapping == "CONFIG_MAPPING_NAMES" or (tasks and (task or "BASE") not in tasks):
            continue
        for kind, classes in sorted(mappings[mapping].items()):
            for name in classes if isinstance(classes, list | tuple) else [classes]:
                if name in seen:
                    continue
                seen.add(name)

                def build(name: str = name, kind: str = kind) -> nn.Module:
                    config = CONFIG_MAPPING[kind]()
                    shallow = shallower(CONFIG_MAPPING[kind]())
                    try:
                        return getattr(transformers, name)(shallow)
                    except Exception:
                        return getattr(transformers, name)(config)

                base = (mapping == "MODEL_MAPPING_NAMES" and name.endswith("Model")) or task == "BACKBONE"
                yield Case("transformers", name, build, transformers_inputs, base)


DEPTHS = (
    "num_hidden_layers",
    "encoder_layers",
    "decoder_layers",
    "n_layer",
    "num_layers",
    "n_layers",
    "num_encoder_layers",
    "num_decoder_layers",
)


def shallower(config: Any, depth: int = 2) -> Any:
    """A configuration of few layers, for a quick pass; heads and stems are the same."""
    for attribute in DEPTHS:
        if isinstance(getattr(config, attribute, None), int) and getattr(config, attribute) > depth:
            try:
                setattr(config, attribute, depth)
            except Exception:
                continue
    for inner in list(vars(config).values()):
        if hasattr(inner, "model_type") and hasattr(inner, "to_dict"):
            shallower(inner, depth)
    return config


def transformers_inputs(model: nn.Module) -> dict[str, Any]:
    """Inputs as the signature of `forward` names them."""
    config = model.config
    vision = getattr(config, "vision_config", None) or config

    def side() -> tuple[int, int]:
        size = getattr(vision, "image_size", None) or getattr(config, "image_size", None) or 224
        return tuple(size) if isinstance(size, list | tuple) else (size, size)

    channels = getattr(vision, "num_channels", None) or getattr(vision, "in_channels", None) or 3
    words = torch.zeros(2, 16, dtype=torch.long)
    frames = getattr(vision, "num_frames", None)
    pixels = (2, frames, channels, *side()) if frames else (2, channels, *side())
    mels = (
        getattr(config, "feature_projection_input_dim", None)
        or getattr(config, "num_mel_bins", None)
        or getattr(config, "feature_size", None)
        or 80
    )
    length = 2 * getattr(config, "max_source_positions", 1500)
    inputs = {
        "input_ids": words,
        "decoder_input_ids": words,
        "pixel_values": torch.randn(pixels),
        "pixel_values_videos": torch.randn(2, frames or 8, channels, *side()),
        "bbox": torch.zeros(2, 16, 4, dtype=torch.long),
        "input_values": torch.randn(2, 16000),
        "input_features": torch.randn(2, mels, length),
        "image": torch.randn(pixels),
        "past_values": torch.randn(2, getattr(config, "context_length", 64), getattr(config, "num_input_channels", 1)),
    }
    accepted = inspect.signature(model.forward).parameters
    found = {name: value for name, value in inputs.items() if name in accepted}
    main = getattr(model, "main_input_name", None)
    if "input_ids" in found and main == "input_ids":
        for name in ("pixel_values", "pixel_values_videos", "input_features", "input_values"):
            if name in found and accepted[name].default is not inspect.Parameter.empty:
                found.pop(name)
    if hasattr(config, "feature_projection_input_dim") and "input_features" in found:
        found["input_features"] = torch.randn(2, 100, mels)
    if main in ("input_values",) and getattr(config, "num_mel_bins", None):
        found["input_values"] = torch.randn(2, getattr(config, "max_length", 1024), config.num_mel_bins)
    elif main not in ("input_ids", "pixel_values") and "pixel_values" in found and main in found:
        found.pop("input_ids", None)
    if not getattr(config, "is_encoder_decoder", False) and main != "decoder_input_ids":
        found.pop("decoder_input_ids", None)
    if type(model).__name__.endswith("ForMultipleChoice"):
        found = {name: value.unsqueeze(0) for name, value in found.items()}
    return found | ({"use_cache": False} if "use_cache" in accepted else {})


def read(path: Path) -> dict[str, Result]:
    if not path.exists():
        return {}
    results = [Result(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return {result.key: result for result in results}


def print_summary(results: dict[str, Result], wrong: bool) -> None:
    columns = (
        "library",
        "models",
        "route fails",
        "judged",
        "false head",
        "missed head",
        "wrong head",
        "false stem",
        "missed stem",
    )
    print("".join(f"{column:>13}" for column in columns))
    for library in ("timm", "torchvision", "transformers"):
        of = [r for r in results.values() if r.key.startswith(library + "/") and not r.unjudged.startswith("build")]
        known = [r for r in of if r.true_heads is not None]
        seen = [r for r in of if r.true_stems is not None]
        either = sum(bool(r.false("heads") or r.missed("heads")) for r in known)
        cells = [len(of), sum(bool(r.error) for r in of), len(known)]
        cells += [sum(bool(r.false("heads")) for r in known), sum(bool(r.missed("heads")) for r in known), either]
        cells += [sum(bool(r.false("stems")) for r in seen), sum(bool(r.missed("stems")) for r in seen)]
        print(f"{library:>13}" + "".join(f"{cell:13}" for cell in cells))
    slowest = max(results.values(), key=lambda r: r.seconds)
    per = max((r for r in results.values() if r.count), key=lambda r: r.seconds / r.count)
    print(f"slowest: {slowest.key}, {slowest.count} parameters, {slowest.seconds:.2f} s; ", end="")
    print(f"per parameter: {per.key}, {per.count} in {per.seconds:.3f} s")
    if wrong:
        for result in results.values():
            for what in ("heads", "stems"):
                if result.false(what) or result.missed(what):
                    print(f"{result.key} {what}: false {result.false(what)[:6]} missed {result.missed(what)[:6]}")
            if result.error:
                print(f"{result.key} route fails: {result.error}")
    print("not judged:", dict(Counter(r.unjudged.split(":")[0] for r in results.values() if r.unjudged)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/heads.jsonl"), help="the file of results, continued")
    parser.add_argument("--libraries", nargs="*", default=["timm", "torchvision", "transformers"])
    parser.add_argument("--tasks", nargs="*", default=[], help="of transformers: BASE, CAUSAL_LM, ...; all without it")
    parser.add_argument("--truth", type=Path, help="a file of results, whose oracle is taken over: routes anew alone")
    parser.add_argument("--only", nargs="*", help="these models alone")
    parser.add_argument("--summary", action="store_true", help="print what is in the file, run nothing")
    parser.add_argument("--wrong", action="store_true", help="name each wrong parameter")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    results, truth = read(arguments.out), read(arguments.truth) if arguments.truth else {}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if not arguments.summary:
        makers = {
            "timm": timm_cases,
            "torchvision": torchvision_cases,
            "transformers": lambda: transformers_cases(arguments.tasks),
        }
        with arguments.out.open("a", encoding="utf-8") as file:
            for case in (case for library in arguments.libraries for case in makers[library]()):
                if case.key in results or (arguments.only and case.name not in arguments.only):
                    continue
                result = judged(case, truth.get(case.key))
                results[case.key] = result
                file.write(json.dumps(asdict(result)) + "\n")
                file.flush()
    print_summary(results, arguments.wrong)


if __name__ == "__main__":
    main()
