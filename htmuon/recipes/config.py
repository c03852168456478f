"""The complete settings of one training run, and their JSON form."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar, get_args

from htmuon._registry import unknown_name
from htmuon.recipes.checks import check_number, check_text, check_whole
from htmuon.recipes.llm.gpt2_config import GPT2Config
from htmuon.recipes.llm.stream_config import StreamConfig
from htmuon.recipes.task_kind import TaskKind
from htmuon.recipes.vision.config import ImageDataConfig, ImageStreamConfig, ResNetConfig, ViTConfig

T = TypeVar("T")

# Settings of `RunConfig` that change no number of a run: it may go on with others.
WITHOUT_EFFECT = ("tensorboard", "wandb", "workers", "parallel")

HeldOut = Literal["tuning", "report"]
Matrices = Literal["hidden", "all"]
Precision = Literal["auto", "float32", "bfloat16"]
Parallelism = Literal["ddp", "fsdp2"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    r"""The text of a language-model run.

    Args:
        path: a text file, or a folder of `*.txt` files; "" is the State of the Union addresses inside the package.
        separator: what stands between two documents of a file (`\n` may be spelled out); not used for path "".
        vocab_size: entries of the byte-level BPE vocabulary, at least 257 (256 bytes and the end token).
        sequence_length: tokens that the model sees at once.
    """

    task: ClassVar[TaskKind] = "language"

    path: str = ""
    separator: str = "<|endoftext|>"
    vocab_size: int = 4096
    sequence_length: int = 128

    def __post_init__(self) -> None:
        check_text("path", self.path)
        check_text("separator", self.separator)
        if not self.separator:
            raise ValueError("separator must not be empty; a blank line, for instance, is '\\n\\n'.")
        check_whole("vocab_size", self.vocab_size, 257)
        check_whole("sequence_length", self.sequence_length, 2)

    @property
    def tokens_per_example(self) -> int:
        """Tokens that the model learns from in one sequence."""
        return self.sequence_length


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a LLaMA with separate input and output embeddings.

    Args:
        hidden_size: width of the residual stream.
        intermediate_size: width of the gated MLP.
        num_layers: number of decoder blocks.
        num_heads: attention heads; `hidden_size / num_heads` must be a whole even number.
    """

    task: ClassVar[TaskKind] = "language"
    noun: ClassVar[str] = "LLaMA language model"

    hidden_size: int = 128
    intermediate_size: int = 352
    num_layers: int = 6
    num_heads: int = 4

    def __post_init__(self) -> None:
        for name in ("hidden_size", "intermediate_size", "num_layers", "num_heads"):
            check_whole(name, getattr(self, name), 1)
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size must be a multiple of 2 * num_heads, because rotary embeddings turn pairs of channels; "
                f"got hidden_size={self.hidden_size}, num_heads={self.num_heads}."
            )


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


# Each says by its `task` which models go with which data.
Data = DataConfig | StreamConfig | ImageDataConfig | ImageStreamConfig
Model = ModelConfig | GPT2Config | ResNetConfig | ViTConfig


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
        evaluate_on: the held-out documents or images to evaluate on: "tuning" while settings are chosen, "report" for
            results.
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
    data: Data = dataclasses.field(default_factory=DataConfig)
    model: Model = dataclasses.field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    steps: int
    batch_size: int
    accumulation: int = 1
    warmup_fraction: float = 0.1
    final_lr_fraction: float = 0.1
    seed: int = 0
    evaluate_on: HeldOut = "report"
    precision: Precision = "auto"
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
        if not isinstance(self.tensorboard, bool):
            raise TypeError(f"tensorboard must be True or False; got {self.tensorboard!r}.")
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
            models = " or ".join(kind.__name__ for kind in get_args(Model) if kind.task == self.data.task)
            raise ValueError(
                f"data and model must be of one task: {type(self.data).__name__} goes with {models}; "
                f"got {type(self.model).__name__}."
            )
        if self.evaluate_on not in get_args(HeldOut):
            raise unknown_name("evaluate_on", self.evaluate_on, list(get_args(HeldOut)))
        if self.parallel not in get_args(Parallelism):
            raise unknown_name("parallel", self.parallel, list(get_args(Parallelism)))
        if self.precision not in get_args(Precision):
            raise unknown_name("precision", self.precision, list(get_args(Precision)))

    @property
    def tokens_per_step(self) -> int:
        """Training tokens in one optimizer step; images for a task on images."""
        return self.batch_size * self.accumulation * self.data.tokens_per_example

    def to_dict(self) -> dict[str, Any]:
        """The settings as a dict of plain values that JSON can hold."""
        return dataclasses.asdict(self)

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
        parts: dict[str, list[type[Any]]] = {
            "data": list(get_args(Data)),
            "model": list(get_args(Model)),
            "optimizer": [OptimizerConfig],
        }
        nested: dict[str, Any] = {
            name: _from_mapping(_most_alike(kinds, values[name]), values[name])
            for name, kinds in parts.items()
            if name in values
        }
        return _from_mapping(cls, {**values, **nested})


def _most_alike(kinds: Sequence[type[T]], values: Mapping[str, Any]) -> type[T]:
    """The dataclass with just the settings in `values`, or else the first of those that have the most of them."""

    def likeness(kind: type[T]) -> tuple[bool, int]:
        names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        return names == set(values), len(names & set(values))

    return max(kinds, key=likeness)


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
