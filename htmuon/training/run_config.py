"""The complete settings of one training run, and their JSON form."""

import dataclasses
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Protocol, TypeVar, get_args

import torch

from htmuon._checks import check_flag, check_number, check_text, check_whole
from htmuon._device import RunPrecision
from htmuon._registry import Registry, unknown_name
from htmuon.baselines.specs import Matrices
from htmuon.training.task import TaskKind, TaskSource

T = TypeVar("T")
C = TypeVar("C")

# Settings of `RunConfig` that change no number of a run: it may resume with others.
WITHOUT_EFFECT = ("tensorboard", "wandb", "workers", "parallel")

DataSplit = Literal["validation", "test", "confirmation"]
Parallelism = Literal["ddp", "fsdp2"]


class DataConfig(ABC):
    """The settings of one kind of data: a frozen dataclass, registered in `DATA`.

    Attributes:
        kind: its name in JSON.
        task: what is learned from it.
        path: where it is; "" stands for what comes with the package, or has a name elsewhere.
        targets_vary: whether batches have unequal numbers of targets, so that those of a step are weighted together.
    """

    kind: ClassVar[str]
    task: ClassVar[TaskKind]
    targets_vary: ClassVar[bool] = False
    path: str

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path or "the data inside the package"

    @property
    def tokens_per_example(self) -> int:
        """What the model learns from in one example: tokens of a sequence, or one image."""
        return 1

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes that a model needs to be built, as far as they are known without reading the data."""
        return {}

    @abstractmethod
    def open(self, run: "RunConfig") -> TaskSource:
        """Read the data that the settings name.

        Raises:
            ValueError: it cannot be read, or is not what the task needs.
        """


class ModelConfig(Protocol):
    """The shape of one kind of model: a frozen dataclass, registered in `MODELS`.

    Attributes:
        kind: its name in JSON.
        task: what it learns.
        noun: what readers call it.
    """

    kind: ClassVar[str]
    task: ClassVar[TaskKind]
    noun: ClassVar[str]

    @property
    def build_model(self) -> Callable[..., torch.nn.Module]:
        """From the sizes of the data and a seed the network with its initial weights, on the CPU."""


# By `kind`. A new kind is one file that registers a dataclass.
DATA: Registry[type[DataConfig]] = Registry("data.kind")
MODELS: Registry[type[ModelConfig]] = Registry("model.kind")


def register_kind(kinds: Registry[type[T]]) -> Callable[[type[C]], type[C]]:
    """A decorator that puts a dataclass into `DATA` or `MODELS` under its `kind`."""

    def put(config: type[C]) -> type[C]:
        kinds.register(config.kind)(config)  # type: ignore[attr-defined, arg-type]  # mypy has no intersection types
        return config

    return put


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """An optimizer and its learning rates.

    Args:
        name: a spec such as "htmuon" or "htmuon:power=0.25,normalization=rms"; see `htmuon list`.
        lr: peak learning rate of the hidden matrices (of every parameter for "adamw").
        adamw_lr: peak learning rate of the other parameters; "adamw" does not use it.
        weight_decay: decoupled weight decay of every parameter.
        matrices: what the spectral side gets where `name` does not say: "hidden" matrices, as `htmuon.param_groups`
            finds them, or "all" parameters of two and more dims, embeddings and output head too.
    """

    name: str = "htmuon"
    lr: float = 0.02
    adamw_lr: float = 3e-3
    weight_decay: float = 0.1
    matrices: Matrices = "hidden"

    def __post_init__(self) -> None:
        if self.matrices not in get_args(Matrices):
            raise unknown_name("matrices", self.matrices, list(get_args(Matrices)))
        check_text("optimizer name", self.name)
        check_number("lr", self.lr, above=0.0)
        check_number("adamw_lr", self.adamw_lr, above=0.0)
        check_number("weight_decay", self.weight_decay)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides the result of a training run.

    Args:
        recipe: the name of the recipe that the run was made from.
        data: the text, or the images.
        model: the network, a LLaMA or GPT-2 for text, a ResNet or a vision transformer for images.
        optimizer: the optimizer.
        steps: optimizer steps.
        batch_size: sequences, or images, in one forward pass.
        accumulation: forward passes whose gradients make one step.
        warmup_fraction: share of the steps with a rising learning rate.
        final_lr_fraction: learning rate of the last step, as a share of the peak.
        seed: decides the initial weights and the order of the data; of streamed text the order of its files alone.
        split: the documents or images to evaluate on: "validation" while settings are chosen, "test" for results,
            "confirmation" for those of a winner: a 16th of the training data, which is not trained on then.
        precision: of the forward and backward pass; "auto" is bfloat16 autocast on CUDA and float32 elsewhere.
            Weights are always float32.
        parallel: how several processes (`torchrun`) hold the model: "ddp", each the whole, or "fsdp2", each a slice of
            every parameter. Each takes an equal share of every batch.
        device: "auto", "cpu", "cuda" or "cuda:<index>".
        eval_interval: steps between evaluations; the last step is always evaluated.
        log_interval: steps between lines of the training log.
        checkpoint_interval: steps between checkpoints.
        monitor_every: steps between records of the spectra of all hidden matrices; None takes no records.
        max_skipped_steps: the run stops when this many steps were skipped because of gradients that are not finite.
        max_grad_norm: clip the norm of the whole gradient to this, if given.
        tensorboard: write the metrics to the folder `tensorboard` of the run, too.
        wandb: send the metrics to this project of Weights & Biases, too; with WANDB_MODE=offline they stay here.
        ema_decay: evaluate and store an exponential moving average of the weights with this decay, if given.
        workers: processes that decode images which are not held in memory, those of the recipes vit-*; others take no
            notice of it. None is one per CPU core but one, at most 16; 0 decodes between the steps.
    """

    recipe: str
    data: DataConfig
    model: ModelConfig
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    steps: int
    batch_size: int
    accumulation: int = 1
    warmup_fraction: float = 0.1
    final_lr_fraction: float = 0.1
    seed: int = 0
    split: DataSplit = "test"
    precision: RunPrecision = "auto"
    parallel: Parallelism = "ddp"
    device: str = "auto"
    eval_interval: int
    log_interval: int
    checkpoint_interval: int
    monitor_every: int | None = None
    max_skipped_steps: int = 20
    max_grad_norm: float | None = None
    tensorboard: bool = False
    wandb: str = ""
    ema_decay: float | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        check_text("recipe", self.recipe)
        check_text("wandb", self.wandb)
        check_flag("tensorboard", self.tensorboard)
        check_text("device", self.device)
        counts = ("steps", "batch_size", "accumulation", "eval_interval", "log_interval", "checkpoint_interval")
        for name in (*counts, "max_skipped_steps"):
            check_whole(name, getattr(self, name), 1)
        if self.monitor_every is not None:
            check_whole("monitor_every", self.monitor_every, 1)
        check_whole("seed", self.seed, 0, most=2**63 - 1)  # torch keeps seeds in 64 bits
        check_number("warmup_fraction", self.warmup_fraction, most=1.0)
        check_number("final_lr_fraction", self.final_lr_fraction, most=1.0)
        if self.max_grad_norm is not None:
            check_number("max_grad_norm", self.max_grad_norm, above=0.0)
        if self.workers is not None:
            check_whole("workers", self.workers, 0)
        if self.ema_decay is not None:
            check_number("ema_decay", self.ema_decay, below=1.0)
        if self.data.task != self.model.task:
            models = " or ".join(kind.__name__ for _, kind in MODELS.items() if kind.task == self.data.task)
            raise ValueError(
                f"data and model must be of one task: {type(self.data).__name__} goes with {models}; "
                f"got {type(self.model).__name__}."
            )
        if self.split not in get_args(DataSplit):
            raise unknown_name("split", self.split, list(get_args(DataSplit)))
        if self.parallel not in get_args(Parallelism):
            raise unknown_name("parallel", self.parallel, list(get_args(Parallelism)))
        if self.precision not in get_args(RunPrecision):
            raise unknown_name("precision", self.precision, list(get_args(RunPrecision)))

    @property
    def tokens_per_step(self) -> int:
        """Training tokens in one optimizer step; images for a task on images."""
        return self.batch_size * self.accumulation * self.data.tokens_per_example

    def to_dict(self) -> dict[str, Any]:
        """The settings as a dict of plain values that JSON can hold; data and model say their `kind`."""
        plain = dataclasses.asdict(self)
        for name, part in (("data", self.data), ("model", self.model)):
            plain[name] = {"kind": part.kind, **plain[name]}
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunConfig":
        """The inverse of `to_dict`; settings left out take their defaults.

        Raises:
            ValueError: a setting is unknown, missing without a default, or not valid.

        Example:
            >>> from htmuon.recipes import RECIPES
            >>> config = RECIPES["llama-tiny"]()
            >>> RunConfig.from_dict(config.to_dict()) == config
            True
        """
        parts: dict[str, Any] = {
            "data": lambda given: _of_kind(DATA, given),
            "model": lambda given: _of_kind(MODELS, given),
            "optimizer": lambda given: _from_mapping(OptimizerConfig, given),
        }
        return _from_mapping(
            cls, {name: parts[name](given) if name in parts else given for name, given in values.items()}
        )


def _of_kind(kinds: Registry[type[T]], values: Mapping[str, Any]) -> T:
    """The dataclass that the settings name as their `kind`."""
    importlib.import_module("htmuon.data")  # where the kinds register themselves, above this room
    if not isinstance(values, Mapping) or not isinstance(values.get("kind", ""), str):
        raise TypeError(f"{kinds.kind} must be a name in a dict of settings; got {values!r}.")
    if "kind" not in values:
        raise ValueError(
            f"{kinds.kind} must be given; the settings have none, as those that versions before 0.1.0 wrote. "
            "Train anew in another folder."
        )
    return _from_mapping(kinds[values["kind"]], {name: value for name, value in values.items() if name != "kind"})


def _from_mapping(cls: type[T], values: Mapping[str, Any]) -> T:
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    names = [field.name for field in fields]
    for name in values:
        if name not in names:
            raise unknown_name(f"a setting of {cls.__name__}", name, names)
    no_default = dataclasses.MISSING
    needed = [f.name for f in fields if f.default is no_default and f.default_factory is no_default]
    missing = [name for name in needed if name not in values]
    if missing:
        raise ValueError(f"{cls.__name__} needs {', '.join(missing)}, which have no default; add them.")
    return cls(**values)


# Functions that return the settings of a run, by name; the room `recipes` fills it.
RECIPES: Registry[Callable[[], RunConfig]] = Registry("recipe")


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name.

    Example:
        >>> flat_settings({"steps": 3, "data": {"path": ""}})
        {'steps': 3, 'data.path': ''}
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flat_settings(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
