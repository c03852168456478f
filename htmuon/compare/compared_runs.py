"""The runs of one comparison: where each has its folder, and how many there will be."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from htmuon._files import slug
from htmuon.baselines.specs import has_separate_rates
from htmuon.compare.compare_config import CompareConfig
from htmuon.compare.jobs import Display, Jobs
from htmuon.compare.labels import label
from htmuon.compare.run_record import RunRecord
from htmuon.training.run_config import DataSplit

S = TypeVar("S")
T = TypeVar("T")


@dataclass
class Runs:
    """The runs of one comparison in one call.

    Attributes:
        config: what is compared.
        display: notified of the events.
        jobs: what trains.
        planned: how many runs are known to be needed.
    """

    config: CompareConfig
    display: Display
    jobs: Jobs
    planned: int = 0

    def plan(self, runs: int) -> None:
        """Tell the display of that many more runs."""
        with self.jobs.lock:
            self.planned += runs
            self.display.on_plan(self.planned, self.config.run.steps)

    def each(self, function: Callable[[S], T], items: Iterable[S], /) -> Iterator[T]:
        """What `map` gives; `function` may train."""
        return self.jobs.each(function, items)

    def train(self, split: DataSplit, spec: str, lr: float, adamw_lr: float, seed: int) -> RunRecord:
        """Train one run, or find it finished.

        Args:
            split: on which data it is evaluated.
            spec: the optimizer.
            lr: learning rate of the matrices.
            adamw_lr: that of the other parameters, where the optimizer has one.
            seed: of the run.
        """
        run = self.config.run
        optimizer = replace(run.optimizer, name=spec, lr=lr, adamw_lr=adamw_lr)
        folder = self._folder(split, spec, lr, adamw_lr, seed)
        config = replace(run, optimizer=optimizer, seed=seed, split=split)
        self.jobs.train(f"{split}: {label(spec)}, lr {lr:.3g}, seed {seed}", config, folder)
        return RunRecord(folder)

    def _folder(self, split: DataSplit, spec: str, lr: float, adamw_lr: float, seed: int) -> Path:
        rates = f"lr{lr:.6g}-other{adamw_lr:.6g}" if has_separate_rates(spec) else f"lr{lr:.6g}"
        return self.config.out / "runs" / split / f"{slug(spec)}-{rates}-seed{seed}"
