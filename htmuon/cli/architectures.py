"""Architectures of other libraries by name, built on the meta device: modules and shapes, without numbers."""

import difflib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from htmuon._extras import require

# Where to look for a name, in this order, and the extra that brings the library.
LIBRARIES = {"transformers": "train", "timm": "vision", "torchvision": "vision"}
# With which head a model type is built: that of the first of transformers' auto classes that knows it.
AUTO_CLASSES = (
    "AutoModelForCausalLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForImageTextToText",
    "AutoModelForMultimodalLM",
    "AutoModelForMaskedLM",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForCTC",
    "AutoModelForRNNT",
    "AutoModelForTDT",
    "AutoModelForImageClassification",
    "AutoModelForObjectDetection",
    "AutoModelForZeroShotObjectDetection",
    "AutoModelForUniversalSegmentation",
    "AutoModelForInstanceSegmentation",
    "AutoModelForSemanticSegmentation",
    "AutoModelForDepthEstimation",
    "AutoModelForVideoClassification",
    "AutoModelForZeroShotImageClassification",
    "AutoModelForMaskGeneration",
    "AutoModelForImageToImage",
    "AutoModelForKeypointDetection",
    "AutoModelForKeypointMatching",
    "AutoModelForPoseEstimation",
    "AutoModelForTextToWaveform",
    "AutoModelForTextToSpectrogram",
    "AutoModelForAudioTokenization",
    "AutoModelForTimeSeriesPrediction",
    "AutoModelForSequenceClassification",
    "AutoModelForPreTraining",
    "AutoModel",
)


@dataclass(frozen=True)
class Architecture:
    """A model that can be built.

    Attributes:
        library: which it is of.
        name: the name there; of a folder, its path.
        build: makes it on the meta device.
    """

    library: str
    name: str
    build: Callable[[], nn.Module]


def find(name: str) -> Architecture:
    """The architecture of a name.

    Args:
        name: a folder with a `config.json` of transformers, or that file; a model type or class of transformers; a
            model of timm or torchvision. `LIBRARY:NAME` looks in one library alone.

    Raises:
        ImportError: a library that is asked for is not installed.
        ValueError: nothing has the name.
    """
    path = Path(name)
    if path.is_file() or (path / "config.json").is_file():
        return _of_folder(path)
    library, colon, inner = name.partition(":")
    if colon and library not in LIBRARIES:
        raise ValueError(f"the library must be one of {', '.join(LIBRARIES)}; got {library!r} in {name!r}.")
    looked = [library] if colon else list(LIBRARIES)
    wanted = inner if colon else name
    if colon:
        require(library, LIBRARIES[library])
    there = [each for each in looked if importlib.util.find_spec(each) is not None]
    for each in there:
        if wanted in names(each) or (each == "transformers" and _class_of(wanted) is not None):
            return architecture(each, wanted)
    if path.is_dir():
        return _of_folder(path)
    raise _unknown(wanted, there, [each for each in looked if each not in there])


def architecture(library: str, name: str) -> Architecture:
    """The architecture of a name that a library has."""
    return Architecture(library, name, lambda: _built(library, name))


def names(library: str) -> list[str]:
    """All names that a library builds: model types of transformers, models of the others."""
    if library == "transformers":
        mapping = require("transformers.models.auto.configuration_auto")
        return sorted(mapping.CONFIG_MAPPING_NAMES)
    models = require(f"{library}.models", LIBRARIES[library])
    return sorted(models.list_models() if library == "torchvision" else require("timm", "vision").list_models())


def _unknown(name: str, there: list[str], missing: list[str]) -> ValueError:
    """The error for a name that no library has: what is like it, and what was not looked into."""
    close = difflib.get_close_matches(name, [known for library in there for known in names(library)], n=3)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    extras = sorted({LIBRARIES[library] for library in missing})
    more = f' Not installed: {", ".join(missing)}; pip install "htmuon[{",".join(extras)}]".' if missing else ""
    return ValueError(
        "an architecture must be a folder with config.json, or a name of transformers, timm or torchvision; got "
        f"{name!r}, which is neither here nor known to {', '.join(there) or 'a library'}. Nothing is downloaded: of a "
        f"model on the Hub fetch config.json first.{hint}{more}"
    )


def _of_folder(path: Path) -> Architecture:
    file = path / "config.json" if path.is_dir() else path
    if not file.exists():
        raise ValueError(f"a model folder must hold a config.json; {path} has none. Save it by save_pretrained first.")
    transformers = require("transformers")

    def build() -> nn.Module:
        config = transformers.AutoConfig.from_pretrained(file.parent if path.is_dir() else file)
        named = [getattr(transformers, each, None) for each in config.architectures or []]
        kind = next((each for each in named if each is not None), None)
        make = _with_a_head if kind is None else kind._from_config
        return _on_meta(lambda: make(_without_weights(config)))

    return Architecture("transformers", str(path), build)


def _built(library: str, name: str) -> nn.Module:
    if library == "timm":
        return _on_meta(lambda: require("timm", "vision").create_model(name, pretrained=False))
    if library == "torchvision":
        return _on_meta(lambda: _of_torchvision(name))
    kind = _class_of(name)
    if kind is not None:
        return _on_meta(lambda: kind._from_config(_without_weights(kind.config_class())))
    config = require("transformers").AutoConfig.for_model(name)
    return _on_meta(lambda: _with_a_head(_without_weights(config)))


def _of_torchvision(name: str) -> Any:
    """Detectors and segmentation networks bring a backbone, whose weights are to be left out as well."""
    models = require("torchvision.models", "vision")
    backbone = "weights_backbone" in models.get_model_builder(name).__annotations__
    return models.get_model(name, weights=None, **({"weights_backbone": None} if backbone else {}))


def _class_of(name: str) -> Any:
    """The model class of transformers of this name, or None."""
    kind = getattr(require("transformers"), name, None) if name[:1].isupper() else None
    return kind if isinstance(kind, type) and getattr(kind, "config_class", None) is not None else None


def _with_a_head(config: Any) -> Any:
    """The model of a configuration with the head of the first auto class that builds it.

    A configuration of text and images can be known to an auto class for text alone, which then misses settings.
    """
    transformers = require("transformers")
    failures: list[Exception] = []
    for auto in AUTO_CLASSES:
        mapping = getattr(transformers, auto)._model_mapping if hasattr(transformers, auto) else {}
        if type(config) in mapping:
            kinds = mapping[type(config)]
            try:
                return (kinds[0] if isinstance(kinds, tuple) else kinds)._from_config(config)
            except Exception as error:
                failures.append(error)
    if failures:
        raise ValueError(
            f"transformers must build model type {config.model_type!r} from its configuration; it raises "
            f"{type(failures[0]).__name__}: {failures[0]}. Give a folder with a complete config.json."
        )
    raise ValueError(
        f"transformers must have a model for the configuration; got model type {config.model_type!r}, a part of "
        "others. Give the name of a whole model, or of a class."
    )


def _without_weights(config: Any) -> Any:
    """A configuration that downloads no weights of a backbone."""
    for part in (config, *(value for value in vars(config).values() if hasattr(value, "model_type"))):
        if getattr(part, "use_pretrained_backbone", False):
            part.use_pretrained_backbone = False
    return config


def _on_meta(build: Callable[[], Any]) -> nn.Module:
    with _quiet(), torch.device("meta"):
        model = build()
    assert isinstance(model, nn.Module)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' remarks on default settings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if importlib.util.find_spec("transformers") is None:
            yield
            return
        logging = require("transformers.utils.logging")
        before = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            yield
        finally:
            logging.set_verbosity(before)
