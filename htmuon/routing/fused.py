"""Which layers hold several matrices in one weight, and which of its rows belong to which.

A row of the table says: a layer that is held under this path, by a module of these classes or with these attributes,
has these parts. Numbers are the holder's own; where they don't make up the rows of the weight, it stays whole. Names
alone say nothing about the order of rows (`qkv` may be taken apart in thirds or head by head), so rows without
attributes of their own are for named libraries.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from htmuon.routing.declared import Holders, Parts, fits, is_of
from htmuon.routing.split import Interleaved

LIBRARIES = ("transformers", "timm", "torchvision")


@dataclass(frozen=True)
class Row:
    """A layer that holds several matrices.

    Attributes:
        what: the parts, for the listing.
        parts: their rows, from the holder and the rows of the weight; None where this one is not fused.
        by: whether a holder is meant. A holder without the attributes that `parts` reads is not.
    """

    what: str
    parts: Callable[[Any, int], Parts | None]
    by: Callable[[nn.Module], bool] = lambda holder: True


def _in(*libraries: str) -> Callable[[nn.Module], bool]:
    return lambda holder: any(is_of(holder, library) for library in libraries)


def _class(library: str, *names: str) -> Callable[[nn.Module], bool]:
    return lambda holder: is_of(holder, library, *names)


def _named(pattern: str) -> Callable[[nn.Module], bool]:
    """Whether a class of transformers has a name that matches."""
    return lambda holder: any(
        is_of(holder, "transformers", kind.__name__) and re.fullmatch(pattern, kind.__name__) is not None
        for kind in type(holder).__mro__
    )


def _equal(count: int) -> Callable[[Any, int], Parts]:
    return lambda holder, rows: count


def _turns(heads: int, *sizes: int) -> Interleaved | None:
    """Parts that take turns in every head; parts without rows are none."""
    if not all(isinstance(number, int) and number >= 0 for number in (heads, *sizes)):
        return None
    left = tuple(size for size in sizes if size)
    return Interleaved(heads, left) if heads > 0 and len(left) > 1 else None


def _grouped_query(heads: int, pairs: int, size: int) -> Parts:
    """q, k and v one after the other, with as many heads of k and v as `pairs`."""
    return 3 if heads == pairs else (heads * size, pairs * size, pairs * size)


def _falcon(holder: Any, rows: int) -> Parts | None:
    heads, size = holder.num_heads, holder.head_dim
    if holder.new_decoder_architecture:
        return _turns(holder.num_kv_heads, heads // holder.num_kv_heads * size, size, size)
    if holder.multi_query:
        return (heads * size, size, size)
    return _turns(heads, size, size, size)


def _bigcode(holder: Any, rows: int) -> Parts | None:
    if holder.is_cross_attention:
        return 2
    if holder.multi_query:
        return (holder.embed_dim, holder.kv_dim, holder.kv_dim)
    return _turns(holder.num_heads, holder.head_dim, holder.head_dim, holder.head_dim)


def _head_by_head(holder: Any, rows: int) -> Parts | None:
    """q, k and v of each head, one head after the other, where an attention of timm has its heads first."""
    return _turns(holder.num_heads, *[rows // holder.num_heads // 3] * 3) if holder.head_first else 3


def _levit(holder: Any, rows: int) -> Parts | None:
    return _turns(holder.num_heads, holder.key_dim, holder.key_dim, holder.val_dim)


def _levit_pair(holder: Any, rows: int) -> Parts | None:
    return _turns(holder.num_heads, holder.key_dim, holder.val_dim)


def _gated_query(holder: Any, rows: int) -> Parts | None:
    """A query and its gate in each head, twice the rows of a query alone."""
    return _turns(rows // (2 * holder.head_dim), holder.head_dim, holder.head_dim)


def _convolution_of_glu(holder: Any, rows: int) -> Parts | None:
    return 2 if rows == 2 * holder.pointwise_conv2.in_channels else None


def _delta_net(holder: Any, rows: int) -> Parts | None:
    values = holder.num_v_heads // holder.num_k_heads * holder.head_v_dim
    return _turns(holder.num_k_heads, holder.head_k_dim, holder.head_k_dim, values, values)


def _delta_net_gates(holder: Any, rows: int) -> Parts | None:
    each = holder.num_v_heads // holder.num_k_heads
    return _turns(holder.num_k_heads, each, each)


def _delta_net_inner(holder: Any, rows: int) -> Parts | None:
    return (holder.key_dim, holder.key_dim, holder.value_dim)


def _mamba2(holder: Any, rows: int) -> Parts | None:
    states = holder.n_groups * holder.ssm_state_size
    return (holder.intermediate_size, holder.intermediate_size, states, states, holder.num_heads)


QKV, KV, GATED, MAMBA2 = "q, k, v", "k, v", "gate, up", "gate, x, B, C, dt"
HEADWISE = "q, k, v of each head"

# By the path under which a holder has the layer, `*` for a number. The first row that means the holder counts.
FUSED: dict[str, tuple[Row, ...]] = {
    # q, k and v
    "qkv": (
        Row(HEADWISE, _levit, _in("timm")),
        Row(QKV, lambda m, rows: (m.dim_out_qk, m.dim_out_qk, m.dim_out_v), _class("timm", "BottleneckAttn")),
        Row(QKV, lambda m, rows: (m.num_heads * m.dim_qk, m.dim_qk, m.dim_v), _class("timm", "LambdaLayer")),
        Row(HEADWISE, _head_by_head, _in("timm")),
        Row(KV, _equal(2), lambda m: is_of(m, "timm", "WindowAttentionGlobal") and bool(getattr(m, "use_global", 0))),
        Row(QKV, lambda m, rows: (m.q_dim, m.kv_dim, m.kv_dim), _in("transformers")),
        Row(QKV, _equal(3), _in(*LIBRARIES)),
    ),
    "qkv.linear": (Row(HEADWISE, _levit, _in("timm")),),
    "qkv.c": (
        Row(QKV, lambda m, rows: (m.qk_dim, m.qk_dim, m.pdim), _class("timm", "SHSA")),
        Row(HEADWISE, _levit, _in("timm")),
    ),
    "qkv.conv": (
        Row(HEADWISE, lambda m, rows: _turns(rows // (3 * m.dim), m.dim, m.dim, m.dim), _class("timm", "LiteMLA")),
    ),
    "qkvs.*.conv": (Row(QKV, lambda m, rows: (m.key_dim, m.key_dim, m.val_dim), _in("timm")),),
    "to_qkv": (Row(QKV, _equal(3), _in("torchvision")),),
    "qkv_linear": (Row(QKV, _equal(3), _named("LayoutLMv2.*")),),
    "att_proj": (Row(QKV, _equal(3), _named("Bark.*Attention")),),
    "c_attn": (
        Row(QKV, _bigcode, _named("GPTBigCodeAttention")),
        Row(QKV, lambda m, rows: rows // m.split_size, _in("transformers")),
    ),
    "Wqkv": (
        Row(QKV, lambda m, rows: _grouped_query(m.num_heads, m.num_key_value_heads, m.head_dim), _named("Dbrx.*")),
        Row(QKV, _equal(3), _in("transformers")),
    ),
    "query_key_value": (
        Row(HEADWISE, _falcon, _named("Falcon.*Attention.*")),
        Row(HEADWISE, lambda m, rows: _turns(m.num_heads, *[m.head_dim] * 3), _named("(Bloom|Persimmon)Attention")),
        Row(
            HEADWISE,
            lambda m, rows: _turns(rows // (3 * m.head_size), *[m.head_size] * 3),
            _named("GPTNeoX.*Attention"),
        ),
    ),
    "qkv_proj": (
        Row(
            QKV,
            lambda m, rows: _grouped_query(m.config.num_attention_heads, m.num_key_value_heads, m.head_dim),
            _named("Phi.*Attention"),
        ),
        Row(
            HEADWISE,
            lambda m, rows: _turns(m.num_attention_heads, *[m.head_dim] * 3),
            _named("MiniMaxLightningAttention"),
        ),
        # Four shards, each with its rows of q, of v and of k.
        Row("q, v, k of each shard", lambda m, rows: _turns(4, *[rows // 12] * 3), _named("CodeGenAttention")),
    ),
    "qkv_opreact": (Row("q, k, v, gate", lambda m, rows: (m.qk_dim, m.qk_dim, m.v_dim, m.v_dim), _named("xLSTM.*")),),
    "pwise": (Row(HEADWISE, lambda m, rows: _turns(m.num_heads, *[m.head_dim] * 3), _class("timm", "ConvAttention")),),
    # k and v, or q and k
    "kv": (
        Row("k, v of each head", _levit_pair, _in("timm")),
        Row("k, v of each head", lambda m, rows: _halo(m), _class("timm", "HaloAttn")),
        Row(KV, _equal(2), _in("timm")),
    ),
    "kv.linear": (Row("k, v of each head", _levit_pair, _in("timm")),),
    "kv.c": (Row("k, v of each head", _levit_pair, _in("timm")),),
    "qk": (Row("q, k", _equal(2), _in("timm")),),
    "to_kv": (Row(KV, _equal(2), _in("transformers")),),
    "kv_proj": (Row(KV, _equal(2), _named("JetMoe.*Attention")),),
    "linear_kv": (
        Row("k, v of each head", lambda m, rows: _turns(m.num_heads, m.hidden_dim, m.hidden_dim), _in("transformers")),
    ),
    "index_qk_proj": (
        Row(
            "q, k",
            lambda m, rows: (m.index_n_heads * m.index_head_dim, m.index_kv_heads * m.index_head_dim),
            _in("transformers"),
        ),
    ),
    "dense": (Row("q, k", _equal(2), _named("PPDocLayoutV.GlobalPointer")),),
    # Latent attention
    "q_b_proj": (Row("q, rotary q of each head", lambda m, rows: _latent_query(m)),),
    "q_proj": (
        Row("q, rotary q of each head", lambda m, rows: _latent_query(m)),
        Row("q, gate of each head", _gated_query, _named("Qwen3(Next|_5).*Attention")),
    ),
    "q_gate_proj": (
        Row("q, gate of each head", lambda m, rows: _turns(m.num_heads, m.qk_head_dim, m.v_head_dim), _named("AXK2.*")),
    ),
    "kv_a_proj_with_mqa": (Row("latent, rotary k", lambda m, rows: (m.kv_lora_rank, m.qk_rope_head_dim)),),
    "kv_b_proj": (Row("k, v of each head", lambda m, rows: _turns(m.num_heads, m.qk_nope_head_dim, m.v_head_dim)),),
    "wq_b": (
        Row(
            "q, rotary q of each head",
            lambda m, rows: _turns(m.n_heads, m.head_dim - m.qk_rope_head_dim, m.qk_rope_head_dim),
            _named("HYV4.*Indexer"),
        ),
        Row(
            "rotary q, q of each head",
            lambda m, rows: _turns(m.n_heads, m.qk_rope_head_dim, m.head_dim - m.qk_rope_head_dim),
            _named("(AXK2|DeepseekV32|Dots3Note|GlmMoeDsa).*Indexer"),
        ),
    ),
    # Gated layers
    "gate_up_proj": (Row(GATED, _equal(2), _in("transformers")),),
    "input_linear": (Row(GATED, _equal(2), _named("Granite.*MLP")),),
    "Wi": (Row(GATED, _equal(2), _named("ModernBert.*MLP")),),
    "weights_in": (Row(GATED, _equal(2), _named("Dinov2.*SwiGLUFFN")),),
    "fc1": (
        Row(GATED, _equal(2), _named("Moonshine.*DecoderMLP|(Moshi|KyutaiSpeechToText|Mimi)GatingMLP")),
        Row(GATED, _equal(2), _class("timm", "GluMlp", "GatedMlp")),
        Row("gate, through, convolved", lambda m, rows: tuple(m.split_indices), _class("timm", "GatedConvBlock")),
    ),
    "proj": (Row(GATED, _equal(2), _named("ClvpGatedLinearUnit")),),
    "pointwise_conv1": (Row(GATED, _convolution_of_glu, _in("transformers")),),
    "up_conv": (Row(GATED, _equal(2), _named("GraniteSpeech.*ConvModule")),),
    "v_gate.c": (Row("v, gate", _equal(2), _in("timm")),),
    "projection_in": (
        Row(
            "q, context, gates",
            lambda m, rows: ((rows - m.focal_level - 1) // 2,) * 2 + (m.focal_level + 1,),
            _named("FocalNetModulation"),
        ),
    ),
    "f": (Row("q, context, gates", lambda m, rows: tuple(m.input_split), _class("timm", "FocalModulation")),),
    # Recurrences
    "in_proj": (
        Row("gate, q, k, v", lambda m, rows: tuple(m.in_split), _in("timm")),
        Row(HEADWISE, lambda m, rows: _deberta(m), _named("DisentangledSelfAttention")),
        Row("x and gate interleaved", lambda m, rows: _turns(m.intermediate_size, 1, 1), _named("ZambaMambaMixer")),
        Row("B, C, x", _equal(3), _named("Lfm.*ShortConv")),
        Row(MAMBA2, _mamba2, _in("transformers")),
        Row("x, gate", _equal(2), _named("(Falcon|Jamba|)Mamba(Mixer)?")),
    ),
    "x_proj": (
        Row(
            "dt, B, C",
            lambda m, rows: (m.time_step_rank, m.ssm_state_size, m.ssm_state_size),
            _in("transformers"),
        ),
    ),
    "in_proj_qkvz": (Row("q, k, v, gate of each head", _delta_net),),
    "in_proj_qkv": (Row(QKV, _delta_net_inner, _named("Qwen.*GatedDeltaNet")),),
    "in_proj_ba": (Row("b, a of each head", _delta_net_gates),),
}


def _halo(holder: Any) -> Parts | None:
    return _turns(holder.num_heads, holder.dim_head_qk, holder.dim_head_v)


def _latent_query(holder: Any) -> Parts | None:
    return _turns(holder.num_heads, holder.qk_nope_head_dim, holder.qk_rope_head_dim)


def _deberta(holder: Any) -> Parts | None:
    size = holder.attention_head_size
    return _turns(holder.num_attention_heads, size, size, size)


def fused(rows: int, by: Holders) -> tuple[Parts, str] | None:
    """The parts of a layer's weight and what they are, by what holds the layer; None where nothing says it is fused.

    Args:
        rows: of the weight's matrix.
        by: what holds the layer.

    Example:
        >>> from types import SimpleNamespace
        >>> latent = SimpleNamespace(num_heads=4, qk_nope_head_dim=16, v_head_dim=8)
        >>> fused(96, [(latent, "kv_b_proj")])
        (Interleaved(heads=4, sizes=(16, 8)), 'k, v of each head')
        >>> fused(96, [(latent, "o_proj")]) is None
        True
    """
    for holder, path in by:
        for row in FUSED.get(re.sub(r"\b\d+\b", "*", path), ()):
            try:
                parts = row.parts(holder, rows) if row.by(holder) else None
            except (AttributeError, TypeError, ValueError, ArithmeticError):
                continue  # it does not declare the numbers of this row
            if parts is not None:
                return (parts, row.what) if parts != 1 and fits(parts, rows) else None
    return None
