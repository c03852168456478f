"""Which optimizer of a comparison the others are compared with."""

from collections.abc import Sequence

from htmuon._registry import unknown_name
from htmuon.recipes.optimizers import parse_spec


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


def _is_muon(spec: str) -> bool:
    name, settings = parse_spec(spec)
    plain = "schedule" not in settings and not settings.get("power")
    return plain and "".join(filter(str.isalpha, name)).removeprefix("torch") == "muon"
