"""What a matrix does in its block: query, key, value, output, gate, up or down; and settings by it.

Kinds want different learning rates and powers (docs/module_kinds.md). A new spelling is one more word in `KINDS`.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from htmuon._checks import check_real
from htmuon.routing.patterns import check_patterns

# By the last part of a module's name: the spellings of transformers, timm, torchvision and the models of papers.
KINDS: dict[str, frozenset[str]] = {
    "query": frozenset({"q_proj", "q_lin", "to_q", "query", "wq", "q", "q_a_proj", "q_b_proj"}),
    "key": frozenset({"k_proj", "k_lin", "to_k", "key", "wk", "k"}),
    "value": frozenset({"v_proj", "v_lin", "to_v", "value", "wv", "v"}),
    "qkv": frozenset({"qkv_proj", "qkv", "c_attn", "query_key_value", "in_proj", "in_proj_weight", "Wqkv", "w_qkv"}),
    "output": frozenset({"o_proj", "out_proj", "out_lin", "to_out", "wo", "o"}),
    "gate": frozenset({"gate_proj", "w1", "wi_0", "gate"}),
    "up": frozenset({"up_proj", "w3", "wi_1", "up", "fc1", "c_fc", "lin1", "dense_h_to_4h", "wi", "linear1"}),
    "gate_up": frozenset({"gate_up_proj", "w12"}),
    "down": frozenset({"down_proj", "w2", "down", "fc2", "lin2", "dense_4h_to_h", "linear2"}),
}

# What stands behind the name of a module in that of its parameter.
_WEIGHTS = frozenset({"weight", "original", "original0", "original1", "base_layer", "parametrizations"})


def kind_of(name: str) -> str | None:
    """The kind of a parameter, by its name; None where the name says none.

    Example:
        >>> kind_of("model.layers.0.self_attn.q_proj.weight"), kind_of("blocks.3.mlp.fc2.weight"), kind_of("0.weight")
        ('query', 'down', None)
    """
    last = next((part for part in reversed(name.split(".")) if not part.isdecimal() and part not in _WEIGHTS), "")
    return next((kind for kind, names in KINDS.items() if last in names), None)


def by_kind(argument: str, rules: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """The value of each name for which a rule is given.

    Args:
        argument: which takes the rules, for messages.
        rules: values by kind or by pattern over names; of two that match, a pattern counts before a kind, and of two
            patterns the first.
        names: of the parameters.

    Raises:
        TypeError: the rules are no mapping, or a value is no number.
        ValueError: no rule matches any name.

    Example:
        >>> by_kind("power", {"value": -0.4, "*.0.*": 0}, ["x.0.v_proj.weight", "x.1.v_proj.weight", "x.1.fc1.weight"])
        {'x.0.v_proj.weight': 0.0, 'x.1.v_proj.weight': -0.4}
    """
    if not isinstance(rules, Mapping):
        raise TypeError(
            f"{argument} must be a mapping from kinds ({', '.join(KINDS)}) or patterns to numbers; got {rules!r} of "
            f"type {type(rules).__name__}. Pass the one of all to the optimizer instead."
        )
    for key, value in rules.items():
        check_real(f"{argument} of {key!r}", value, "Pass a float such as 0.5.")
    patterns = [key for key in rules if key not in KINDS]
    check_patterns(argument, patterns, names, required=len(patterns) == len(rules))
    found: dict[str, float] = {}
    for name in names:
        matched = [pattern for pattern in patterns if fnmatchcase(name, pattern)]
        matched += [kind for kind in rules if kind in KINDS and kind == kind_of(name)]
        if matched:
            found[name] = float(rules[matched[0]])
    return found
