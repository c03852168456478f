"""What a comparison tells the outside while it runs."""

from collections.abc import Sequence
from typing import Protocol

from htmuon.recipes.observer import Observer, SilentObserver
from htmuon.recipes.summary import OptimizerSummary


class Display(Observer, Protocol):
    """Receives the events of a comparison and of each of its runs; it must not change them."""

    def on_plan(self, runs: int, steps_per_run: int) -> None:
        """So many runs are planned; called again when the search for a learning rate needs more."""

    def on_run(self, title: str) -> None:
        """A run begins, or is taken from the folder if it is finished already."""

    def on_table(self, summaries: Sequence[OptimizerSummary]) -> None:
        """The results so far."""


class SilentDisplay(SilentObserver):
    """Ignores every event."""

    def on_plan(self, runs: int, steps_per_run: int) -> None:
        """Do nothing."""

    def on_run(self, title: str) -> None:
        """Do nothing."""

    def on_table(self, summaries: Sequence[OptimizerSummary]) -> None:
        """Do nothing."""
