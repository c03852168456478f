"""The experiments of docs/results/README.md: run them, keep their numbers, fill the pages.

    python benchmarks/evidence.py resnet-tiny llama-tiny
    python benchmarks/evidence.py --list

Each experiment is one `htmuon compare`, which resumes where it stopped. Its runs go to runs/evidence/NAME, what the
page needs of them to benchmarks/results/evidence/NAME.json. `--read` trains nothing and takes what is finished.
"""

import argparse
import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

from evidence_tables import RESULTS, ROOT, filled

from htmuon.cli import main as htmuon
from htmuon.compare.run_record import RunRecord
from htmuon.routing.kinds import kinds_of

PAGES = tuple(ROOT / "docs" / page for page in ("results/README.md", "choosing_p.md", "rates.md"))
FIGURES = ROOT / "docs" / "results" / "figures"

# Everything in common: rates tuned from three points on, three seeds, and no records of spectra on the way.
PROTOCOL = "--seeds 0 1 2 --grid.points 3 --monitor-every None --learning-rates tune"
POWERS = "adamw muon:method=newton_schulz muon htmuon htmuon:power=-0.125"
SIGNS = "adamw muon:method=newton_schulz htmuon htmuon:power=-0.125"
# Where `make demo` and `htmuon compare` take the rates of these two recipes from.
SAVE = "--save-tuned htmuon/compare/tuned.json"
# Half the width, two thirds of the layers, a quarter of the vocabulary: short enough for long training.
NARROW = (
    "llama-tiny --data.vocab-size 1024 --model.hidden-size 64 --model.intermediate-size 176 --model.num-layers 4 "
    "--log-interval 50 --checkpoint-interval 500"
)
MUON = "muon:method=newton_schulz"
# The same text and network as llama-tiny's: runs that another of these has trained may be copied into the folder.
TINY = "llama-tiny --eval-interval 100 --jobs 2 --optimizers"
# The narrow network with the batches of llama-tiny: cheap enough for many optimizers.
LARGE = f"{NARROW} --batch-size 16 --steps 125 --eval-interval 125 --jobs 2 --optimizers"
# Four tokens for each of its 332 thousand parameters, where llama-tiny has a third of one.
LONGER = f"{NARROW} --batch-size 16 --steps 650 --eval-interval 650 --jobs 2 --optimizers"
# By kind of matrix: factors of the learning rate, and powers.
RATES = "lr_scale.query+key=2,lr_scale.value+output+down=0.35"
FLOORED = "htmuon:spectral_map=floored_power,normalization=rms"
KIND_POWERS = f"{FLOORED},power=0,power.query=0.15,power.value+output+down=-0.7,power.gate+up=-0.4"
FOUND = f"{MUON},rate_rule=alignment htmuon:rate_rule=alignment"
KINDS = f"adamw {MUON} htmuon {MUON},{RATES} {FOUND} {KIND_POWERS}"
# Powers below zero at Muon's price: directions below 1e-3 of the largest go to zero, where `eigh` lifts them most.
SEVEN = "method=quintic,steps=7"
# Of a GPU such runs leave the most idle. The text is 98 English novels, 76 MB, which are not part of this repository;
# any folder of *.txt files does.
NOVELS = "llama-tiny --device cuda --data.path novels --batch-size 128 --steps 400 --eval-interval 200 --jobs 6"


@dataclass(frozen=True)
class Experiment:
    """One comparison.

    Attributes:
        words: what stands between `htmuon compare` and the protocol.
        protocol: what all experiments have in common; "" for one that takes it from another.
    """

    words: str
    protocol: str = PROTOCOL

    def command(self, name: str) -> list[str]:
        return ["htmuon", "compare", *shlex.split(f"{self.words} {self.protocol}"), "--out", f"runs/evidence/{name}"]


def logistic(steps: int) -> str:
    """The schedule from p = 1 to -1/4, at the size with which it was the best."""
    return f"htmuon:schedule=logistic,start=1,end=-0.25,total_steps={steps},normalization=none,{SEVEN}"


def long(steps: int, optimizers: str) -> Experiment:
    """The narrow network for so many steps of 2,048 tokens."""
    words = f"{NARROW} --batch-size 16 --steps {steps} --eval-interval {steps} --jobs 2 --optimizers {optimizers}"
    return Experiment(words)


# The scale-free normalizations of p = 1/8, and powers below zero.
HEAVY, LIGHT = "htmuon:normalization=rms", f"htmuon:power=-0.25,{SEVEN}"
SIZES = f"{HEAVY} htmuon:normalization=spectral htmuon:normalization=lmo"
BELOW = f"htmuon:power=-0.125,{SEVEN} {LIGHT}"
EXPERIMENTS = {
    "llama-tiny": Experiment(f"llama-tiny --eval-interval 100 {SAVE} --jobs 2 --optimizers {SIGNS}"),
    "resnet-tiny": Experiment(
        f"resnet-tiny --eval-interval 312 {SAVE} --optimizers {POWERS} htmuon:power=0.0625 htmuon:power=0.25"
    ),
    "resnet-tiny-confirmed": Experiment("resnet-tiny --confirm runs/evidence/resnet-tiny", protocol=""),
    "small-batch": Experiment(f"{NARROW} --batch-size 2 --steps 1000 --eval-interval 500 --optimizers {SIGNS}"),
    "large-batch": Experiment(f"{LARGE} {SIGNS} htmuon:schedule=logistic,start=1,end=-0.25,total_steps=125"),
    "llama-tiny-confirmed": Experiment("llama-tiny --confirm runs/evidence/llama-tiny --jobs 2", protocol=""),
    "embeddings": Experiment(
        f"{LARGE} adamw {MUON} htmuon htmuon:power=-0.125 "
        f"{MUON},matrices=all htmuon:matrices=all htmuon:power=-0.125,matrices=all"
    ),
    "schedules": Experiment(
        f"{TINY} adamw {MUON} htmuon htmuon:schedule=interval,power=0.125,every=5 "
        "htmuon:schedule=logistic,start=1,end=-0.25,total_steps=200"
    ),
    "schedules-confirmed": Experiment("llama-tiny --confirm runs/evidence/schedules --jobs 2", protocol=""),
    # How much of that schedule is its end, and how much its way there.
    "negative": Experiment(
        f"{LARGE} adamw {MUON} muon htmuon:power=-0.125 htmuon:power=-0.25 "
        "htmuon:schedule=logistic,start=0,end=-0.25,total_steps=125 "
        "htmuon:schedule=logistic,start=1,end=0,total_steps=125"
    ),
    "variants": Experiment(
        f"{LARGE} adamw {MUON} normuon:method=newton_schulz htnormuon htnormuon:power=-0.125 "
        "adamuon:method=newton_schulz htadamuon htadamuon:power=-0.125"
    ),
    "normalizations": Experiment(
        f"{TINY} adamw {MUON} htmuon htmuon:normalization=spectral htmuon:normalization=rms htmuon:normalization=lmo"
    ),
    # AdamW with the rate of the other parameters that the spectral optimizers have.
    "two-rates": Experiment(f"{LARGE} adamw {MUON} adamw:two_rates=true"),
    # The other parameters' rate searched with HTMuon, where no Muon is there to search it with.
    "own-rate": Experiment(f"{LARGE} adamw htmuon"),
    "kinds": Experiment(f"{LONGER} {KINDS}"),
    "kinds-confirmed": Experiment("llama-tiny --confirm runs/evidence/kinds --jobs 2", protocol=""),
    # What powers add to rates: runs of `kinds` may be copied into the folder.
    "kinds-powers": Experiment(
        f"{LONGER} adamw {MUON} {MUON},{RATES} muon:power_rule=alignment muon:power_rule=alignment,{RATES} "
        f"muon:power_rule=alignment,rate_rule=alignment {MUON},rate_rule=alignment,{RATES} htmuon:{RATES}"
    ),
    # The same rates with other variants of Muon.
    "kinds-variants": Experiment(
        f"{LONGER} {MUON} normuon:method=newton_schulz normuon:method=newton_schulz,{RATES} "
        f"adamuon:method=newton_schulz adamuon:method=newton_schulz,{RATES}"
    ),
    # One, four, ten, twenty and sixty tokens for each parameter: does it turn in favour of a heavy tail?
    "long-1": long(163, f"adamw:two_rates=true {MUON} muon htmuon {SIZES} {BELOW} {logistic(163)} {MUON},{RATES}"),
    "long-4": long(650, f"adamw:two_rates=true {MUON} htmuon {HEAVY} {LIGHT} {logistic(650)} {MUON},{RATES}"),
    "long-10": long(1625, f"{MUON} {HEAVY}"),
    "long-20": long(3250, f"{MUON} {HEAVY} {MUON},{RATES}"),
    "long-60": long(9750, f"{MUON} {HEAVY} {MUON},{RATES}"),
    "kinds-resnet-tiny": Experiment(
        f"resnet-tiny --eval-interval 312 --jobs 2 --optimizers {MUON} {MUON},rate_rule=alignment"
    ),
    "kinds-llama-tiny": Experiment(
        f"llama-tiny --eval-interval 20 {SAVE} --jobs 2 --optimizers adamw:two_rates=true {MUON} htmuon "
        f"{MUON},lr_scale=kinds",
        protocol=PROTOCOL.replace("tune", "missing"),
    ),
    # The rules, which nobody has told anything of networks, on that one; rates that are stored are taken, and runs of
    # `kinds-llama-tiny` may be copied into the folder.
    "rules-llama-tiny": Experiment(
        f"llama-tiny --eval-interval 20 --jobs 2 --optimizers {MUON} {MUON},lr_scale=kinds {MUON},rate_rule=alignment "
        "muon:power_rule=alignment,rate_rule=alignment muon:power_rule=alignment,lr_scale=kinds",
        protocol=PROTOCOL.replace("tune", "missing"),
    ),
    "novels": Experiment(f"{NOVELS} --optimizers {SIGNS}"),
}


def settings(records: Sequence[RunRecord]) -> dict[str, Any]:
    """What all runs share, as far as the page says it."""
    config, result = records[0].config, next(run.result for run in records if run.result is not None)
    return {
        "recipe": config.recipe,
        "split": config.split,
        "steps": config.steps,
        "examples_per_step": config.tokens_per_step,
        "parameters": result.parameters,
        "hidden_parameters": result.hidden_parameters,
        "precision": result.precision,
        "device": result.device,
        "threads": result.threads,
        "versions": result.versions,
    }


def grids(records: Sequence[RunRecord]) -> dict[str, dict[str, float | None]]:
    """Loss by learning rate for each optimizer, mean over the tuning seeds; None where a run diverged.

    A rate is that of the matrices, and behind a slash that of the other parameters.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for run in sorted(records, key=lambda run: (run.config.optimizer.adamw_lr, run.config.optimizer.lr)):
        optimizer = run.config.optimizer
        rate = f"{optimizer.lr:g}" if optimizer.name == "adamw" else f"{optimizer.lr:g} / {optimizer.adamw_lr:g}"
        found.setdefault(optimizer.name, {}).setdefault(rate, []).append(run.final_loss)
    means = {spec: {lr: sum(losses) / len(losses) for lr, losses in grid.items()} for spec, grid in found.items()}
    return {spec: {lr: m if m < float("inf") else None for lr, m in grid.items()} for spec, grid in means.items()}


def stored(folder: Path) -> dict[str, Any]:
    """What is kept of a finished comparison."""
    summary = json.loads((folder / "summary.json").read_text())
    if not summary["complete"]:
        raise SystemExit(f"{folder} is not finished: give the command again without --read.")
    records = {
        kind: [RunRecord(path.parent) for path in folder.glob(f"runs/{kind}/*/config.json")]
        for kind in ("validation", "test", "confirmation")
    }
    reported = records["test"] or records["confirmation"]
    compared = {row["spec"] for row in summary["optimizers"]}
    tuned = [run for run in records["validation"] if run.config.optimizer.name in compared]
    return {
        **settings(reported),
        **summary,
        "grids": grids(tuned),
        "rate_factors": found_by_kind(reported, "rate_factors", geometric_mean),
        "powers": found_by_kind(reported, "powers", fmean),
    }


def found_by_kind(
    records: Sequence[RunRecord], field: str, mean: Callable[[list[float]], float]
) -> dict[str, dict[str, list[float]]]:
    """What a rule has found, by optimizer and kind of matrix: the mean over layers and seeds, the smallest and largest.

    Args:
        records: of the runs.
        field: of a run's result, the numbers by matrix.
        mean: of such numbers.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for run in records:
        numbers = getattr(run.result, field) if run.result is not None else {}
        for name, kind in kinds_of([*numbers]).items():
            by_kind = found.setdefault(run.config.optimizer.name, {})
            by_kind.setdefault(kind or "other", []).append(numbers[name])
    return {spec: {kind: [mean(of), min(of), max(of)] for kind, of in kinds.items()} for spec, kinds in found.items()}


def keep(experiment: str) -> None:
    """Store what the page needs of a finished comparison."""
    folder = ROOT / "runs" / "evidence" / experiment
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{experiment}.json").write_text(json.dumps(stored(folder), indent=1) + "\n")
    figure = folder / "figures" / "loss-by-power.png"
    if figure.exists():
        FIGURES.mkdir(parents=True, exist_ok=True)
        shutil.copy(figure, FIGURES / f"{experiment}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", choices=[*EXPERIMENTS, []], metavar="NAME", help="see --list")
    parser.add_argument("--list", action="store_true", help="print the commands and end")
    parser.add_argument("--read", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(shlex.join(experiment.command(name)) for name, experiment in EXPERIMENTS.items()))
        return
    for experiment in arguments.experiments:
        if not arguments.read:
            _, *words = EXPERIMENTS[experiment].command(experiment)
            if htmuon(words):
                raise SystemExit(1)
        keep(experiment)
    for page in PAGES:
        page.write_text(filled(page.read_text()))


if __name__ == "__main__":
    main()
