"""The comparison: tune the learning rate of each optimizer, train each with several seeds, report what was measured."""

import math
import shlex
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from itertools import count
from pathlib import Path

import torch

import htmuon
from htmuon.recipes.baseline_choice import choose_baseline, choose_guide
from htmuon.recipes.compare_config import CompareConfig
from htmuon.recipes.config import HeldOut
from htmuon.recipes.display import Display, SilentDisplay
from htmuon.recipes.files import locked, new_file
from htmuon.recipes.jobs import Jobs, opened_jobs
from htmuon.recipes.labels import label, slug
from htmuon.recipes.learning_rates import (
    TunedOptimizer,
    TunedRecipe,
    are_relatives,
    best_learning_rate,
    default_centre,
    is_interior,
    load_tuned,
    merge_tuned,
    search_learning_rate,
    tuned_to_json,
)
from htmuon.recipes.optimizers import ADAMW
from htmuon.recipes.registry import RECIPES
from htmuon.recipes.report import Comparison, flat_settings, write_report, write_summary
from htmuon.recipes.run_record import Records, RunRecord
from htmuon.recipes.summary import OptimizerSummary


def compare(
    config: CompareConfig, *, command: str, save_tuned: Path | None = None, display: Display | None = None
) -> list[OptimizerSummary]:
    """Run a comparison, or go on with one that was interrupted, and write its report.

    Every run has its folder below `config.out`, so the same call continues after a kill at any point: finished runs are
    kept, the interrupted one goes on from its last checkpoint.

    Args:
        config: what is compared.
        command: what the user typed; it stands in the report.
        save_tuned: a file that the learning rates found are put into; results of other recipes in it stay.
        display: told what happens.

    Returns:
        One summary for each optimizer, in the order of `config.optimizers`.

    Raises:
        ValueError: the folder is of something else, there is no stored learning rate, or a setting is not valid.
    """
    if save_tuned is not None and config.learning_rates != "tune":
        raise ValueError('save_tuned needs learning rates to save: give learning_rates="tune" with it.')
    if save_tuned is not None and save_tuned.exists():
        load_tuned(save_tuned)  # raises now, and not after the search
    stored = _stored_rates(config) if config.learning_rates == "stored" else None
    config.claim_folder()
    display = display or SilentDisplay()
    with locked(config.out, "comparing"), opened_jobs(config.jobs, display, config.out / "data") as jobs:
        session = _Session(config, display, jobs)
        if stored is not None:
            rates = ", ".join(f"{label(spec)} {stored.optimizers[spec].lr:.3g}" for spec in config.optimizers)
            how = "as published, not tuned here" if stored.published else "found with"
            session.display.on_message(f"Learning rates are stored ones ({rates}), {how}: {stored.command}")
        tuned = stored or session.tune(command)
        if save_tuned is not None:
            save_tuned.parent.mkdir(parents=True, exist_ok=True)
            kept = load_tuned(save_tuned) if save_tuned.exists() else {}  # as it is by now
            with new_file(save_tuned) as path:
                path.write_text(tuned_to_json(merge_tuned(kept, config.run.recipe, tuned)), encoding="utf-8")
        return session.report(tuned, command)


def tuning_command(config: CompareConfig) -> str:
    """The command that finds the learning rates that a comparison needs."""
    usual = flat_settings(RECIPES[config.run.recipe]().to_dict())
    changed = {name: value for name, value in config.tuning_settings().items() if value != usual[name]}
    flags = [word for name, value in changed.items() for word in _flag(name, value)]
    words = ["htmuon", "compare", config.run.recipe, "--optimizers", *config.optimizers, *flags]
    return shlex.join([*words, "--learning-rates", "tune", "--save-tuned", "FILE", "--out", "FOLDER"])


def _flag(name: str, value: object) -> list[str]:
    """The words that set one setting on the command line."""
    short = {"data.path": "data", "optimizer.weight_decay": "weight-decay"}
    typed = short.get(name, name).replace("_", "-")
    if isinstance(value, bool):
        group, dot, last = typed.rpartition(".")
        return [f"--{group}{dot}{'' if value else 'no-'}{last}"]
    text = str(value)
    # What begins with a dash would be taken for the next flag.
    return [f"--{typed}={text}"] if text.startswith("-") else [f"--{typed}", text]


def _stored_rates(config: CompareConfig) -> TunedRecipe:
    path = Path(config.tuned_file) if config.tuned_file else Path(str(files("htmuon.recipes") / "tuned.json"))
    if not path.exists():
        raise ValueError(f"{path}, the file of stored learning rates, must exist. Make it: {tuning_command(config)}")
    stored = load_tuned(path).get(config.run.recipe)
    missing = [spec for spec in config.optimizers if stored is None or spec not in stored.optimizers]
    if stored is None or missing:
        others = f" of it, only of {', '.join(stored.optimizers)}" if stored is not None else ""
        raise ValueError(
            f"a stored learning rate is needed of {' and '.join(missing)} for the recipe {config.run.recipe!r}; {path} "
            f"has none{others}. Find it with: {tuning_command(config)}"
        )
    config.check_seeds(stored.seeds)
    return stored


@dataclass
class _Session:
    """The runs of one comparison in one call."""

    config: CompareConfig
    display: Display
    jobs: Jobs
    planned: int = 0
    records: dict[str, list[RunRecord]] = field(default_factory=dict)

    def tune(self, command: str) -> TunedRecipe:
        """Search the learning rate of AdamW, that of the other parameters, and with it those of all others."""
        config = self.config
        others = [spec for spec in config.optimizers if spec != ADAMW]
        self._plan((1 + len(others)) * config.grid.points * len(config.tuning_seeds))
        self._plan(len(config.optimizers) * len(config.seeds))
        tuned = {ADAMW: self._tune_adamw()}
        other_lr = tuned[ADAMW].lr
        guide = choose_guide(others)
        if guide is not None:
            tuned[guide] = self._tune_with_other_lr(guide, other_lr)
            other_lr = tuned[guide].adamw_lr

        def search(spec: str) -> TunedOptimizer:
            found = [tuned[other].lr for other in others if other in tuned and are_relatives(other, spec)]
            return self._tune_one(spec, found[0] if found else default_centre(spec), other_lr)

        # Relatives have their best rates near each other: where the first one's is, the searches of the others start.
        rest = [spec for spec in others if spec not in tuned]
        relatives = [spec for spec in (*tuned, *rest) if are_relatives(spec, spec)]
        until_first = rest.index(relatives[0]) + 1 if relatives and relatives[0] in rest else 0
        for specs in (rest[:until_first], rest[until_first:]):
            tuned |= dict(zip(specs, self.jobs.each(search, specs), strict=True))
        return TunedRecipe(
            settings=config.tuning_settings(),
            seeds=config.tuning_seeds,
            command=command,
            versions={"htmuon": htmuon.__version__, "torch": torch.__version__},
            optimizers={spec: tuned[spec] for spec in (ADAMW, *others)},
        )

    def _tune_adamw(self) -> TunedOptimizer:
        """The rate of an optimizer that has one for all parameters."""
        grid = self._search(default_centre(ADAMW), lambda lr, seed: self._run("tuning", ADAMW, lr, lr, seed))
        best = best_learning_rate(grid)
        return TunedOptimizer(lr=best, adamw_lr=best, grid=grid, interior=is_interior(grid))

    def _tune_one(self, spec: str, centre: float, adamw_lr: float) -> TunedOptimizer:
        """The rate of the matrices, at a rate of the other parameters."""
        grid = self._search(centre, lambda lr, seed: self._run("tuning", spec, lr, adamw_lr, seed))
        return TunedOptimizer(lr=best_learning_rate(grid), adamw_lr=adamw_lr, grid=grid, interior=is_interior(grid))

    def _tune_with_other_lr(self, spec: str, start: float) -> TunedOptimizer:
        """Both rates in turn: of the matrices, of the others at it, and of the matrices again if that is a new one."""
        points = self.config.grid.points * len(self.config.tuning_seeds)
        first = self._tune_one(spec, default_centre(spec), start)
        self._plan(points)
        grid = self._search(start, lambda adamw_lr, seed: self._run("tuning", spec, first.lr, adamw_lr, seed))
        best = best_learning_rate(grid)
        if best == start:
            return replace(first, other_grid=grid)
        self._plan(points)
        return replace(self._tune_one(spec, first.lr, best), other_grid=grid)

    def _search(self, centre: float, run: Callable[[float, int], RunRecord]) -> dict[float, float]:
        """Mean losses over the tuning seeds by learning rate, of runs with a rate and a seed."""
        counted = count(1)
        seeds = self.config.tuning_seeds

        def loss(rate: float) -> float:
            if next(counted) > self.config.grid.points:
                self._plan(len(seeds))
            return statistics.fmean(record.final_loss for record in self.jobs.each(partial(run, rate), seeds))

        return search_learning_rate(loss, centre, self.config.grid, self.jobs.each)

    def report(self, tuned: TunedRecipe, command: str) -> list[OptimizerSummary]:
        """Train every optimizer with every seed and write the report."""
        config = self.config
        if not self.planned:
            self._plan(len(config.optimizers) * len(config.seeds))
        warnings = _warnings(config, tuned)
        for warning in warnings:
            self.display.on_message(f"warning: {warning}")
        self.records = {spec: [] for spec in config.optimizers}
        comparison = Comparison(
            run=config.run,
            seeds=config.seeds,
            tuned={spec: tuned.optimizers[spec] for spec in config.optimizers},
            tuning_seeds=tuned.seeds,
            tuning_command=tuned.command,
            command=command,
            stored=config.learning_rates == "stored",
            published=tuned.published,
            confirms=config.confirms,
            records=self.records,
            baseline=choose_baseline(config.optimizers, config.baseline),
            warnings=tuple(warnings),
        )

        def run(spec_and_seed: tuple[str, int]) -> RunRecord:
            spec, seed = spec_and_seed
            found = tuned.optimizers[spec]
            return self._run("report", spec, found.lr, found.adamw_lr, seed)

        # Seeds outside, optimizers inside: when the machine gets slower or faster over time, it does so for all alike.
        runs = [(spec, seed) for seed in config.seeds for spec in config.optimizers]
        for (spec, _), record in zip(runs, self.jobs.each(run, runs), strict=True):
            self.records[spec].append(record)
            summaries = write_summary(comparison, config.out)
            with self.jobs.lock:
                self.display.on_table(summaries)
        if not any(run.result for runs in self.records.values() for run in runs):
            raise ValueError(
                f"every run stopped with gradients that are not finite: there is nothing to report; see {config.out}. "
                "Look at the data, or tune the learning rates."
            )
        return write_report(replace(comparison, warnings=(*warnings, *_about_times(self.records))), config.out)

    def _plan(self, runs: int) -> None:
        with self.jobs.lock:
            self.planned += runs
            self.display.on_plan(self.planned, self.config.run.steps)

    def _folder(self, documents: HeldOut, spec: str, lr: float, adamw_lr: float, seed: int) -> Path:
        rates = f"lr{lr:.6g}" if spec == ADAMW else f"lr{lr:.6g}-other{adamw_lr:.6g}"
        return self.config.out / "runs" / documents / f"{slug(spec)}-{rates}-seed{seed}"

    def _run(self, documents: HeldOut, spec: str, lr: float, adamw_lr: float, seed: int) -> RunRecord:
        run = self.config.run
        optimizer = replace(run.optimizer, name=spec, lr=lr, adamw_lr=adamw_lr)
        folder = self._folder(documents, spec, lr, adamw_lr, seed)
        config = replace(run, optimizer=optimizer, seed=seed, evaluate_on=documents)
        self.jobs.train(f"{documents}: {label(spec)}, lr {lr:.3g}, seed {seed}", config, folder)
        return RunRecord(folder)


def _about_times(records: Records) -> list[str]:
    results = [run.result for runs in records.values() for run in runs if run.result is not None]
    at_a_time = max(result.side_by_side for result in results)
    if at_a_time > 1:
        return [f"The machine trained up to {at_a_time} runs at a time: times are not compared."]
    machines = {f"{r.device}, {r.threads} threads, {r.precision}, torch {r.versions['torch']}" for r in results}
    if len(machines) < 2:
        return []
    return [f"Not all runs had the same machine, so their times do not compare: {'; '.join(sorted(machines))}."]


def _warnings(config: CompareConfig, tuned: TunedRecipe) -> list[str]:
    warnings = []
    changed = tuned.changed_settings(config.tuning_settings())
    if changed:
        warnings.append(
            f"The learning rates were {'published' if tuned.published else 'tuned'} with other settings: "
            f"{'; '.join(changed)}. The best ones may differ; "
            f"tune them for these settings with: {tuning_command(config)}"
        )
    for spec in config.optimizers if not tuned.published else ():
        found = tuned.optimizers[spec]
        if not math.isfinite(found.grid[found.lr]):
            warnings.append(f"{label(spec)} diverged at every learning rate tried: its numbers say nothing about it.")
        elif not found.interior:
            warnings.append(
                f"The best learning rate of {label(spec)} is at the edge of its grid: a better one may exist."
            )
    return warnings
