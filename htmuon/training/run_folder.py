"""The folder of one run: whose it is, who writes in it, and what it holds."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from htmuon._files import LOCK, locked, write_json
from htmuon.training.run_config import WITHOUT_EFFECT, RunConfig
from htmuon.training.run_result import RunResult

CONFIG = "config.json"


class RunFolder:
    """One run's files.

    Args:
        path: the folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.weights = path / "model.safetensors"
        self.spectra = path / "spectra.safetensors"
        self.monitor = path / "spectra.jsonl"
        self.result = path / "result.json"

    def check(self, config: RunConfig) -> None:
        """Make sure, without a change, that the folder is new, empty, or that of a run with these settings.

        Raises:
            ValueError: it is something else.
        """
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise ValueError(f"a run needs a folder; {self.path} is a file. Choose another path.")
        stored = self.path / CONFIG
        if stored.exists():
            different = _differences(_read_config(stored), config.to_dict())
            if different:
                raise ValueError(
                    f"{self.path} holds a run with other settings ({'; '.join(different)}). "
                    "Choose another folder, or the same settings to resume that run."
                )
            return
        # What a process that was killed before it could write the settings may have left.
        foreign = sorted({file.name for file in self.path.iterdir()} - {LOCK, f".{CONFIG}.new"})
        if foreign:
            raise ValueError(
                f"a run needs a folder of its own; {self.path} has no {CONFIG} but {', '.join(foreign[:3])}"
                f"{' and more' if len(foreign) > 3 else ''}. Choose a new or empty folder."
            )

    def check_data(self, config: RunConfig, stored: str, given: str) -> None:
        """Make sure that the run's data is what it was.

        Args:
            config: the settings of the run.
            stored: the fingerprint of the data that the run was started with.
            given: that of the data there is now.

        Raises:
            ValueError: it is not.
        """
        if stored != given:
            raise ValueError(
                f"the data at {config.data.name!r} changed since the run in {self.path} was started; "
                "choose a new folder, or restore the data."
            )

    def stored_result(self) -> RunResult | None:
        """The result, if the run is finished.

        Raises:
            ValueError: the file of the result is damaged.
        """
        if not self.result.exists():
            return None
        try:
            return RunResult.from_dict(json.loads(self.result.read_text()))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.result} is damaged ({error!r}); delete it to train this run again.") from error

    @contextmanager
    def opened(self, config: RunConfig) -> Iterator[None]:
        """Make the folder, keep other processes out of it while the context is open, and store the settings.

        Raises:
            ValueError: the folder cannot be written, another process trains in it, or it is another run's.
        """
        with locked(self.path, "training"):
            self.check(config)
            if not (self.path / CONFIG).exists():
                write_json(self.path / CONFIG, config.to_dict())
            yield

    def remove_checkpoints(self) -> None:
        """Free the space of the checkpoints; a finished run needs none."""
        if self.checkpoints.exists():
            shutil.rmtree(self.checkpoints)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return RunConfig.from_dict(json.loads(path.read_text())).to_dict()
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise ValueError(f"{path} is not the settings of a run ({error}). Choose another folder.") from error


def _differences(stored: dict[str, Any], given: dict[str, Any], prefix: str = "") -> list[str]:
    phrases = []
    for name, value in given.items():
        if isinstance(value, dict):
            phrases += _differences(stored[name], value, f"{name}.")
        elif stored[name] != value and name not in WITHOUT_EFFECT:
            phrases.append(f"{prefix}{name} is {stored[name]!r} there and {value!r} here")
    return phrases
