"""The fresh comparison that confirms, or does not, the winner of an earlier search."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from htmuon.compare.compare_config import CONFIG, CompareConfig
from htmuon.compare.grid import GridConfig
from htmuon.compare.verdict import CONFIRMING_SEEDS
from htmuon.training.run_config import RunConfig


@dataclass(frozen=True)
class _Search:
    """What is read of the earlier comparison: its summary and its settings."""

    summary: dict[str, Any]
    settings: dict[str, Any]


def confirmation(searched: Path, out: Path) -> CompareConfig:
    """The settings of a comparison of an earlier one's winner and baseline alone, both tuned again, with fresh seeds.

    No seed of the earlier comparison, or of its search for learning rates, is used again; everything else stays.

    Args:
        searched: the folder of the earlier comparison, which must be finished.
        out: the folder of the new one.

    Raises:
        ValueError: the folder has no finished comparison, or no optimizer of lower loss than its baseline.
    """
    search = _read(searched)
    baseline = search.summary["baseline"]
    winner = search.summary["winner"]
    if winner is None:
        raise ValueError(
            f"a confirmation needs an optimizer of lower loss than the baseline; in {searched} none was lower than "
            f"{baseline}. There is nothing to confirm."
        )
    used = {*search.settings["seeds"], *search.settings["tuning_seeds"], *search.summary["tuning_seeds"]}
    first = max(used) + 1
    seeds = tuple(range(first, first + CONFIRMING_SEEDS))
    tuning = max(1, len(search.summary["tuning_seeds"]))  # published learning rates have none
    return CompareConfig(
        run=RunConfig.from_dict(search.settings["run"]),
        out=out,
        optimizers=(baseline, winner),
        baseline=baseline,
        seeds=seeds,
        tuning_seeds=tuple(range(seeds[-1] + 1, seeds[-1] + 1 + tuning)),
        learning_rates="tune",
        grid=GridConfig(**search.settings["grid"]),
        confirms=str(searched),
    )


def _read(searched: Path) -> _Search:
    if (searched / CONFIG).exists() and not (searched / "summary.json").exists():
        raise _unfinished(searched)
    try:
        texts = [(searched / name).read_text(encoding="utf-8") for name in ("summary.json", CONFIG)]
        search = _Search(*map(json.loads, texts))
        complete, _ = search.summary["complete"], (search.summary["winner"], search.settings["run"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{searched} must be the folder of a finished comparison; reading it failed: {type(error).__name__}: "
            f"{error}. Give the folder that `htmuon compare ... --out FOLDER` wrote."
        ) from error
    if not complete:
        raise _unfinished(searched)
    return search


def _unfinished(searched: Path) -> ValueError:
    return ValueError(f"the comparison in {searched} must be finished; give its command again to resume it.")
