"""The result of a comparison in plain sentences, computed from the numbers, whoever wins."""

from collections.abc import Sequence

from htmuon.recipes.labels import label
from htmuon.recipes.summary import OptimizerSummary, sample_spread

# With fewer than five seeds, a mean gap above the spread and of the same sign on every seed is easily chance.
_FEW_SEEDS = {1: "One seed gives", 2: "Two seeds give", 3: "Three seeds give", 4: "Four seeds give"}


def verdict(summaries: Sequence[OptimizerSummary]) -> list[str]:
    """Sentences: the headline, then who beats whom and by how much, what diverged, what a step costs."""
    ranked = sorted((s for s in summaries if not s.diverged), key=lambda s: s.loss)
    diverged = [label(s.spec) for s in summaries if s.diverged]
    failures = [f"Diverged in at least one run: {', '.join(diverged)}."] if diverged else []
    if not ranked:
        return failures
    best = ranked[0]
    article = "the lowest" if len(summaries) > 1 else "a"
    numbers = f"{best.loss:.4f} (perplexity {best.perplexity:.2f})"
    sentences = [f"{label(best.spec)} reaches {article} validation loss of {numbers}."]
    tied = [best, *(other for other in ranked[1:] if exceeds_spread(best, other) is False)]
    if len(tied) > 1:
        shown = ", ".join(f"{label(s.spec)} {s.loss:.4f}" for s in tied)
        sentences = [f"The lowest validation loss is a tie between {len(tied)} optimizers: {shown}."]
    sentences.extend(_against(best, other) for other in ranked[1:])
    sentences.extend(failures)
    if len(best.seeds) in _FEW_SEEDS and len(ranked) > 1:
        sentences.append(
            f"{_FEW_SEEDS[len(best.seeds)]} an indication, not a proof: take more (in a new folder) before concluding."
        )
    baseline = summaries[0]
    sentences.extend(_cost(other, baseline) for other in ranked if other is not baseline and not baseline.diverged)
    return sentences


def exceeds_spread(best: OptimizerSummary, other: OptimizerSummary) -> bool | None:
    """Whether `best` beats `other` on every seed and by more than the spread over seeds; None where there is no spread.

    The spread is the largest of three sample standard deviations: the losses of each, and their paired differences.
    """
    paired = _paired(best, other)
    spreads = [spread for spread in (best.spread, other.spread, sample_spread(paired)) if spread is not None]
    if len(spreads) < 3:
        return None
    return all(difference > 0 for difference in paired) and other.loss - best.loss > max(spreads)


def _against(best: OptimizerSummary, other: OptimizerSummary) -> str:
    gap = f"Against {label(other.spec)} ({other.loss:.4f}) {label(best.spec)} is {other.loss - best.loss:.4f} lower"
    paired = _paired(best, other)
    clear = exceeds_spread(best, other)
    if clear is None:
        return f"{gap}; a single seed says nothing about chance."
    if clear:
        return f"{gap}: more than the spread over seeds, and lower on each of the {len(paired)} seeds."
    wins = sum(difference > 0 for difference in paired)
    return f"{gap}, on {wins} of {len(paired)} seeds: not clearly more than the spread over seeds, so call it a tie."


def _paired(best: OptimizerSummary, other: OptimizerSummary) -> list[float]:
    of_seed = dict(zip(other.seeds, other.losses, strict=True))
    return [of_seed[seed] - loss for seed, loss in zip(best.seeds, best.losses, strict=True) if seed in of_seed]


def _cost(summary: OptimizerSummary, baseline: OptimizerSummary) -> str:
    ratio = summary.seconds_per_step / baseline.seconds_per_step
    sentence = f"A step of {label(summary.spec)} takes {ratio:.2f} times as long as one of {label(baseline.spec)}"
    steps = summary.steps_to_baseline
    if steps is None:
        return f"{sentence}."
    return f"{sentence}; it reaches {label(baseline.spec)}'s final loss after {steps:.0f} steps."
