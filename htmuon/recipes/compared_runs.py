"""The runs of one comparison: where each has its folder, and how many there will be."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from htmuon.recipes.compare_config import CompareConfig
from htmuon.recipes.config import HeldOut
from htmuon.recipes.display import Display
from htmuon.recipes.jobs import Jobs
from htmuon.recipes.labels import label, slug
from htmuon.recipes.optimizers import has_other_rate
from htmuon.recipes.run_record import RunRecord

S = TypeVar("S")
T = TypeVar("T")


@dataclass
class Runs:
    """The runs of one comparison in one call.

    Attributes:
        config: what is compared.
        display: told what happens.
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

    def train(self, documents: HeldOut, spec: str, lr: float, adamw_lr: float, seed: int) -> RunRecord:
        """Train one run, or find it finished.

        Args:
            documents: on which data it is evaluated.
            spec: the optimizer.
            lr: learning rate of the matrices.
            adamw_lr: that of the other parameters, where the optimizer has one.
            seed: of the run.
        """
        run = self.config.run
        optimizer = replace(run.optimizer, name=spec, lr=lr, adamw_lr=adamw_lr)
        folder = self._folder(documents, spec, lr, adamw_lr, seed)
        config = replace(run, optimizer=optimizer, seed=seed, evaluate_on=documents)
        self.jobs.train(f"{documents}: {label(spec)}, lr {lr:.3g}, seed {seed}", config, folder)
        return RunRecord(folder)

    def _folder(self, documents: HeldOut, spec: str, lr: float, adamw_lr: float, seed: int) -> Path:
        rates = f"lr{lr:.6g}-other{adamw_lr:.6g}" if has_other_rate(spec) else f"lr{lr:.6g}"
        return self.config.out / "runs" / documents / f"{slug(spec)}-{rates}-seed{seed}"
