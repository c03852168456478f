"""`htmuon compare`: train one recipe with several optimizers and report who wins."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from htmuon.cli.arguments import parse, recipe_of, run_settings
from htmuon.cli.terminal import result_table, terminal_display
from htmuon.compare.compare_config import DEFAULT_OPTIMIZERS, CompareConfig, LearningRates
from htmuon.compare.comparing import compare
from htmuon.compare.confirm import confirmation
from htmuon.compare.grid import GridConfig
from htmuon.compare.sweep import expand
from htmuon.training.run_config import RunConfig


@dataclass(frozen=True, kw_only=True)
class CompareArguments:
    """Train a recipe with several optimizers, each with its own learning rate and several seeds, and report.

    The same command resumes where an interrupted one stopped. Results: FOLDER/report.html, summary.json, figures/.

    Examples:
      htmuon compare llama-tiny
      htmuon compare llama-tiny --optimizers adamw muon htmuon htmuon:power=0.25 --seeds 0 1 2 --learning-rates tune
      htmuon compare llama-tiny --optimizers muon htmuon --power -0.125 0 0.25 --learning-rates tune --out runs/sweep
      htmuon compare llama-tiny --confirm runs/sweep
      htmuon compare llama-tiny --data my_texts/ --steps 1000 --model.num-layers 8 --learning-rates tune --out runs/mine

    Attributes:
        out: the folder of the comparison; runs/compare-RECIPE if not given.
        optimizers: names or name:key=value,key=value. `htmuon list` shows them.
        power: exponents p; each of them in place of every heavy-tailed optimizer that leaves its power open.
        schedules: power schedules, in their place too: name or name:key=value,key=value.
        baseline: what the others are compared with; the Muon among the optimizers, or else the first, if not given.
        seeds: seeds of the reported runs.
        tuning_seeds: seeds of the runs that choose the learning rates.
        learning_rates: stored ones, tune them now, or tune the missing ones alone.
        tuned_file: take the stored learning rates from this file, which --save-tuned wrote.
        save_tuned: put the learning rates found into this file.
        weight_decay: decoupled weight decay of every optimizer; the recipe's if not given.
        grid: where the learning rates are looked for.
        jobs: how many runs are trained at a time, on all GPUs in turn; above one their times are not compared. Each run
            of a recipe that decodes images meanwhile starts --workers processes more.
        confirm: the folder of a finished comparison: its best optimizer and its baseline are tuned again and run with
            five fresh seeds, everything else as there. Goes with --jobs and --out alone; FOLDER-confirmed is its folder
            if none is given.
    """

    out: Path | None = None
    optimizers: tuple[str, ...] = DEFAULT_OPTIMIZERS
    power: tuple[float, ...] = ()
    schedules: tuple[str, ...] = ()
    baseline: str = ""
    seeds: tuple[int, ...] = (0, 1)
    tuning_seeds: tuple[int, ...] = (100,)
    learning_rates: LearningRates = "stored"
    tuned_file: str = ""
    save_tuned: Path | None = None
    weight_decay: float | None = None
    grid: GridConfig = field(default_factory=GridConfig)
    jobs: int = 1
    confirm: Path | None = None


def run(arguments: Sequence[str]) -> None:
    """Run the command with the arguments after `compare`."""
    recipe, rest = recipe_of(arguments)
    own = {"recipe", "optimizer", "seed", "split"}
    given = parse(CompareArguments, recipe, rest, prog=f"htmuon compare {recipe.recipe}", without=own)
    config = _new(given, recipe) if given.confirm is None else _confirming(given, given.confirm, recipe)
    command = shlex.join(["htmuon", "compare", *arguments])
    with terminal_display() as display:
        result = compare(config, command=command, save_tuned=given.save_tuned, display=display)
    print("", result_table(result.summaries), "", *result.verdict, "", f"Report: {result.report}", sep="\n")


def _new(given: CompareArguments, recipe: RunConfig) -> CompareConfig:
    settings = run_settings(given, recipe)
    if given.weight_decay is not None:
        settings = replace(settings, optimizer=replace(settings.optimizer, weight_decay=given.weight_decay))
    return CompareConfig(
        run=settings,
        out=given.out or Path("runs") / f"compare-{recipe.recipe}",
        optimizers=expand(given.optimizers, given.power, given.schedules, steps=settings.steps),
        baseline=given.baseline,
        seeds=given.seeds,
        tuning_seeds=given.tuning_seeds,
        learning_rates=given.learning_rates,
        tuned_file=given.tuned_file,
        grid=given.grid,
        jobs=given.jobs,
    )


def _confirming(given: CompareArguments, searched: Path, recipe: RunConfig) -> CompareConfig:
    usual = CompareArguments()
    changed = [f.name for f in fields(usual) if getattr(given, f.name) != getattr(usual, f.name)]
    if run_settings(given, recipe) != recipe:
        changed.append("settings of the run")
    others = [name for name in changed if name not in ("out", "jobs", "confirm")]
    if others:
        raise ValueError(
            f"--confirm takes everything but --out and --jobs from the comparison in {searched}; got "
            f"{', '.join(others)} beside it. Leave them out, or compare anew without --confirm."
        )
    config = confirmation(searched, given.out or searched.with_name(f"{searched.name}-confirmed"))
    if config.run.recipe != recipe.recipe:
        raise ValueError(f"{searched} compares {config.run.recipe}, not {recipe.recipe}. Name that recipe.")
    return replace(config, jobs=given.jobs)
