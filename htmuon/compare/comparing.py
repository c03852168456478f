"""The comparison: tune the learning rate of each optimizer, train each with several seeds, report what was measured."""

import math
import shlex
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from htmuon._files import locked, new_file
from htmuon.compare.baseline_choice import choose_baseline
from htmuon.compare.compare_config import CompareConfig
from htmuon.compare.compared_runs import Runs
from htmuon.compare.comparison import Comparison, ComparisonResult, write_summary
from htmuon.compare.grid import is_interior
from htmuon.compare.jobs import Display, opened_jobs
from htmuon.compare.labels import label
from htmuon.compare.run_record import Records, RunRecord
from htmuon.compare.tuned_rates import TunedOptimizer, TunedRecipe, load_tuned, merge_tuned, tuned_to_json
from htmuon.compare.tuning import tune
from htmuon.recipes import RECIPES
from htmuon.training.run_config import flat_settings


def compare(
    config: CompareConfig, *, command: str, save_tuned: Path | None = None, display: Display | None = None
) -> ComparisonResult:
    """Run a comparison, or resume one that was interrupted, and write its report.

    Every run has its folder below `config.out`, so the same call continues after a kill at any point: finished runs are
    kept, the interrupted one resumes from its last checkpoint.

    Args:
        config: what is compared.
        command: what the user typed; it stands in the report.
        save_tuned: a file that the learning rates found are put into; results of other recipes in it stay.
        display: notified of the events.

    Returns:
        The summaries, in the order of `config.optimizers`, the verdict and the report.

    Raises:
        ValueError: the folder is of something else, there is no stored learning rate, or a setting is not valid.
    """
    if save_tuned is not None and config.learning_rates == "stored":
        raise ValueError('save_tuned needs learning rates to save: give learning_rates="tune" or "missing" with it.')
    if save_tuned is not None and save_tuned.exists():
        load_tuned(save_tuned)  # raises now, and not after the search
    stored = _stored_rates(config) if config.learning_rates == "stored" else None
    display = display or Display()
    config.check_folder()  # before a lock is put there
    with locked(config.out, "comparing"), opened_jobs(config.jobs, display, config.out / "data") as jobs:
        config.claim_folder()
        runs = Runs(config, display, jobs)
        if stored is not None:
            rates = ", ".join(f"{label(spec)} {stored.optimizers[spec].lr:.3g}" for spec in config.optimizers)
            how = "as published, not tuned here" if stored.published else "found with"
            display.on_message(f"Learning rates are stored ones ({rates}), {how}: {stored.command}")
        tuned = stored or tune(runs, command, _known_rates(runs) if config.learning_rates == "missing" else {})
        if save_tuned is not None:
            save_tuned.parent.mkdir(parents=True, exist_ok=True)
            kept = load_tuned(save_tuned) if save_tuned.exists() else {}  # as it is by now
            with new_file(save_tuned) as path:
                path.write_text(tuned_to_json(merge_tuned(kept, config.run.recipe, tuned)), encoding="utf-8")
        return _report(runs, tuned, command)


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


def _tuned_file(config: CompareConfig) -> Path:
    return Path(config.tuned_file) if config.tuned_file else Path(str(files("htmuon.compare") / "tuned.json"))


def _known_rates(runs: Runs) -> dict[str, TunedOptimizer]:
    """The stored learning rates that a search with the settings and seeds of this one has found."""
    config, path = runs.config, _tuned_file(runs.config)
    stored = load_tuned(path).get(config.run.recipe) if path.exists() else None
    if stored is None:
        return {}
    changed = stored.changed_settings(config.tuning_settings())
    if changed or stored.published or stored.seeds != config.tuning_seeds:
        why = "; ".join(changed) or ("they were published" if stored.published else f"their seeds were {stored.seeds}")
        runs.display.on_message(f"The stored learning rates are of another search ({why}): all are searched for.")
        return {}
    return dict(stored.optimizers)


def _stored_rates(config: CompareConfig) -> TunedRecipe:
    path = _tuned_file(config)
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


def _report(runs: Runs, tuned: TunedRecipe, command: str) -> ComparisonResult:
    """Train every optimizer with every seed and write the report."""
    config = runs.config
    if not runs.planned:
        runs.plan(len(config.optimizers) * len(config.seeds))
    warnings = _warnings(config, tuned)
    for warning in warnings:
        runs.display.on_message(f"warning: {warning}")
    records: dict[str, list[RunRecord]] = {spec: [] for spec in config.optimizers}
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
        records=records,
        baseline=choose_baseline(config.optimizers, config.baseline),
        warnings=tuple(warnings),
    )

    def train(spec_and_seed: tuple[str, int]) -> RunRecord:
        spec, seed = spec_and_seed
        found = tuned.optimizers[spec]
        return runs.train("confirmation" if config.confirms else "test", spec, found.lr, found.adamw_lr, seed)

    # Seeds outside, optimizers inside: when the machine gets slower or faster over time, it does so for all alike.
    planned = [(spec, seed) for seed in config.seeds for spec in config.optimizers]
    for (spec, _), record in zip(planned, runs.each(train, planned), strict=True):
        records[spec].append(record)
        summaries = write_summary(comparison, config.out)
        with runs.jobs.lock:
            runs.display.on_table(summaries)
    if not any(run.result for found in records.values() for run in found):
        raise ValueError(
            f"every run stopped with gradients that are not finite: there is nothing to report; see {config.out}. "
            "Look at the data, or tune the learning rates."
        )
    # Imported here: nobody needs jinja2 or matplotlib to know a setting.
    from htmuon.compare.report.comparison_page import write_report

    return write_report(replace(comparison, warnings=(*warnings, *_about_times(records))), config.out)


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
        if found.other_grid and not is_interior(found.other_grid):
            warnings.append(
                f"The best learning rate of the other parameters, found with {label(spec)} and given to all, is at the "
                "edge of its grid: a better one may exist."
            )
    return warnings
