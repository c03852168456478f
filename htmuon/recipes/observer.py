"""What a training run tells the outside while it runs."""

from typing import Protocol

from htmuon.recipes.config import RunConfig
from htmuon.recipes.result import RunResult


class Observer(Protocol):
    """Receives the events of a run; it must not change the run."""

    def on_start(self, run: RunConfig, first_step: int) -> None:
        """The run starts, or goes on, at `first_step` (the number of steps already done)."""

    def on_step(self, step: int, loss: float, seconds: float) -> None:
        """`step` steps are done; mean training loss and median seconds per step since the last call (log_interval)."""

    def on_evaluation(self, step: int, loss: float) -> None:
        """The loss on the held-out documents after `step` steps."""

    def on_message(self, text: str) -> None:
        """Something that the user should read."""

    def on_finish(self, result: RunResult) -> None:
        """The run is finished and its files are written."""


class SilentObserver:
    """Ignores every event."""

    def on_start(self, run: RunConfig, first_step: int) -> None:
        """Do nothing."""

    def on_step(self, step: int, loss: float, seconds: float) -> None:
        """Do nothing."""

    def on_evaluation(self, step: int, loss: float) -> None:
        """Do nothing."""

    def on_message(self, text: str) -> None:
        """Do nothing."""

    def on_finish(self, result: RunResult) -> None:
        """Do nothing."""
