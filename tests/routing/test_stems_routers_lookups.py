"""Where raw input is read, what chooses among experts, and tables stored otherwise."""

import pytest
import torch
from torch import nn

import htmuon


def of(model, reason):
    return {r.name for r in htmuon.route(model).routes if r.reason.startswith(reason)}


def meta(build):
    with torch.device("meta"):
        return build()


def transformers_model(kind, name, **settings):
    transformers = pytest.importorskip("transformers")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return meta(lambda: getattr(transformers, name)(CONFIG_MAPPING[kind](**settings)))


TIMM = {
    "vit_tiny_patch16_224": {"patch_embed.proj.weight"},
    "resnet26t": {"conv1.0.weight"},
    "efficientformer_l1": {"stem.conv1.weight"},
    "pvt_v2_b0": {"patch_embed.proj.weight"},  # those of later stages are hidden
    "crossvit_tiny_240": {"patch_embed.0.proj.weight", "patch_embed.1.proj.weight"},  # two branches read the image
    "vit_tiny_r_s16_p8_224": {"patch_embed.backbone.conv.weight"},  # the projection reads the backbone
    "nextvit_small": {"stem.0.conv.weight"},  # patch_embed in its blocks is a projection
}


@pytest.mark.parametrize("name", TIMM)
def test_stems_of_timm(name):
    timm = pytest.importorskip("timm")
    assert of(meta(lambda: timm.create_model(name)), "patch or stem layer") == TIMM[name]


def test_stage_wise_patch_embeddings_are_hidden():
    model = transformers_model("segformer", "SegformerForImageClassification", depths=[1, 1, 1, 1])
    [stem] = of(model, "patch or stem layer")
    assert model.get_parameter(stem).shape[1] == 3


def test_the_patches_of_a_series_are_raw():
    """With the statistics of its normalization put back, which are no stem."""
    model = transformers_model("patchtsmixer", "PatchTSMixerForRegression")
    assert of(model, "patch or stem layer") == {"model.encoder.patcher.weight"}


def test_both_encoders_of_raft_read_the_image():
    models = pytest.importorskip("torchvision").models
    stems = of(meta(lambda: models.get_model("raft_small", weights=None)), "patch or stem layer")
    assert stems == {"feature_encoder.convnormrelu.0.weight", "context_encoder.convnormrelu.0.weight"}


class Experts(nn.Module):
    def __init__(self, gate):
        super().__init__()
        self.gate = gate
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))


def test_the_gate_beside_experts_is_a_router_and_another_gate_is_none():
    model = nn.ModuleDict({"moe": Experts(nn.Linear(8, 3)), "mlp": nn.ModuleDict({"gate": nn.Linear(8, 8)})})
    assert of(model, "router") == {"moe.gate.weight"}
    deep = Experts(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)))
    assert of(deep, "router") == {"gate.0.weight", "gate.2.weight"}


SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
ROUTERS = {
    ("mixtral", "MixtralForCausalLM"): ({"num_key_value_heads": 2}, "model.layers.0.mlp.gate.weight"),
    ("qwen3_moe", "Qwen3MoeForCausalLM"): ({"num_key_value_heads": 2}, "model.layers.0.mlp.gate.weight"),
    ("gpt_oss", "GptOssForCausalLM"): ({"num_key_value_heads": 2}, "model.layers.0.mlp.router.weight"),
    ("jetmoe", "JetMoeForCausalLM"): ({"kv_channels": 8, "num_key_value_heads": 2}, None),
}


@pytest.mark.parametrize(("kind", "name"), ROUTERS)
def test_routers_are_alike_everywhere(kind, name):
    settings, expected = ROUTERS[kind, name]
    model = transformers_model(kind, name, **SMALL, **settings)
    found = of(model, "router")
    assert found
    assert expected is None or expected in found
    assert all(r.view is None for r in htmuon.route(model).routes if r.name in found)
    assert not any("experts.gate_up_proj" in name or "experts.down_proj" in name for name in found)


def test_a_router_among_what_is_called_experts_is_one():
    """JetMoe's attention holds its experts and their router under the name of experts."""
    model = transformers_model("jetmoe", "JetMoeForCausalLM", **SMALL, kv_channels=8, num_key_value_heads=2)
    layer = "model.layers.0"
    assert of(model, "router") == {
        f"{layer}.mlp.router.layer.weight",
        f"{layer}.self_attention.experts.router.layer.weight",
    }


def test_relative_position_biases_of_layoutlm_are_lookups():
    model = transformers_model("layoutlmv3", "LayoutLMv3ForTokenClassification", **SMALL)
    assert of(model, "lookup") == {f"layoutlmv3.encoder.rel_pos{axis}_bias.weight" for axis in ("", "_x", "_y")}


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.table = nn.Parameter(torch.zeros(1, 5, 8))
        self.bias_table = nn.Parameter(torch.zeros(5, 8))
        self.empty = nn.Parameter(torch.zeros(0, 8))
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def no_weight_decay(self):
        return {"bias_table"}


def test_tokens_and_gains_do_not_decay_nor_does_what_the_model_lists():
    model = nn.ModuleDict({"net": Tokens()})
    routes = {r.name.removeprefix("net."): r for r in htmuon.route(model).routes}
    assert {name for name, route in routes.items() if route.view is None} == {
        "token",
        "scale",
        "table",
        "bias_table",
        "empty",
        "layers.0.bias",
        "layers.1.bias",
        "layers.1.weight",
    }
    still = {name for name, route in routes.items() if not route.decays}
    assert still == {"token", "scale", "bias_table", "layers.0.bias", "layers.1.bias"}
    [fixed] = [g for g in htmuon.param_groups(model) if g.get("weight_decay") == 0.0]
    assert {name.removeprefix("net.") for name, _ in fixed["params"]} == still


class ModelWithRouter(nn.Module):
    """A user's model whose class is named as a router, with experts that are bare parameters."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.gate = nn.Linear(8, 4, bias=False)
        self.experts = nn.Parameter(torch.ones(4, 8, 8))
        self.last = nn.Linear(8, 9)


def test_a_gate_beside_bare_experts_is_a_router_and_a_users_class_of_that_name_is_none():
    model = type("OwnRouter", (ModelWithRouter,), {})()
    assert of(model, "router") == {"gate.weight"}


@pytest.mark.parametrize("listing", [lambda self, name: name, lambda self: None, lambda self: 3, lambda self: [1]])
def test_another_method_named_no_weight_decay_is_left_alone(listing):
    model = type("Own", (ModelWithRouter,), {"no_weight_decay": listing})()
    assert {r.name for r in htmuon.route(model).routes if not r.decays} == {"inner.bias", "last.bias"}


def test_routes_are_compared_as_themselves_and_shown_as_a_table():
    routing = htmuon.route(ModelWithRouter())
    assert routing.routes[0] == routing.routes[0] != routing.routes[1]
    assert repr(routing) == str(routing)
