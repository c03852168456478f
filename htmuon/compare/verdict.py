"""The result of a comparison in plain sentences, computed from the numbers, whoever wins."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from htmuon.compare.equal_budget import LossesAtBudget
from htmuon.compare.interval import CONFIDENCE
from htmuon.compare.labels import label, loss_name
from htmuon.compare.paired import PairedLosses
from htmuon.compare.summary import OptimizerSummary, baseline_of

# The best of more optimizers than these is partly the luckiest of them.
_WIDE_SEARCH = 5
_SEEDS_FOR_CONCLUSION = 3
CONFIRMING_SEEDS = 5


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """What a comparison has to do with another one.

    Attributes:
        kind: "needed" if its winner would have to be confirmed, "done" if it confirms the winner of an earlier one.
        text: the command that confirms, or the folder of the earlier comparison.
    """

    kind: Literal["needed", "done"]
    text: str


def verdict(
    summaries: Sequence[OptimizerSummary],
    *,
    timed: bool = True,
    equal_time: Sequence[LossesAtBudget] = (),
    confirmation: Confirmation | None = None,
) -> list[str]:
    """Sentences: the headline, who is better or worse than the baseline, what diverged, what a step costs.

    Of many optimizers the table says what a step costs, and here only the best has a sentence for it.

    Args:
        summaries: of all optimizers.
        timed: whether their times can be compared.
        equal_time: their losses at the largest common training time.
        confirmation: how the winner of a wide search is to be confirmed, or that this comparison does it.
    """
    ranked = sorted((s for s in summaries if not s.diverged), key=lambda s: s.loss)
    diverged = [label(s.spec) for s in summaries if s.diverged]
    failures = [f"Diverged in at least one run: {', '.join(diverged)}."] if diverged else []
    baseline = baseline_of(summaries)
    sentences: list[str] = []
    if confirmation is not None and confirmation.kind == "done":
        sentences += [_confirmed(s, confirmation.text) for s in summaries if s.spec != s.baseline]
    if ranked:
        sentences.append(_headline(ranked[0], alone=len(summaries) == 1))
    if baseline is None or baseline.diverged:
        return [*sentences, *failures]
    others = [summary for summary in ranked if summary is not baseline]
    wide = len(summaries) > _WIDE_SEARCH
    if wide:
        sentences += _grouped(others, baseline)
        best = winner(summaries)
        if confirmation is not None and confirmation.kind == "needed" and best is not None:
            sentences.append(_unconfirmed(best, len(summaries), confirmation.text))
    else:
        sentences += [_against(summary, baseline) for summary in others]
    sentences += failures
    seeds = len(baseline.seeds)
    if others and seeds < _SEEDS_FOR_CONCLUSION:
        sentences.append(
            f"{'One seed is' if seeds == 1 else 'Two seeds are'} fewer than the three that a conclusion needs: "
            "take more (in a new folder)."
        )
    at_time = {entry.spec: entry for entry in equal_time}
    priced = (others[:1] if wide else others) if timed else []
    return sentences + [_cost(summary, baseline, at_time.get(summary.spec)) for summary in priced]


def winner(summaries: Sequence[OptimizerSummary]) -> OptimizerSummary | None:
    """The optimizer that a confirmation would be of; None where none has a lower mean loss than the baseline.

    It is the one of lowest mean loss among those that are better than the baseline, or else, where no interval says
    that of any, among all.
    """
    lower = [s for s in summaries if not s.diverged and s.difference is not None and s.difference < 0]
    better = [summary for summary in lower if summary.judgement == "better"]
    return min(better or lower, key=lambda summary: summary.loss, default=None)


def _headline(best: OptimizerSummary, alone: bool) -> str:
    numbers = f"{best.loss:.4f} ({best.quality})"
    doubt = f", but no difference to {label(best.baseline)} is seen" if best.judgement == "no difference seen" else ""
    return f"{label(best.spec)} reaches {'a' if alone else 'the lowest'} {loss_name(best.split)} of {numbers}{doubt}."


def _against(summary: OptimizerSummary, baseline: OptimizerSummary) -> str:
    name, other = label(summary.spec), label(baseline.spec)
    if summary.judgement is None:
        return f"{name} minus {other}: {_amount(summary)}; a single seed says nothing about chance."
    pairs = f"over {len(summary.differences)} paired seeds"
    if summary.judgement == "no difference seen":
        return f"No difference seen between {name} and {other}: {_amount(summary)} {pairs}."
    return f"{name} is {summary.judgement} than {other}: {_amount(summary)} {pairs}."


def _amount(losses: PairedLosses) -> str:
    """A difference with its interval."""
    shown = f"{losses.difference:+.4f}" if losses.difference is not None else "no pair of finite losses"
    interval = losses.interval
    if interval is None:
        return shown
    return f"{shown}, {CONFIDENCE:.0%} interval {interval.low:+.4f} to {interval.high:+.4f},"


def _grouped(others: Sequence[OptimizerSummary], baseline: OptimizerSummary) -> list[str]:
    """One sentence for each judgement, where one for each optimizer would be too many."""
    name = label(baseline.spec)
    heads = {
        "better": f"Better than {name}",
        "no difference seen": f"No difference to {name} seen",
        "worse": f"Worse than {name}",
        None: f"Against {name} on a single seed, which says nothing about chance",
    }
    groups = {head: [s for s in others if s.judgement == judgement] for judgement, head in heads.items()}
    return [
        f"{head}: " + ", ".join(f"{label(s.spec)} ({s.difference or 0.0:+.4f})" for s in group) + "."
        for head, group in groups.items()
        if group
    ]


def _unconfirmed(best: OptimizerSummary, searched: int, command: str) -> str:
    return (
        f"The winner among {searched} optimizers is partly the luckiest: {label(best.spec)} counts as better than "
        f"{label(best.baseline)} only when both are tuned again and {CONFIRMING_SEEDS} fresh seeds confirm it: "
        f"{command}"
    )


def _confirmed(summary: OptimizerSummary, searched: str) -> str:
    pairs = len(summary.differences)
    confirmed = summary.judgement == "better" and pairs >= CONFIRMING_SEEDS
    result = "confirms" if confirmed else "does not confirm"
    return (
        f"This comparison, tuned again and with {pairs} fresh seeds, on data that no run of the search was judged by, "
        f"{result} that {label(summary.spec)}, the winner of the search in {searched}, is better than "
        f"{label(summary.baseline)}."
    )


def _cost(summary: OptimizerSummary, baseline: OptimizerSummary, at_time: LossesAtBudget | None) -> str:
    other = label(baseline.spec)
    ratio = summary.seconds_per_step / baseline.seconds_per_step
    sentence = f"A step of {label(summary.spec)} takes {ratio:.2f} times as long as one of {other}"
    if summary.steps_to_baseline is not None:
        sentence += f"; it reaches {other}'s final loss after at most {summary.steps_to_baseline:.0f} steps"
    if at_time is not None and at_time.difference is not None and math.isfinite(at_time.difference):
        judged = f" ({at_time.judgement})" if at_time.judgement else ""
        amount = _amount(at_time).removesuffix(",")
        sentence += f"; at equal training time, the slower one's learning rate still up, it differs by {amount}{judged}"
    return f"{sentence}."
