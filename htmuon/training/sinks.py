"""Where a run's metrics go beside its own files: TensorBoard and Weights & Biases, imported where they are used.

Both get the lines of `metrics.jsonl` as `train/loss`, `train/lr`, `test/loss`, ..., and of the spectra that a
monitor records `weights/alpha_ks` and its like. They change no number of the run.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from htmuon._extras import require
from htmuon._files import write_json
from htmuon.analysis.record_log import Record
from htmuon.analysis.tensorboard import summary_writer
from htmuon.training.run_config import RunConfig

TENSORBOARD, WANDB = "tensorboard", "wandb.json"


class Sink(Protocol):
    """Takes the metrics of one run; what it raises is reported, and does not reach the run."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Note finite values at a step."""

    def close(self, *, failed: bool) -> None:
        """Write what is not written yet; `failed` if the run ended before its time."""


class TensorBoard:
    """Scalars for `tensorboard --logdir`, in the folder `tensorboard` of the run.

    Args:
        folder: of the run.
        first_step: steps done; what an interrupted process noted of later ones is hidden.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        # A run that starts again hides what was noted before its first step, too.
        self._writer = summary_writer(folder / TENSORBOARD, step=first_step or -1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add scalars."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def close(self, *, failed: bool) -> None:
        """Flush and close the file."""
        self._writer.close()


class WeightsAndBiases:
    """A run of a Weights & Biases project; `WANDB_MODE=offline` needs no network and no account.

    The run's folder remembers its id and what was sent in `wandb.json`. So an interrupted run resumes as the same one,
    and steps that are repeated are not sent again.

    Args:
        config: with the project; all settings are sent.
        folder: of the run.
    """

    def __init__(self, config: RunConfig, folder: Path) -> None:
        wandb = require("wandb", extra="wandb")
        self._path, self._project = folder / WANDB, config.wandb
        known = json.loads(self._path.read_text()) if self._path.exists() else {}
        if known.get("project") != config.wandb:
            known = {}
        optimizer = config.optimizer
        self._run: Any = wandb.init(
            project=config.wandb,
            id=known.get("id"),
            resume="allow",
            name=f"{optimizer.name} lr {optimizer.lr:.3g} seed {config.seed}",
            group=config.recipe,
            job_type=config.split,
            config=config.to_dict(),
            dir=str(folder),
            reinit="create_new",  # a run that the caller has open stays open
            settings=wandb.Settings(console="off", silent=True),
        )
        self._sent: dict[str, int] = known.get("sent", {})
        self._remember()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of a step, if those of their kind were not logged before the run was interrupted."""
        fresh = {tag: value for tag, value in values.items() if step > self._sent.get(_kind(tag), -1)}
        if fresh:
            self._run.log(fresh, step=step)
            self._sent |= dict.fromkeys(map(_kind, fresh), step)
            self._remember()

    def close(self, *, failed: bool) -> None:
        """Finish the run there."""
        self._run.finish(exit_code=int(failed))

    def _remember(self) -> None:
        write_json(self._path, {"project": self._project, "id": self._run.id, "sent": self._sent})


class Sinks:
    """The sinks of a run as one; one that fails is named once and left out from then on. A context manager.

    It is also a `ScalarWriter`, for a `SpectralMonitor`.

    Args:
        sinks: what makes each, by its name for readers.
        on_message: called with a sentence about a failure.
    """

    def __init__(self, sinks: Mapping[str, Callable[[], Sink]], on_message: Callable[[str], None]) -> None:
        self._on_message = on_message
        self._open: dict[str, Sink] = {}
        self._scalars: dict[str, float] = {}
        self._step = 0
        for name, make in sinks.items():
            with self._telling(name):
                self._open[name] = make()

    def __len__(self) -> int:
        return len(self._open)

    def write(self, *records: Record) -> None:
        """Pass on lines of the log of a run."""
        self._flush()
        for record in records:
            self._send(record["step"], scalars(record))

    def add_scalar(self, tag: str, value: float, step: int, /) -> None:
        """Take one value; those of one step are passed on together."""
        if step != self._step:
            self._flush()
        self._step = step
        self._scalars[tag] = value

    def close(self, *, failed: bool = False) -> None:
        """Close all."""
        self._flush()
        for name, sink in list(self._open.items()):
            with self._telling(name):
                sink.close(failed=failed)
        self._open = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)

    def _flush(self) -> None:
        values, self._scalars = self._scalars, {}
        self._send(self._step, values)

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        for name, sink in list(self._open.items()) if values else []:
            with self._telling(name):
                sink.write(step, values)

    @contextlib.contextmanager
    def _telling(self, name: str) -> Iterator[None]:
        """Whatever a sink raises must not end the training."""
        try:
            yield
        except Exception as error:
            sink = self._open.pop(name, None)
            with contextlib.suppress(Exception):
                if sink is not None:
                    sink.close(failed=True)
            self._on_message(
                f"{name} failed ({type(error).__name__}: {error}). The run continues without it; "
                "its metrics.jsonl has every number."
            )


def check_sinks(config: RunConfig) -> None:
    """Make sure that the libraries of the sinks that the settings ask for are installed.

    Args:
        config: the settings of a run.

    Raises:
        ImportError: one is not; the message names the extra.
    """
    if config.tensorboard:
        require("tensorboard", extra="tensorboard")
    if config.wandb:
        require("wandb", extra="wandb")


def open_sinks(config: RunConfig, folder: Path, first_step: int, on_message: Callable[[str], None]) -> Sinks:
    """The sinks that the settings ask for.

    Args:
        config: the settings of the run.
        folder: of the run; it exists.
        first_step: steps done.
        on_message: called with a sentence about a sink that fails.
    """
    sinks: dict[str, Callable[[], Sink]] = {}
    if config.tensorboard:
        sinks["TensorBoard"] = lambda: TensorBoard(folder, first_step)
    if config.wandb:
        sinks["Weights & Biases"] = lambda: WeightsAndBiases(config, folder)
    return Sinks(sinks, on_message)


def scalars(record: Record) -> dict[str, float]:
    """The finite numbers of a line of `metrics.jsonl`, as `<kind>/<quantity>`.

    Example:
        >>> scalars({"kind": "train", "step": 10, "loss": 2.5, "seconds_per_step": 0.25})
        {'train/loss': 2.5, 'train/seconds_per_step': 0.25, 'train/steps_per_second': 4.0}
        >>> scalars({"kind": "evaluation", "step": 10, "loss": 2.0, "split": "test"})
        {'test/loss': 2.0}
    """
    kind = record["split"] if record["kind"] == "evaluation" else record["kind"]
    values = {key: value for key, value in record.items() if key != "step" and isinstance(value, int | float)}
    if values.get("seconds_per_step"):
        values["steps_per_second"] = 1 / values["seconds_per_step"]
    return {f"{kind}/{key}": float(value) for key, value in values.items() if math.isfinite(value)}


def _kind(tag: str) -> str:
    return tag.partition("/")[0]
