"""The tables of docs/results/README.md, from benchmarks/results/evidence."""

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from page_parts import fill, markdown

from htmuon.baselines.specs import has_separate_rates, parse_spec
from htmuon.compare.interval import mean_interval
from htmuon.compare.labels import label, loss_name

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "evidence"
MUON = "muon:method=newton_schulz"
# The experiments of the sweep over the power, and the powers by spec.
SWEEPS = (
    "llama-tiny",
    "llama-tiny-confirmed",
    "negative",
    "large-batch",
    "small-batch",
    "novels",
    "resnet-tiny",
    "resnet-tiny-confirmed",
)
POWERS = {
    "htmuon:power=-0.25": "-1/4",
    "htmuon:power=-0.125": "-1/8",
    "muon": "0, exact",
    "htmuon:power=0.0625": "1/16",
    "htmuon": "1/8",
    "htmuon:power=0.25": "1/4",
}
# Those of the other choices, and what each optimizer is to be measured against: the same choice without a power.
CHOICES = ("schedules", "schedules-confirmed", "large-batch", "negative", "normalizations", "embeddings", "variants")
KINDS = (
    "kinds",
    "kinds-confirmed",
    "kinds-powers",
    "kinds-variants",
    "kinds-llama-tiny",
    "rules-llama-tiny",
    "kinds-resnet-tiny",
)
# What the rows of an experiment are measured against beside Muon.
AGAINST = {
    "kinds-powers": f"{MUON},lr_scale.query+key=2,lr_scale.value+output+down=0.35",
    "rules-llama-tiny": f"{MUON},lr_scale=kinds",
}
# By tokens for each parameter, and the optimizers whose settings depend on the length by what they have in common.
LENGTHS = ("long-1", "long-4", "long-10", "long-20", "long-60")
WITHOUT_POWER = {
    "htmuon": MUON,
    "htnormuon": "normuon:method=newton_schulz",
    "htadamuon": "adamuon:method=newton_schulz",
}


def results() -> dict[str, dict[str, Any]]:
    """Every stored experiment."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def filled(text: str) -> str:
    """A page with every measured part made anew."""
    found = results()
    for experiment, result in found.items():
        text = fill(text, experiment, f"\n{section(result)}\n")
    text = fill(text, "by choice", f"\n{by_choice(found)}\n")
    text = fill(text, "rates", f"\n{by_kind(found)}\n")
    text = fill(text, "by length", f"\n{by_length(found)}\n")
    return fill(text, "by power", f"\n{by_power(found)}\n")


def by_power(found: dict[str, dict[str, Any]]) -> str:
    """By how much the loss differs from that of Muon at each power, in each experiment, and at which rate."""
    rows = [["experiment", "the other parameters' lr", "Muon's lr", *(f"p = {power}" for power in POWERS.values())]]
    for experiment in filter(found.__contains__, SWEEPS):
        result = found[experiment]
        by_spec = {row["spec"]: row for row in result["optimizers"]}
        cells = [cell(by_spec.get(spec)) for spec in POWERS]
        muon = by_spec[result["baseline"]]
        rows.append([f"`{experiment}`", f"{muon['adamw_lr']:g}", f"{muon['lr']:g}", *cells])
    return markdown(rows)


def by_choice(found: dict[str, dict[str, Any]]) -> str:
    """By how much each choice of power, schedule and the like changes the loss of the same without a power."""
    rows = [["experiment", "optimizer", "against", "difference (95 % interval)", "judgement"]]
    for experiment in filter(found.__contains__, CHOICES):
        by_spec = {row["spec"]: row for row in found[experiment]["optimizers"]}
        # The plain powers have a table of their own.
        pairs = [(spec, other) for spec in by_spec if spec not in POWERS for other in without_choice(spec)]
        for spec, against in pairs:
            shown = pair(by_spec[spec], by_spec[against])
            rows.append([f"`{experiment}`", label(spec), name(against), *shown])
    return markdown(rows)


def without_choice(spec: str) -> list[str]:
    """The optimizer that a spec is without its power or schedule, and without its normalization; none for others."""
    optimizer, settings = parse_spec(spec)
    if optimizer not in WITHOUT_POWER:
        return []
    matrices = ",matrices=all" if settings.get("matrices") == "all" else ""
    return [WITHOUT_POWER[optimizer] + matrices, *([optimizer] if "normalization" in settings else [])]


def by_length(found: dict[str, dict[str, Any]]) -> str:
    """By how much the loss of each optimizer differs from Muon's, by tokens for each parameter."""
    lengths = [found[experiment] for experiment in filter(found.__contains__, LENGTHS)]
    head = [f"{result['steps'] * result['examples_per_step'] / result['parameters']:.0f}" for result in lengths]
    rows: dict[str, list[str]] = {}
    for place, result in enumerate(lengths):
        for row in result["optimizers"]:
            name = label(row["spec"].replace(f"total_steps={result['steps']},", ""))
            cells = rows.setdefault(name, [""] * len(lengths))
            if row["difference"] is not None:
                shown = f"{row['difference']:+.4f} ({row['difference_low']:+.4f} to {row['difference_high']:+.4f})"
                cells[place] = f"**{shown}**" if row["judgement"] in ("better", "worse") else shown
            elif row["spec"] == result["baseline"]:
                cells[place] = f"loss {row['loss']:.4f}"
    table = [["tokens for each parameter", *head], *([name, *cells] for name, cells in rows.items())]
    return markdown(table)


def by_kind(found: dict[str, dict[str, Any]]) -> str:
    """The experiments with rates by kind of matrix, and the factors that the rule has found in them."""
    parts = []
    for experiment in filter(found.__contains__, KINDS):
        result = found[experiment]
        parts.append(f"`{experiment}`, {result['steps']:,} steps:\n\n{table(result)}")
        parts += [paired(result, AGAINST[experiment])] if experiment in AGAINST else []
        for field, words in (("rate_factors", "factors found"), ("powers", "powers found")):
            numbers = result.get(field, {})
            kinds = list(dict.fromkeys(kind for of in numbers.values() for kind in of))
            rows = [[label(spec), *map(shown_mean, map(of.get, kinds))] for spec, of in numbers.items()]
            parts += [markdown([[words, *kinds], *rows])] if rows else []
    return "\n\n".join(parts)


def paired(result: dict[str, Any], against: str) -> str:
    """The losses of the other optimizers minus that of one."""
    by_spec = {row["spec"]: row for row in result["optimizers"]}
    head = [f"minus {label(against)}", "difference (95 % interval)", "judgement"]
    return markdown(
        [head, *([label(spec), *pair(row, by_spec[against])] for spec, row in by_spec.items() if spec != against)]
    )


def pair(row: dict[str, Any], other: dict[str, Any]) -> tuple[str, str]:
    """The mean paired difference of two optimizers with its interval, and what it says."""
    differences = [a - b for a, b in zip(row["losses"], other["losses"], strict=True)]
    interval = mean_interval(differences)
    assert interval is not None
    return f"{fmean(differences):+.4f} ({interval.low:+.4f} to {interval.high:+.4f})", interval.judgement


def shown_mean(number: list[float] | None) -> str:
    """A mean and the range over layers and seeds."""
    return "" if number is None else f"{number[0]:.2f} ({number[1]:.2f} to {number[2]:.2f})"


def cell(row: dict[str, Any] | None) -> str:
    """The difference, bold where its interval leaves out zero, and the tuned rate."""
    if row is None or row["difference"] is None:
        return ""
    shown = f"{row['difference']:+.4f}"
    decided = row["judgement"] in ("better", "worse")
    return f"{f'**{shown}**' if decided else shown} at {row['lr']:g}"


def section(result: dict[str, Any]) -> str:
    """The table of one experiment, its verdict, and how it was made."""
    seeds, threads = len(result["optimizers"][0]["seeds"]), result["threads"]
    made = (
        f"{result['parameters']:,} parameters, {result['hidden_parameters']:,} of them in hidden matrices; "
        f"{result['steps']:,} steps of {result['examples_per_step']:,} {'images' if on_images(result) else 'tokens'}; "
        f"{seeds} seeds, learning rates tuned on {len(result['tuning_seeds'])} other; {other_rate(result)}. "
        f"`{result['command']}` "
        f"({result['device']}, {threads} thread{'s' if threads > 1 else ''}, torch {result['versions']['torch']})."
    )
    sentences = [*result["verdict"], *result["warnings"], *by_other_rate(result)]
    verdict = "\n".join(f"- {sentence}" for sentence in sentences)
    return f"{table(result)}\n\n{verdict}\n\n{made}"


def other_rate(result: dict[str, Any]) -> str:
    """The rate of the parameters beside the matrices."""
    [rate] = {row["adamw_lr"] for row in result["optimizers"] if has_separate_rates(row["spec"])}
    return f"the other parameters' rate is {rate:g}"


def by_other_rate(result: dict[str, Any]) -> list[str]:
    """A sentence on the optimizer with which the rate of the other parameters was searched."""
    found = []
    for spec, grid in result["grids"].items():
        losses: dict[str, dict[str, float]] = defaultdict(dict)
        for rates, loss in grid.items():
            lr, slash, other = rates.partition(" / ")
            if slash and loss is not None:
                losses[lr][other] = loss
        # The matrices' rate at which the others' was searched.
        lr, of_other = max(losses.items(), key=lambda item: len(item[1]), default=("", {}))
        if len(of_other) > 2:
            shown = ", ".join(f"{loss:.4f} at {other}" for other, loss in of_other.items())
            found.append(f"{name(spec)} in tuning, lr {lr}, by the rate of the other parameters: {shown}.")
    return found


def table(result: dict[str, Any]) -> str:
    """One row for each optimizer: its rate, loss, difference to the baseline, and the price of a step."""
    [baseline] = [row for row in result["optimizers"] if row["spec"] == result["baseline"]]
    quality = "accuracy, %" if on_images(result) else "perplexity"
    baseline_name, _, _ = label(result["baseline"]).partition(" (")
    head = [
        "optimizer",
        "lr",
        loss_name(result.get("split", "test")),
        quality,
        f"minus {baseline_name} (95 % interval)",
        "judgement",
    ]
    timed = "equal_time" in result
    rows = [[*head, "time of a step"] if timed else head]
    for row in result["optimizers"]:
        shown = f"{row['perplexity']:.2f}" if row["perplexity"] else ""
        if on_images(result):
            shown = mean_and_spread(100 * row["accuracy"], 100 * row["accuracy_spread"], 2)
        cells = [name(row["spec"]), f"{row['lr']:g}", mean_and_spread(row["loss"], row["spread"], 4), shown]
        cells += [difference(row), row["judgement"] or ""]
        ratio = row["seconds_per_step"] / baseline["seconds_per_step"]
        rows.append([*cells, f"{ratio:.2f}x"] if timed else cells)
    return markdown(rows)


def on_images(result: dict[str, Any]) -> bool:
    return result["optimizers"][0]["accuracy"] is not None


def name(spec: str) -> str:
    """What a table calls an optimizer: the default power is said, for others stand beside it."""
    return "HTMuon (power=0.125)" if spec == "htmuon" else label(spec)


def mean_and_spread(mean: float, spread: float | None, digits: int) -> str:
    return f"{mean:.{digits}f}" if spread is None else f"{mean:.{digits}f} ± {spread:.{digits}f}"


def difference(row: dict[str, Any]) -> str:
    if row["difference"] is None:
        return ""
    return f"{row['difference']:+.4f} ({row['difference_low']:+.4f} to {row['difference_high']:+.4f})"
