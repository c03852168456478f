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
    ("qwen3_5_text", DELTA, {"in_proj_qkv", "q_proj"}),
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


def fused_layers(model, trace, finer=()):
    """The layers that are taken apart, each of them as the trace has it; nothing else may be used in pieces."""
    found, by = set(), holders(model)
    for module in model.modules():
        weight = module._parameters.get("weight")
        if weight not in trace.uses or is_grouped(module) or (how := stored(module, "weight", by[module])) is None:
            continue
        path = re.sub(r"\b\d+\b", "*", by[module][-1][1]) if by[module] else ""
        rows = matrix_shape(tuple(weight.shape), how.view)[-2]
        parts, pieces = sorted(rows_of_parts(how.split, rows)), trace.parts(weight)
        if path.rpartition(".")[2] in finer:
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
    config.use_cache = False  # a cache keeps what convolutions read, as it is
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
    ends = {of for of in TIMM[name] for path in found if f".{path}".endswith(f".{of}")}
    assert ends == TIMM[name]
    assert all(any(f".{path}".endswith(f".{of}") for of in ends) for path in found)


def of_transformers(module, name):
    import importlib

    return getattr(importlib.import_module(f"transformers.models.{module}.modeling_{module}"), name)


def config_of(kind, **settings):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[kind](**settings)


def hidden(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def zamba_mixer():
    config = config_of("zamba", hidden_size=48, n_mamba_heads=2, mamba_d_state=8, use_mamba_kernels=False)
    return of_transformers("zamba", "ZambaMambaMixer")(config, 0), lambda m: m(hidden(1, 5, 48))


def dbrx_attention():
    config = config_of("dbrx", d_model=48, n_heads=4)
    config.attn_config.kv_n_heads, config.attn_config.rope_theta, config.attn_config.clip_qkv = 2, 1e4, 8.0
    config._attn_implementation = "eager"
    turns = (torch.ones(1, 5, 12), torch.zeros(1, 5, 12))
    layer = of_transformers("dbrx", "DbrxAttention")(config, layer_idx=0)
    return layer, lambda m: m(hidden(1, 5, 48), position_embeddings=turns)


def bark_attention():
    config = config_of("bark").semantic_config
    config.hidden_size, config.num_heads, config._attn_implementation = 48, 4, "eager"
    return of_transformers("bark", "BarkSelfAttention")(config), lambda m: m(hidden(1, 5, 48))


def focal_modulation():
    config = config_of("focalnet")
    return of_transformers("focalnet", "FocalNetModulation")(config, 0, 24), lambda m: m(hidden(1, 8, 8, 24))


def gated_unit_of_clvp():
    config = config_of("clvp").text_config
    config.hidden_size, config.intermediate_size = 48, 40
    return of_transformers("clvp", "ClvpGatedLinearUnit")(config), lambda m: m(hidden(1, 5, 48))


def gated_mlp_of_moonshine():
    config = config_of("moonshine", hidden_size=48, intermediate_size=40)
    return of_transformers("moonshine", "MoonshineDecoderMLP")(config, "silu"), lambda m: m(hidden(1, 5, 48))


def convolution_of_conformer():
    config = config_of("wav2vec2-conformer", hidden_size=48)
    layer = of_transformers("wav2vec2_conformer", "Wav2Vec2ConformerConvolutionModule")(config)
    return layer, lambda m: m(hidden(1, 5, 48))


def pointer_of_pp_doclayout():
    config = config_of("pp_doclayout_v3", d_model=48, global_pointer_head_size=16)
    return of_transformers("pp_doclayout_v3", "PPDocLayoutV3GlobalPointer")(config), lambda m: m(hidden(1, 5, 48))


def vision_attention_of_qwen():
    config = config_of("qwen2_vl").vision_config
    config.embed_dim, config.num_heads, config._attn_implementation = 48, 4, "eager"
    turns = (torch.ones(5, 12), torch.zeros(5, 12))
    ends = torch.tensor([0, 5], dtype=torch.int32)
    layer = of_transformers("qwen2_vl", "VisionAttention")(config)
    return layer, lambda m: m(hidden(5, 48), cu_seqlens=ends, position_embeddings=turns)


def attention_of_exaone():
    config = config_of("exaone4_5").vision_config
    config.hidden_size, config.num_heads, config.num_key_value_heads = 48, 4, 2
    config._attn_implementation = "eager"
    turns = (torch.ones(5, 12), torch.zeros(5, 12))
    ends = torch.tensor([0, 5], dtype=torch.int32)
    layer = of_transformers("exaone4_5", "Exaone4_5_VisionAttention")(config)
    return layer, lambda m: m(hidden(5, 48), cu_seqlens=ends, position_embeddings=turns)


def attention_of_mit():
    from timm.models.efficientvit_mit import LiteMLA

    return LiteMLA(32, 32, heads=4, dim=8, scales=()), lambda m: m(hidden(1, 32, 4, 4))


def halves_and_attention_of_parallel_blocks():
    from timm.models.vision_transformer import ParallelScalingBlock

    return ParallelScalingBlock(48, 4), lambda m: m(hidden(1, 5, 48))


ALONE = {
    zamba_mixer: {"in_proj"},
    dbrx_attention: {"Wqkv"},
    bark_attention: {"att_proj"},
    focal_modulation: {"projection_in"},
    gated_unit_of_clvp: {"proj"},
    gated_mlp_of_moonshine: {"fc1"},
    convolution_of_conformer: {"pointwise_conv1"},
    pointer_of_pp_doclayout: {"dense"},
    vision_attention_of_qwen: {"qkv"},
    attention_of_exaone: {"qkv"},
    attention_of_mit: {"qkv.conv"},
    halves_and_attention_of_parallel_blocks: {"in_proj"},
}
# These use the gate of each head, or of each level, for itself.
FINER = {zamba_mixer: {"in_proj"}, focal_modulation: {"projection_in"}}


@pytest.mark.slow
@pytest.mark.parametrize("build", ALONE, ids=lambda build: build.__name__)
def test_fused_layers_of_single_modules(build):
    torch.manual_seed(0)
    module, run = build()
    with torch.no_grad(), RowTrace() as trace:
        run(module.eval())
    assert fused_layers(module, trace, FINER.get(build, ())) == ALONE[build]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "path"), [("swin_t", "attn.qkv"), ("maxvit_t", "to_qkv")])
def test_fused_layers_of_torchvision(name, path):
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        model = models.get_model(name).eval()
        image = torch.zeros(1, 3, 224, 224)
    with torch.no_grad(), RowTrace() as trace:
        model(image)
    assert all(found.endswith(path) for found in fused_layers(model, trace))
    assert fused_layers(model, trace)
