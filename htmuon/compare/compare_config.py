"""The settings of a comparison, and whose folder its results go to."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from htmuon._checks import check_whole
from htmuon._files import LOCK, slug, write_json
from htmuon._registry import unknown_name
from htmuon.baselines.specs import build_optimizer
from htmuon.compare.baseline_choice import choose_baseline
from htmuon.compare.grid import GridConfig
from htmuon.routing.kinds import KINDS
from htmuon.training.run_config import WITHOUT_EFFECT, RunConfig, flat_settings

LearningRates = Literal["stored", "tune", "missing"]
# Muon as it is published and used, by five Newton-Schulz steps; "muon" alone is the exact polar factor.
DEFAULT_OPTIMIZERS = ("adamw", "muon:method=newton_schulz", "htmuon")

CONFIG = "compare.json"
# Settings that a run needs but that no learning rate depends on, or that the comparison sets itself.
_NOT_TUNED_FOR = {
    "recipe",
    "optimizer.name",
    "optimizer.lr",
    "optimizer.adamw_lr",
    "seed",
    "split",
    "precision",
    "device",
    "eval_interval",
    "log_interval",
    "checkpoint_interval",
    "monitor_every",
    "max_skipped_steps",
    *WITHOUT_EFFECT,
}

# What the comparison sets anew for each run, whatever the recipe has.
_OF_EACH_RUN = {"optimizer.name", "optimizer.lr", "optimizer.adamw_lr", "seed", "split"}
# What changes no run: the baseline is a matter of the report, the jobs of the machine.
_NOT_STORED = {"out", "baseline", "jobs"}


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Everything that decides the result of a comparison.

    Args:
        run: the settings that all runs share; optimizer, learning rates, seed and documents are set for each run.
        out: the folder of the comparison.
        optimizers: specs such as "adamw" or "htmuon:power=0.25".
        baseline: the one that the others are compared with; "" is the Muon among them, or else the first.
        seeds: seeds of the report runs.
        tuning_seeds: seeds of the tuning runs; none of them may be a report seed.
        learning_rates: "stored" takes them from `tuned_file`, "tune" searches for them, "missing" for those
            that are not there, at the stored rate of the other parameters.
        tuned_file: a file written by an earlier search; "" is the one inside the package.
        grid: where the search looks.
        confirms: the folder of an earlier comparison whose winner this one tests afresh; see `confirmation`.
        jobs: how many runs are trained at a time. More than one are trained in processes of their own; a script that
            asks for that does so below `if __name__ == "__main__":`, since they import it.
    """

    run: RunConfig
    out: Path
    optimizers: tuple[str, ...] = DEFAULT_OPTIMIZERS
    baseline: str = ""
    seeds: tuple[int, ...] = (0, 1)
    tuning_seeds: tuple[int, ...] = (100,)
    learning_rates: LearningRates = "stored"
    tuned_file: str = ""
    grid: GridConfig = field(default_factory=GridConfig)
    confirms: str = ""
    jobs: int = 1

    def __post_init__(self) -> None:
        for name in ("optimizers", "seeds", "tuning_seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must be at least one, each given once; got {list(values)}.")
        for spec in self.optimizers:
            _check_spec(spec)
        if len(set(map(slug, self.optimizers))) < len(self.optimizers):
            raise ValueError(f"optimizers must differ in more than punctuation; got {list(self.optimizers)}.")
        check_whole("jobs", self.jobs, 1)
        choose_baseline(self.optimizers, self.baseline)  # raises where it is none of them
        for seed in (*self.seeds, *self.tuning_seeds):
            replace(self.run, seed=seed)  # raises where a run could not have this seed
        if self.learning_rates != "stored":
            self.check_seeds(self.tuning_seeds)
        if self.learning_rates not in get_args(LearningRates):
            raise unknown_name("learning_rates", self.learning_rates, list(get_args(LearningRates)))

    def check_seeds(self, tuning_seeds: tuple[int, ...]) -> None:
        """Raise ValueError if a learning rate was, or would be, chosen on a seed that is reported."""
        both = sorted(set(self.seeds) & set(tuning_seeds))
        if both:
            raise ValueError(
                f"seeds and tuning_seeds must have no seed in common, or a learning rate would be chosen on a run that "
                f"is reported; got {both} in both."
            )

    def tuning_settings(self) -> dict[str, Any]:
        """The settings that a tuned learning rate depends on, by dotted name."""
        return {name: value for name, value in flat_settings(self.run.to_dict()).items() if name not in _NOT_TUNED_FOR}

    def claim_folder(self) -> None:
        """Make `out` the folder of this comparison, after `check_folder`; to be called by one process at a time."""
        settings = self.check_folder()
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.out / CONFIG, settings)

    def check_folder(self) -> dict[str, Any]:
        """The settings to be stored in `out`, which may be new, empty, or of the same comparison.

        Optimizers may have been added to those of an earlier call: its runs count.

        Raises:
            ValueError: it is something else.
        """
        plain = {name: value for name, value in asdict(self).items() if name not in _NOT_STORED}
        settings: dict[str, Any] = json.loads(json.dumps(plain | {"run": self.run.to_dict()}))
        path = self.out / CONFIG
        if path.exists():
            different = _differences(path, settings)
            # Without a run, the settings there are those of a command that failed: this one takes their place.
            if different and any(self.out.glob("runs/*/*/config.json")):
                raise ValueError(
                    f"{self.out} holds a comparison with other settings ({'; '.join(different)}). Choose another "
                    "folder, or the same settings to resume that comparison."
                )
        elif self.out.exists():
            if not self.out.is_dir():
                raise ValueError(f"out must be a folder; {self.out} is a file. Choose another path.")
            own = (LOCK, f".{CONFIG}.new")
            foreign = sorted(entry.name for entry in self.out.iterdir() if entry.name not in own)
            if foreign:
                raise ValueError(
                    f"out must be a new or empty folder, or that of the same comparison; {self.out} holds "
                    f"{', '.join(foreign[:3])}{' and more' if len(foreign) > 3 else ''} and no {CONFIG}. "
                    "Choose another folder."
                )
        return settings


def _differences(path: Path, settings: dict[str, Any]) -> list[str]:
    """One phrase for each setting in which a stored comparison differs from `settings`."""
    try:
        there = flat_settings(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not the settings of a comparison ({error}). Choose another folder.") from error
    here = flat_settings(settings)
    if "run.data.kind" not in there:
        return ["a version before 0.1.0 made it"]
    recipes = there.get("run.recipe"), here["run.recipe"]
    if recipes[0] != recipes[1]:
        return [f"its recipe is {recipes[0]!r} there and {recipes[1]!r} here"]
    return [
        f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
        and name.removeprefix("run.") not in {*WITHOUT_EFFECT, *_OF_EACH_RUN}
        and not (name == "optimizers" and set(there.get(name, ())) <= set(here[name]))
    ]


def _check_spec(spec: str) -> None:
    """Raise the error of a bad spec now, and not after the runs of the others."""
    # A matrix of each kind, for a spec may have settings by kind, and a head, which is none.
    layers = {sorted(words)[0]: torch.nn.Linear(2, 2) for words in KINDS.values()}
    model = torch.nn.ModuleDict({**layers, "lm_head": torch.nn.Linear(2, 2)})
    build_optimizer(spec, model, lr=0.1, adamw_lr=0.1, weight_decay=0.0)
