"""What a matrix does in its block: query, key, value, output, gate, up or down; and settings by it.

Kinds want different learning rates and powers (docs/rates.md). A new spelling is one more word in `KINDS`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Literal

from htmuon._checks import check_number, plain
from htmuon._warnings import warn
from htmuon.routing.names import WRAPPERS
from htmuon.routing.patterns import nearest

# By the last part of a module's name.
KINDS: dict[str, frozenset[str]] = {
    "query": frozenset({"q_proj", "q_lin", "to_q", "query", "wq", "q", "q_a_proj", "q_b_proj"}),
    "key": frozenset({"k_proj", "k_lin", "to_k", "key", "wk", "k"}),
    "value": frozenset({"v_proj", "v_lin", "to_v", "value", "wv", "v"}),
    "qkv": frozenset({"qkv_proj", "qkv", "c_attn", "query_key_value", "in_proj", "in_proj_weight", "Wqkv", "w_qkv"}),
    "output": frozenset({"o_proj", "out_proj", "out_lin", "to_out", "o"}),
    "gate": frozenset({"gate_proj", "w1", "wi_0", "gate"}),
    "up": frozenset(
        {"up_proj", "w3", "wi_1", "up", "fc1", "c_fc", "lin1", "dense_h_to_4h", "wi", "linear1", "fc_in", "pwconv1"}
    ),
    "gate_up": frozenset({"gate_up_proj", "w12"}),
    "down": frozenset({"down_proj", "w2", "down", "fc2", "lin2", "dense_4h_to_h", "linear2", "fc_out", "pwconv2"}),
}
# Factors of the learning rate by kind that were better than one rate for all on a small LLaMA (docs/rates.md); found by
# hand, on that network alone.
RATES: dict[str, float] = {"query": 2.0, "key": 2.0, "value": 0.35, "output": 0.35, "down": 0.35}
KindRates = Mapping[str, float] | Literal["kinds"]
# Words that say a kind beside what holds them alone: attention, or feed-forward layers.
IN_ATTENTION = {"c_proj": "output", "proj": "output", "wo": "output", "dense": "output", "out": "output"}
IN_FEED_FORWARD = {"c_proj": "down", "wo": "down"}
FEED_FORWARD = frozenset({"mlp", "ffn", "feed_forward", "DenseReluDense", "ff"})
# Of a feed-forward part that is an `nn.Sequential`, with an activation and perhaps a dropout between: torchvision.
IN_SEQUENCE = {"0": "up", "2": "down", "3": "down"}
# Layers with a number; they may be those of any network.
NUMBERED = re.compile(r"(fc|lin|linear)[12]")
# What stands behind the name of a module in that of its parameter.
_WEIGHTS = frozenset({"weight", "weight_orig", "weight_v", "original", "original0", "original1", "base_layer"}) | {
    "parametrizations"
}


def kinds_of(names: Sequence[str]) -> dict[str, str | None]:
    """The kind of each parameter of a model, by its name and those beside it; None where they say none.

    `fc1` and `fc2` are a feed-forward part where a module below the model has the two, or is called so, and has no
    `fc3`; in a plain classifier they are none.

    Args:
        names: of all parameters.

    Example:
        >>> kinds_of(["0.fc1.weight", "0.fc2.weight", "fc1.weight", "fc2.weight"])
        {'0.fc1.weight': 'up', '0.fc2.weight': 'down', 'fc1.weight': None, 'fc2.weight': None}
    """
    places = {name: _place(name) for name in names}
    there = set(places.values())
    found = {name: kind_of(name) if _counts(*place, there) else None for name, place in places.items()}
    beside_query = {name for name, (around, word) in places.items() if word == "wo" and (around, "wq") in there}
    return {**found, **dict.fromkeys(beside_query, "output")}


def _place(name: str) -> tuple[tuple[str, ...], str]:
    """The names of the modules around the one that a parameter is of, and the name of that one."""
    *around, word = [part for part in WRAPPERS.sub("", name).split(".") if part not in _WEIGHTS | {"bias"}] or [""]
    return tuple(around), word


def _counts(around: tuple[str, ...], word: str, there: set[tuple[tuple[str, ...], str]]) -> bool:
    """Whether the name of a layer counts: one that is numbered, only as the first or the second of two."""
    numbered = NUMBERED.fullmatch(word)
    if numbered is None:
        return True
    beside = [number for number in (1, 2, 3) if (around, f"{numbered[1]}{number}") in there]
    return around != () and 3 not in beside and (beside == [1, 2] or around[-1] in FEED_FORWARD)


def kind_of(name: str) -> str | None:
    """The kind of a parameter, by its name alone; None where the name says none.

    Example:
        >>> kind_of("model.layers.0.self_attn.q_proj.weight"), kind_of("h.3.mlp.c_proj.weight"), kind_of("0.weight")
        ('query', 'down', None)
    """
    whole = [part for part in name.split(".") if part not in _WEIGHTS]
    if len(whole) > 1 and whole[-2] in FEED_FORWARD and whole[-1].isdecimal():
        return IN_SEQUENCE.get(whole[-1])
    parts = [part for part in whole if not part.isdecimal()]
    word, holders = (parts[-1] if parts else ""), parts[:-1]
    if word.endswith("_proj_weight"):  # torch's own attention
        word = word.removesuffix("_weight")
    for kind, words in KINDS.items():
        if word in words:
            return kind
    if FEED_FORWARD & set(holders):
        return IN_FEED_FORWARD.get(word)
    if any("attn" in part or "attention" in part for part in holders):
        return IN_ATTENTION.get(word)
    # BERT's: `layer.0.intermediate.dense` and `layer.0.output.dense`.
    return {"intermediate": "up", "output": "down"}.get(holders[-1] if holders else "") if word == "dense" else None


def rates_by_kind(rules: KindRates, kinds: Mapping[str, str | None]) -> dict[str, float]:
    """The factor of the learning rate of each matrix that has one; `"kinds"` stands for `RATES`.

    Args:
        rules: as for `by_kind`, or `"kinds"`.
        kinds: of the matrices by their names.

    Raises:
        TypeError: as `by_kind`.
        ValueError: as `by_kind`; or it is another word.

    Example:
        >>> rates_by_kind({"query": 2, "down": 0.35}, {"0.q_proj.weight": "query", "0.down_proj.weight": "down"})
        {'0.q_proj.weight': 2.0, '0.down_proj.weight': 0.35}
    """
    if isinstance(rules, str) and rules != "kinds":
        raise ValueError(
            f"lr_scale must be 'kinds', or a mapping from kinds ({', '.join(KINDS)}) or patterns to numbers; got "
            f"{rules!r}. Did you mean 'kinds'?"
        )
    if rules == "kinds":
        found = {name: RATES[kind] for name, kind in kinds.items() if kind in RATES}
        if not found:
            raise ValueError(
                f"lr_scale='kinds' needs matrices of the kinds {', '.join(RATES)}; there are {_shown(kinds)}. Pass "
                "rate_rule='alignment' to the optimizer, by which each matrix finds its rate, or factors by pattern."
            )
        _warn_of_a_part(kinds)
        return found
    return by_kind("lr_scale", rules, kinds, least=0.0, most=math.inf)


def by_kind(
    argument: str, rules: Mapping[str, float], kinds: Mapping[str, str | None], *, least: float, most: float
) -> dict[str, float]:
    """The value of each matrix for which a rule is given.

    Args:
        argument: which takes the rules, for messages.
        rules: values by kind or by pattern over names; of two that match, a pattern counts before a kind, and of two
            patterns the first. One that matches nothing beside others that do is a warning.
        kinds: of the matrices by their names.
        least: the least value that is allowed.
        most: the largest one.

    Raises:
        TypeError: the rules are no mapping, or a value is no number.
        ValueError: no rule matches any matrix, or a value is out of range.

    Example:
        >>> kinds = {"x.0.v_proj.weight": "value", "x.1.v_proj.weight": "value", "x.1.up_proj.weight": "up"}
        >>> by_kind("power", {"value": -0.4, "*.0.*": 0}, kinds, least=-1, most=1)
        {'x.0.v_proj.weight': 0.0, 'x.1.v_proj.weight': -0.4}
    """
    if not isinstance(rules, Mapping):
        raise TypeError(
            f"{argument} must be a mapping from kinds ({', '.join(KINDS)}) or patterns to numbers; got {rules!r} of "
            f"type {type(rules).__name__}. Pass the one of all to the optimizer instead."
        )
    values = {key: plain(value) for key, value in rules.items()}
    for key, value in values.items():
        check_number(f"{argument} of {key!r}", value, least=least, most=most, remedy="Pass a float such as 0.5.")
    found: dict[str, str] = {}
    for key in [*(key for key in rules if key not in KINDS), *(key for key in rules if key in KINDS)]:
        matches = [name for name, kind in kinds.items() if (kind == key if key in KINDS else fnmatchcase(name, key))]
        if not matches:
            _refuse_or_warn(argument, key, kinds, refuse=len(rules) == 1)
        found = {**dict.fromkeys(matches, key), **found}
    if rules and not found:
        raise ValueError(f"{argument} must name some matrix; none of {', '.join(rules)} is one of {_shown(kinds)}.")
    return {name: float(values[found[name]]) for name in kinds if name in found}


def _warn_of_a_part(kinds: Mapping[str, str | None]) -> None:
    """Warn where a model has some of the kinds in the table alone: nobody has measured a part of it."""
    missing = [kind for kind in RATES if kind not in kinds.values()]
    others = [name for name, kind in kinds.items() if kind is None or kind == "qkv"]
    if missing:
        which = f", as {others[0]!r} does" if others else ""
        warn(
            f"lr_scale='kinds' is a part of its table here: there are {_shown(kinds)}, and no {', '.join(missing)}. "
            f"What has no factor keeps the rate of the optimizer{which}. Nobody has measured that: give factors by "
            "kind or pattern, lr_scale={'*.wo.*': 0.35}, or take one rate for all."
        )


def _refuse_or_warn(argument: str, key: str, kinds: Mapping[str, str | None], *, refuse: bool) -> None:
    """Say that a rule matches nothing, and what is like it."""
    if key in KINDS:
        said = f"{argument} of {key!r} matches no matrix of the spectral side; there are {_shown(kinds)}."
    else:
        near = [f"the kind {kind!r}" for kind in get_close_matches(key, KINDS, n=1)]
        near = near or ([nearest(key, [*kinds])] if kinds else [f"there are {_shown(kinds)}"])
        said = (
            f"{argument} pattern {key!r} matches no matrix of the spectral side. Patterns are shell-style over whole "
            f"names, kinds are {', '.join(KINDS)}: {near[0]}."
        )
    if refuse:
        raise ValueError(said)
    warn(said)


def _shown(kinds: Mapping[str, str | None]) -> str:
    """The kinds that there are, or some names where there are none."""
    names = [*kinds]
    return (
        ", ".join(dict.fromkeys(kind for kind in kinds.values() if kind is not None))
        or ", ".join([*names[:3], "..."][: len(names) + 1] if len(names) > 3 else names)
        or "no matrices"
    )
