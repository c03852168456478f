"""Bare parameters that hold several matrices or store one in their own way: stacked experts and their like.

| who | says so by |
|---|---|
| experts of transformers | the flags `is_transposed`, `is_concatenated` |
| others | a row of the table: class, parameter, view, parts |

Shape decides nothing: where hidden and inner sizes agree, both orientations have the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from htmuon._typing import MatrixView
from htmuon.routing.declared import Holders, Parts, Stored, fits, is_of
from htmuon.routing.split import Interleaved
from htmuon.routing.views import matrix_shape

# What the experts of transformers call their weights; the first holds two matrices.
GATE_UP = "gate_up_proj"
EXPERT_WEIGHTS = (GATE_UP, "up_proj", "down_proj")


@dataclass(frozen=True)
class Row:
    """How a class of transformers stores some of its parameters.

    Attributes:
        view: how they are matrices.
        reason: one clause for the listing.
        parts: the parts of each matrix, from the module and what holds it; None where it is one.
        apart: whether the parts are never one matrix.
    """

    view: MatrixView
    reason: str
    parts: Callable[[Any, Holders], Parts | None] = lambda module, by: None
    apart: bool = False


def _halves(module: nn.Module, by: Holders) -> Parts | None:
    return 2


def _halves_of(path: str) -> Callable[[nn.Module, Holders], Parts | None]:
    """Two parts where what holds the module calls it so."""
    return lambda module, by: 2 if by and by[0][1] == path else None


EXPERTS_LINEAR = Row("linear", "experts [E, out, in]")
GATES_LINEAR = Row("linear", "experts [E, out, in]; gate, up", _halves)
EXPERTS_TRANSPOSED = Row("transposed", "experts [E, in, out]")
GATES_TRANSPOSED = Row("transposed", "experts [E, in, out]; gate, up", _halves)
GATES_OF_ROWS = Row("linear", "experts [E*out, in]", lambda module, by: int(module.moe_num_experts), apart=True)
FLEXIBLE = Row("linear", "one matrix [out, in] a codebook", _halves_of("fc1"))
DIAGONAL = Row("transposed", "blocks [heads, in, out]")

# One row a class and parameter of transformers that does not carry the flags. Three have none, for no view says how
# they store their matrices, and AdamW takes them: DbrxExpertGLU's w2 `[E*in, out]`, whose experts would be columns of
# the `transposed` view, and a split divides rows; XLNetRelativeAttention's q, k, v and r and
# FunnelRelMultiheadAttention's r_kernel `[in, heads, head_dim]`, whose output rows are spread over two dims, where a
# split and the slices of a layout find them along one.
STORED: dict[tuple[str, str], Row] = {
    ("Llama4TextExperts", "gate_up_proj"): GATES_TRANSPOSED,
    ("Llama4TextExperts", "down_proj"): EXPERTS_TRANSPOSED,
    ("LongcatFlashExperts", "gate_up_proj"): GATES_LINEAR,
    ("LongcatFlashExperts", "down_proj"): EXPERTS_LINEAR,
    ("Step3p7Experts", "gate_up_proj"): GATES_LINEAR,
    ("Step3p7Experts", "down_proj"): EXPERTS_LINEAR,
    ("InklingSharedExperts", "gate_proj"): EXPERTS_LINEAR,
    ("InklingSharedExperts", "up_proj"): EXPERTS_LINEAR,
    ("InklingSharedExperts", "down_proj"): EXPERTS_LINEAR,
    ("JetMoeParallelExperts", "weight"): Row("linear", "experts [E, out, in]", lambda m, by: _jetmoe(by)),
    ("DbrxExpertGLU", "w1"): GATES_OF_ROWS,
    ("DbrxExpertGLU", "v1"): GATES_OF_ROWS,
    ("MoshiFlexibleLinear", "weight"): FLEXIBLE,
    ("KyutaiSpeechToTextFlexibleLinear", "weight"): FLEXIBLE,
    ("GroupedLinearLayer", "weight"): Row("transposed", "groups [groups, in, out]"),
    ("RecurrentGemmaRglru", "input_gate_weight"): DIAGONAL,
    ("RecurrentGemmaRglru", "recurrent_gate_weight"): DIAGONAL,
    ("ZambaMambaMixer", "x_proj_weight"): Row(
        "linear",
        "heads [heads, out, in]; dt, B, C",
        lambda m, by: (m.time_step_rank, m.ssm_state_size, m.ssm_state_size),
    ),
    ("ZambaMambaMixer", "dt_proj_weight"): Row("linear", "heads [heads, out, in]"),
    ("XLNetRelativeAttention", "o"): Row("conv", "matrix [out, heads*in]"),
    ("Gemma3MultiModalProjector", "mm_input_projection_weight"): Row("transposed", "matrix [in, out]"),
    ("T5Gemma2MultiModalProjector", "mm_input_projection_weight"): Row("transposed", "matrix [in, out]"),
}


def _jetmoe(by: Holders) -> Parts | None:
    """JetMoE's experts of the MLP hold gate and up in their first layer; those of attention hold one matrix."""
    gated = bool(by) and is_of(by[0][0], "transformers", "JetMoeMoE") and by[0][1] == "input_linear"
    return 2 if gated else None


def stacked(module: nn.Module, attribute: str, shape: tuple[int, ...], by: Holders) -> Stored | None:
    """How a module stores a bare parameter that the flags or the table know; None for others.

    Args:
        module: that has the parameter.
        attribute: the parameter's name in it.
        shape: the parameter's.
        by: what holds the module.

    Example:
        >>> import torch
        >>> experts = nn.Module()
        >>> experts.is_transposed, experts.is_concatenated = True, False
        >>> found = stacked(experts, "gate_up_proj", (4, 24, 40), ())
        >>> found.view, found.split, found.reason
        ('transposed', Interleaved(heads=20, sizes=(1, 1)), 'experts [E, in, out]; gate and up interleaved')
        >>> stacked(experts, "gate_up_proj_bias", (4, 40), ()) is None
        True
    """
    row = _by_flags(module, attribute, shape) or _by_table(module, attribute)
    if row is None:
        return None
    parts = row.parts(module, by)
    if parts is not None and not fits(parts, matrix_shape(shape, row.view)[-2]):
        parts = None
    return Stored(row.view, parts, row.reason, row.apart)


def _by_flags(module: nn.Module, attribute: str, shape: tuple[int, ...]) -> Row | None:
    """What transformers' flags say of a stack `[E, out, in]`, or `[E, in, out]` where they are transposed."""
    transposed, concatenated = getattr(module, "is_transposed", None), getattr(module, "is_concatenated", None)
    flagged = isinstance(transposed, bool) and isinstance(concatenated, bool)
    if not flagged or attribute not in EXPERT_WEIGHTS or len(shape) != 3:
        return None
    if attribute != GATE_UP:
        return EXPERTS_TRANSPOSED if transposed else EXPERTS_LINEAR
    if concatenated:
        return GATES_TRANSPOSED if transposed else GATES_LINEAR
    view: MatrixView = "transposed" if transposed else "linear"
    rows = matrix_shape(shape, view)[-2]
    turns = Interleaved(rows // 2, (1, 1)) if rows else None
    order = "[E, in, out]" if transposed else "[E, out, in]"
    return Row(view, f"experts {order}; gate and up interleaved", lambda module, by: turns)


def _by_table(module: nn.Module, attribute: str) -> Row | None:
    return next(
        (
            row
            for kind in type(module).__mro__
            if kind.__module__.startswith("transformers.") and (row := STORED.get((kind.__name__, attribute)))
        ),
        None,
    )
