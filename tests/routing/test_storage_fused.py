"""Which rows of fused weights belong together: the table against what the forward pass of each model does with them."""

import re

import pytest
import torch

from htmuon.routing.declared import holders
from htmuon.routing.storage import is_grouped, stored
from htmuon.routing.views import matrix_shape
from tests.row_trace import RowTrace
from tests.stored_parts import rows_of_parts

TEXT = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Latent attention.
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "moe_intermediate_size": 20,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
}
LATENT_LAYERS = {"q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"}
INDEX = {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 4}
DELTA = {
    "num_hidden_layers": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "head_dim": 12,
    "num_key_value_heads": 2,
    "num_experts": 4,
    "moe_intermediate_size": 20,
    "shared_expert_intermediate_size": 20,
    "num_experts_per_tok": 2,
}
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 12, "mamba_d_state": 8}
WHOLE_ROTARY = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}}

# Model type, settings, and the layers that hold several matrices.
TRANSFORMERS = [
    ("gpt2", {"n_embd": 48, "n_head": 4, "n_layer": 1}, {"c_attn"}),
    ("openai-gpt", {"n_embd": 48, "n_head": 4, "n_layer": 1}, {"c_attn"}),
    ("gpt_bigcode", {"multi_query": True}, {"c_attn"}),
    ("gpt_bigcode", {"multi_query": False}, {"c_attn"}),
    ("imagegpt", {"n_embd": 48, "n_head": 4, "n_layer": 1}, {"c_attn"}),
    ("gpt_neox", WHOLE_ROTARY, {"query_key_value"}),
    ("gpt_neox_japanese", {}, {"query_key_value"}),
    ("bloom", {"n_head": 4, "n_layer": 1}, {"query_key_value"}),
    ("persimmon", WHOLE_ROTARY, {"query_key_value"}),
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}, {"query_key_value"}),
    ("falcon", {"new_decoder_architecture": False, "multi_query": True}, {"query_key_value"}),
    ("falcon", {"new_decoder_architecture": False, "multi_query": False}, {"query_key_value"}),
    ("codegen", {"n_embd": 48, "n_head": 4, "n_layer": 1, "rotary_dim": 12, "n_positions": 64}, {"qkv_proj"}),
    ("minimax", {"num_key_value_heads": 2, "num_local_experts": 4}, {"qkv_proj"}),
    ("phi3", {"num_key_value_heads": 2}, {"qkv_proj", "gate_up_proj"}),
    ("mpt", {"d_model": 48, "n_heads": 4, "n_layers": 1}, {"Wqkv"}),
    ("modernbert", {}, {"Wqkv", "Wi"}),
    ("deberta", {}, {"in_proj"}),
    ("glm", {"num_key_value_heads": 2, "head_dim": 12}, {"gate_up_proj"}),
    ("jetmoe", {"num_key_value_heads": 4, "kv_channels": 12, "num_local_experts": 4}, {"kv_proj"}),
    ("deepseek_v2", LATENT, LATENT_LAYERS),
    ("deepseek_v3", LATENT, LATENT_LAYERS),
    ("minicpm3", LATENT, LATENT_LAYERS),
    ("hy_v4", LATENT | INDEX, LATENT_LAYERS | {"wq_b"}),
    ("deepseek_v32", LATENT | INDEX, LATENT_LAYERS | {"wq_b"}),
    ("axk2", LATENT | INDEX, LATENT_LAYERS - {"q_b_proj"} | {"wq_b", "q_gate_proj"}),
    ("qwen3_next", DELTA, {"in_proj_qkvz", "in_proj_ba", "q_proj"}),
    ("qwen3_5_text", DELTA, {"q_proj"}),
    ("mamba", {}, {"in_proj", "x_proj"}),
    ("falcon_mamba", {}, {"in_proj", "x_proj"}),
    (
        "jamba",
        {"num_hidden_layers": 3, "attn_layer_offset": 1, "attn_layer_period": 2, "num_key_value_heads": 4},
        {"in_proj", "x_proj"},
    ),
    ("mamba2", {"num_heads": 8, "head_dim": 12, "state_size": 8, "n_groups": 2}, {"in_proj"}),
    ("bamba", MAMBA2 | {"num_hidden_layers": 3, "attn_layer_indices": [1], "num_key_value_heads": 4}, {"in_proj"}),
    (
        "granitemoehybrid",
        MAMBA2 | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 20},
        {"in_proj", "input_linear"},
    ),
    ("lfm2", {"layer_types": ["conv", "full_attention"], "num_key_value_heads": 2}, {"in_proj"}),
]
# Here rotary positions take neighbouring rows, or the two halves of a head, apart: pieces of one matrix.
ROTARY = {
    "glm": {"q_proj", "k_proj"},
    "bamba": {"q_proj", "k_proj"},
    "deepseek_v3": {"q_b_proj", "kv_a_proj_with_mqa"},
    "deepseek_v32": {"q_b_proj", "kv_a_proj_with_mqa"},
    "axk2": {"q_gate_proj", "kv_a_proj_with_mqa"},
}
TIMM = {
    "beit_base_patch16_224": {"qkv"},
    "swin_tiny_patch4_window7_224": {"qkv"},
    "xcit_nano_12_p16_224": {"qkv"},
    "levit_128s": {"qkv.linear", "kv.linear"},
    "levit_conv_128s": {"qkv.linear", "kv.linear"},
    "efficientformer_l1": {"qkv"},
    "tiny_vit_5m_224": {"qkv"},
    "coatnet_0_rw_224": {"qkv"},
    "botnet26t_256": {"qkv"},
    "halonet26t": {"kv"},
    "lambda_resnet26rpt_256": {"qkv"},
    "gcvit_xxtiny": {"qkv"},
    "shvit_s1": {"qkv.c"},
    "efficientvit_b0": {"qkv.conv"},
    "efficientvit_m0": {"qkvs.*.conv"},
    "pvt_v2_b0": {"kv"},
    "twins_pcpvt_small": {"kv"},
    "volo_d1_224": {"qkv", "kv"},
    "convit_tiny": {"qkv", "qk"},
    "tnt_s_legacy_patch16_224": {"qk"},
    "cpubone_b0_bfrobust": {"pwise"},
    "mambaout_femto": {"fc1"},
    "gmixer_24_224": {"fc1"},
    "gmlp_s16_224": {"fc1"},
    "vit_base_patch16_siglip_224": {"qkv", "kv"},
}


def fused_layers(model, trace, rotary=()):
    """The layers that are taken apart, each of them as the trace has it; nothing else may be used in pieces."""
    found, by = set(), holders(model)
    for module in model.modules():
        weight = module._parameters.get("weight")
        if weight not in trace.uses or is_grouped(module) or (how := stored(module, "weight", by[module])) is None:
            continue
        path = re.sub(r"\b\d+\b", "*", by[module][min(1, len(by[module]) - 1)][1]) if by[module] else ""
        rows = matrix_shape(tuple(weight.shape), how.view)[-2]
        parts, pieces = sorted(rows_of_parts(how.split, rows)), trace.parts(weight)
        if path.rpartition(".")[2] in rotary:
            assert len(pieces) > len(parts)
            assert all(sum(set(piece) <= set(part) for part in parts) == 1 for piece in pieces), path
        else:
            assert pieces == parts, (path, how.split)
        if how.split is not None:
            found.add(path)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "settings", "layers"), TRANSFORMERS, ids=[row[0] for row in TRANSFORMERS])
def test_fused_layers_of_transformers(kind, settings, layers):
    from transformers import AutoModel
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**TEXT | settings)
    model = AutoModel.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad(), RowTrace() as trace:
        model(input_ids=torch.arange(3, 12)[None])
    found = fused_layers(model, trace, ROTARY.get(kind, ()))
    assert {path.rpartition(".")[2] for path in found} == layers


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_fused_layers_of_timm(name):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model(name).eval()
        image = torch.zeros(1, *model.default_cfg["input_size"])
    with torch.no_grad(), RowTrace() as trace:
        model(image)
    found = fused_layers(model, trace)
    assert {next(of for of in TIMM[name] if f".{path}".endswith(f".{of}")) for path in found} == TIMM[name]
