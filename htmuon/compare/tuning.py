"""The search of a comparison: AdamW's learning rate, that of the other parameters, and with it those of all others."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import count

import torch

import htmuon
from htmuon.baselines import OptimizerInfo, has_separate_rates, optimizer_info, parse_spec
from htmuon.baselines.info import ADAMW, MUON_FIRST_LR
from htmuon.compare.baseline_choice import choose_guide
from htmuon.compare.compared_runs import Runs
from htmuon.compare.grid import best_learning_rate, is_interior, search_learning_rate
from htmuon.compare.run_record import RunRecord
from htmuon.compare.tuned_rates import TunedOptimizer, TunedRecipe


def tune(runs: Runs, command: str, known: Mapping[str, TunedOptimizer]) -> TunedRecipe:
    """The best learning rates of AdamW and of all optimizers of a comparison.

    Args:
        runs: of the comparison.
        command: what the user typed; it is kept with the rates.
        known: what an equal search has found. Of optimizers with a rate of their own for the other parameters, those
            count that had the guide's.
    """
    config = runs.config
    others = [spec for spec in config.optimizers if spec != ADAMW]
    guide = choose_guide(others)
    tuned = {spec: known[spec] for spec in (ADAMW, guide) if spec in known and spec is not None}
    if guide in tuned:
        rate = tuned[guide].adamw_lr
        tuned |= {spec: known[spec] for spec in others if spec in known and _at(rate, spec, known[spec])}
    searched = sum(spec not in tuned for spec in (ADAMW, *others))
    runs.plan(searched * config.grid.points * len(config.tuning_seeds))
    runs.plan(len(config.optimizers) * len(config.seeds))
    if ADAMW not in tuned:
        tuned[ADAMW] = _tune_one(runs, ADAMW, first_learning_rate(ADAMW))
    other_lr = tuned[ADAMW].lr
    if guide is not None:
        if guide not in tuned:
            tuned[guide] = _tune_with_other_lr(runs, guide, other_lr)
        other_lr = tuned[guide].adamw_lr

    def search(spec: str) -> TunedOptimizer:
        relatives = [other for other in others if is_relative_of_muon(other)] if is_relative_of_muon(spec) else []
        found = [tuned[other].lr for other in relatives if other in tuned]
        return _tune_one(runs, spec, found[0] if found else first_learning_rate(spec), other_lr)

    # Relatives have their best rates near each other: where the first one's is, the searches of the others start.
    rest = [spec for spec in others if spec not in tuned]
    relatives = [spec for spec in (*tuned, *rest) if is_relative_of_muon(spec)]
    until_first = rest.index(relatives[0]) + 1 if relatives and relatives[0] in rest else 0
    for specs in (rest[:until_first], rest[until_first:]):
        tuned |= dict(zip(specs, runs.each(search, specs), strict=True))
    return TunedRecipe(
        settings=config.tuning_settings(),
        seeds=config.tuning_seeds,
        command=command,
        versions={"htmuon": htmuon.__version__, "torch": torch.__version__},
        optimizers={spec: tuned[spec] for spec in (ADAMW, *others)},
    )


def first_learning_rate(spec: str) -> float:
    """Where the search for an optimizer starts, if no relative of it was tuned before.

    The grid is extended as far as it must be, so a start costs runs at worst, never fairness.

    Example:
        >>> first_learning_rate("htmuon:power=0.25"), first_learning_rate("lion")
        (0.02, 0.0004)
    """
    first_lr = _info(spec).first_lr
    return MUON_FIRST_LR if first_lr is None else first_lr


def is_relative_of_muon(spec: str) -> bool:
    """Whether the best learning rate of an optimizer is near Muon's.

    Example:
        >>> is_relative_of_muon("htmuon:power=0.25"), is_relative_of_muon("lion")
        (True, False)
    """
    return _info(spec).first_lr is None


def _at(other_lr: float, spec: str, found: TunedOptimizer) -> bool:
    """Whether a rate was found at this one of the other parameters, or has none beside it."""
    return found.adamw_lr == other_lr or not has_separate_rates(spec)


def _info(spec: str) -> OptimizerInfo:
    name, _ = parse_spec(spec)
    return optimizer_info(name)


def _tune_one(runs: Runs, spec: str, centre: float, adamw_lr: float | None = None) -> TunedOptimizer:
    """The rate of the matrices at one of the other parameters, or of all where an optimizer has one rate."""
    own = adamw_lr if has_separate_rates(spec) else None
    grid = _search(runs, centre, lambda lr, seed: runs.train("validation", spec, lr, own or lr, seed))
    best = best_learning_rate(grid)
    return TunedOptimizer(lr=best, adamw_lr=own or best, grid=grid, interior=is_interior(grid))


def _tune_with_other_lr(runs: Runs, spec: str, start: float) -> TunedOptimizer:
    """Both rates in turn: of the matrices, of the others at it, and of the matrices again if that is a new one."""
    points = runs.config.grid.points * len(runs.config.tuning_seeds)
    first = _tune_one(runs, spec, first_learning_rate(spec), start)
    runs.plan(points)
    grid = _search(runs, start, lambda adamw_lr, seed: runs.train("validation", spec, first.lr, adamw_lr, seed))
    best = best_learning_rate(grid)
    if best == start:
        return replace(first, other_grid=grid)
    runs.plan(points)
    return replace(_tune_one(runs, spec, first.lr, best), other_grid=grid)


def _search(runs: Runs, centre: float, run: Callable[[float, int], RunRecord]) -> dict[float, float]:
    """Mean losses over the tuning seeds by learning rate, of runs with a rate and a seed."""
    counted = count(1)
    grid, seeds = runs.config.grid, runs.config.tuning_seeds

    def loss(rate: float) -> float:
        if next(counted) > grid.points:
            runs.plan(len(seeds))
        return statistics.fmean(record.final_loss for record in runs.each(partial(run, rate), seeds))

    return search_learning_rate(loss, centre, grid, runs.each)
