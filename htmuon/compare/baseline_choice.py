"""Which optimizer of a comparison the others are compared with, and which one guides the search for their rates."""

from collections.abc import Sequence

from htmuon._registry import unknown_name
from htmuon.baselines import has_separate_rates, optimizer_info, parse_spec


def choose_baseline(specs: Sequence[str], named: str = "") -> str:
    """The spec of the baseline: the one that is named, else the first Muon, else the first optimizer.

    Args:
        specs: the optimizers of the comparison, at least one.
        named: one of them, or "".

    Raises:
        ValueError: the named one is not among them.

    Example:
        >>> choose_baseline(["adamw", "muon:method=newton_schulz", "htmuon"])
        'muon:method=newton_schulz'
    """
    if named:
        if named not in specs:
            raise unknown_name("baseline", named, list(specs))
        return named
    return next((spec for spec in specs if _is_muon(spec)), specs[0])


def choose_guide(specs: Sequence[str]) -> str | None:
    """The spec with which the learning rate of the other parameters is searched: the first Muon, if there is one.

    All take the rate that is best with it. One that is not Muon might do better with another: what is then worse than
    Muon may be so for that reason, what is better is so in spite of it.

    Args:
        specs: the optimizers of the comparison but AdamW.

    Returns:
        A Muon, or else the first one that gives matrices and other parameters rates of their own; None if none does.

    Example:
        >>> choose_guide(["soap", "htmuon", "muon:method=newton_schulz"]), choose_guide(["soap"])
        ('muon:method=newton_schulz', None)
    """
    split = [spec for spec in specs if has_separate_rates(spec)]
    return next((spec for spec in split if _is_muon(spec)), split[0] if split else None)


def _is_muon(spec: str) -> bool:
    name, settings = parse_spec(spec)
    return optimizer_info(name).is_muon and "schedule" not in settings and not settings.get("power")
