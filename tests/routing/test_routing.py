"""Where parameters go, on models as people build them."""

import pytest
import torch
from torch import nn

import htmuon
from htmuon.routing import routing
from htmuon.routing.declared import Stored


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2)
        self.fc = nn.Linear(width, 4 * width)
        self.output = nn.Linear(4 * width, width)
        self.headwise_gate = nn.Linear(width, width)


class Transformer(nn.Module):
    def __init__(self, width=8, tied=False):
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.position = nn.Parameter(torch.zeros(16, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.gate = nn.Linear(width, 1)
        self.lm_head = nn.Linear(width, 20, bias=False)
        if tied:
            self.lm_head.weight = self.embed.weight


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.layer1 = nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16))
        self.up = nn.ConvTranspose2d(16, 8, 2)
        self.fc = nn.Linear(8, 10)


def sides(model, **patterns):
    routing = htmuon.route(model, **patterns)
    return {r.name: r.view for r in routing.routes}, {r.name: r.reason for r in routing.routes}


@pytest.mark.parametrize("tied", [False, True])
def test_a_transformer(tied):
    views, reasons = sides(Transformer(tied=tied))
    spectral = {name for name, view in views.items() if view}
    assert spectral == {
        f"blocks.{i}.{name}.weight"
        for i in range(2)
        for name in ("attention.out_proj", "fc", "output", "headwise_gate")
    } | {f"blocks.{i}.attention.in_proj_weight" for i in range(2)}
    assert reasons["embed.weight"] == ("embedding (tied)" if tied else "embedding")
    assert ("lm_head.weight" in views) is not tied
    assert reasons["position"] == "bare parameter of Transformer"
    assert reasons["gate.weight"] == "matrix of one row or column"
    assert reasons["blocks.0.norm.weight"] == "vector"


def test_a_convolutional_network():
    views, reasons = sides(ConvNet())
    assert {name: view for name, view in views.items() if view} == {
        "layer1.0.weight": "conv",
        "up.weight": "conv_transpose",
    }
    assert reasons["conv1.weight"] == "patch or stem layer"
    assert reasons["fc.weight"] == "output head"
    groups = htmuon.param_groups(ConvNet())
    assert [group.get("matrix_view") for group in groups] == ["conv", "conv_transpose", None, None]
    assert groups[-1]["weight_decay"] == 0.0


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_llama(tied):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    views, reasons = sides(LlamaForCausalLM(config))
    hidden = {name for name in views if name.endswith("_proj.weight")}
    assert {name for name, view in views.items() if view} == hidden
    assert len(hidden) == 14
    assert reasons["model.embed_tokens.weight"].startswith("embedding")


def test_transformers_gpt2_stores_its_matrices_transposed():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=1, n_head=2))
    views, reasons = sides(model)
    assert {view for view in views.values() if view} == {"transposed"}
    assert sum(view == "transposed" for view in views.values()) == 4
    assert reasons["transformer.wpe.weight"] == "embedding"
    assert reasons["transformer.wte.weight"] == "embedding (tied)"
    c_fc = model.transformer.h[0].mlp.c_fc.weight
    assert htmuon.matrix_view(c_fc, "transposed").shape == (32, 8)


class Perceptron(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 1))
        self.classifier = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 5))


def test_the_head_of_a_sequential_is_its_last_layer():
    views, reasons = sides(Perceptron())
    assert {name for name, view in views.items() if view} == {"net.0.weight", "net.2.weight"}
    assert reasons["net.4.weight"] == "output head"


def test_a_head_of_several_layers_ends_in_the_output():
    views, reasons = sides(Classifier())
    assert {name for name, view in views.items() if view} == {"features.3.weight", "classifier.0.weight"}
    assert reasons["classifier.2.weight"] == "output head"
    assert reasons["features.0.weight"] == "patch or stem layer"
    assert reasons["features.2.weight"] == "grouped convolution"


class Wrapped(nn.Module):
    """As DistributedDataParallel and torch.compile hold a model; both need more than a test should start."""

    def __init__(self, module, name):
        super().__init__()
        self.add_module(name, module)


@pytest.mark.parametrize("name", ["module", "_orig_mod"])
@pytest.mark.parametrize("model", [Transformer, ConvNet, Perceptron, Classifier])
def test_wrapping_a_model_does_not_change_its_routes(model, name):
    plain, _ = sides(model())
    wrapped, _ = sides(Wrapped(model(), name))
    assert list(plain.values()) == list(wrapped.values())


def test_every_trainable_parameter_is_in_exactly_one_group():
    model = Transformer(tied=True)
    model.blocks[0].fc.weight.requires_grad_(False)
    grouped = [p for group in htmuon.param_groups(model) for _, p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {p for p in model.parameters() if p.requires_grad}
    htmuon.HTMuon(htmuon.param_groups(model))


def test_patterns_override():
    views, reasons = sides(Transformer(), spectral=["position"], adamw=["blocks.0.*"])
    assert views["position"] == "linear"
    assert reasons["position"] == "pattern 'position'"
    assert not any(view for name, view in views.items() if name.startswith("blocks.0."))
    views, _ = sides(Transformer(), spectral={"position": "transposed"})
    assert views["position"] == "transposed"


def test_stacked_experts_are_matched_by_a_pattern():
    model = nn.Module()
    model.register_parameter("experts", nn.Parameter(torch.randn(3, 4, 5)))
    groups = htmuon.param_groups(model, spectral=["experts"])
    optimizer = htmuon.HTMuon(groups)
    model.experts.sum().backward()
    optimizer.step()
    assert optimizer.state[model.experts]["momentum_buffer"].shape == (3, 4, 5)


def test_the_listing_can_be_read():
    text = str(htmuon.route(ConvNet()))
    assert "layer1.0.weight  16x8x3x3  spectral   16x72" in text
    assert text.endswith("parameters are matrices on the spectral side.")


@pytest.mark.parametrize(
    ("patterns", "error", "words"),
    [
        ({"spectral": ["nothing.*"]}, ValueError, r"'nothing\.\*' matches no trainable parameter"),
        ({"adamw": ["lm_heed"]}, ValueError, "'lm_heed' matches no"),
        ({"spectral": "position"}, TypeError, "must be a list of patterns"),
        ({"adamw": "position"}, TypeError, "must be a list of patterns"),
        ({"spectral": ["pos*"], "adamw": ["*tion"]}, ValueError, "'position' matches both"),
        ({"spectral": ["*.norm.weight"]}, ValueError, r"of shape \(8,\), which takes AdamW .vector.*multiplies"),
        ({"spectral": {"position": "conv"}}, ValueError, r"of shape \(16, 8\) to the spectral side.*3 or more"),
        ({"spectral": {"position": "sideways"}}, ValueError, "one of linear, transposed"),
    ],
)
def test_bad_patterns_are_named(patterns, error, words):
    with pytest.raises(error, match=words):
        htmuon.param_groups(Transformer(), **patterns)


class StackedExperts(nn.Module):
    """Experts of one parameter a layer, with their biases stacked too."""

    def __init__(self):
        super().__init__()
        self.up_proj = nn.Parameter(torch.zeros(4, 6, 8))
        self.up_proj_bias = nn.Parameter(torch.zeros(4, 6))
        self.unused = nn.Parameter(torch.zeros(0, 6, 8))


def test_a_wide_pattern_leaves_out_what_cannot_be_a_matrix():
    model = nn.ModuleDict({"experts": StackedExperts(), "norm": nn.LayerNorm(8)})
    views, reasons = sides(model, spectral=["experts.*"])
    assert views == dict.fromkeys(views) | {"experts.up_proj": "linear"}
    assert reasons["experts.up_proj_bias"] == "vector"
    assert reasons["experts.unused"] == "empty"
    # What is no matrix is not fought over, and stacked biases are not decayed.
    sides(model, spectral=["experts.*"], adamw=["*bias"])
    undecayed = [group for group in htmuon.param_groups(model, spectral=["experts.*"]) if not group["use_muon"]][-1]
    assert "experts.up_proj_bias" in dict(undecayed["params"])
    with pytest.raises(ValueError, match=r"'\*_bias' matches 'experts.up_proj_bias' of shape \(4, 6\)"):
        htmuon.route(model, spectral=["experts.up_proj", "*_bias"])


def test_a_script_for_several_models_is_warned_of_what_is_not_in_this_one():
    model = Transformer()
    with pytest.warns(UserWarning, match=r"adamw pattern '\*.router.\*' matches no trainable parameter"):
        views, _ = sides(model, adamw=["*.router.*", "blocks.0.fc.weight"])
    assert views["blocks.0.fc.weight"] is None
    with pytest.warns(UserWarning, match=r"split pattern '\*.qkv.\*' matches no trainable parameter"):
        found = htmuon.route(model, split={"*.qkv.*": 3})
    assert str(found) == str(htmuon.route(model))


def test_the_error_of_a_pattern_suggests_one_that_matches():
    with pytest.raises(
        ValueError, match=r"'\*.gate.\*' matches no.*try '\*gate\*', which matches 'blocks.0.headwise_gate"
    ):
        htmuon.route(Transformer(), adamw=["*.gate.*"])
    with pytest.raises(ValueError, match=r"the most similar one is 'lm_head.weight'"):
        htmuon.route(Transformer(), adamw=["lm_heed.weight"])


def fused_route(monkeypatch, split):
    """Routes of a model whose attention says how it fuses its projections."""
    fused = Stored("linear", (8, 4, 4), "q, k and v in one")
    monkeypatch.setattr(routing, "stored", lambda module, attribute, by: fused)
    model = nn.ModuleDict({"wqkv": nn.Linear(8, 16), "up": nn.Linear(8, 16), "head": nn.Linear(8, 3)})
    return {route.name: route for route in htmuon.route(model, split=split).routes}


def test_auto_takes_apart_what_a_module_fuses(monkeypatch):
    parts = (8, 4, 4)
    for split, wqkv, up in (
        ("auto", parts, parts),
        (None, None, None),
        ({"wqkv.weight": "auto", "up.weight": None}, parts, None),
        ({"wqkv.weight": 2, "up.*": "auto"}, 2, parts),
    ):
        found = fused_route(monkeypatch, split)
        assert (found["wqkv.weight"].split, found["up.weight"].split) == (wqkv, up)
        assert found["wqkv.weight"].reason == "q, k and v in one"
        assert found["head.weight"].split is None


@pytest.mark.parametrize("default", ["auto", None])
def test_what_no_split_pattern_matches_takes_the_default(monkeypatch, default):
    monkeypatch.setattr(routing, "DEFAULT_SPLIT", default)
    found = fused_route(monkeypatch, {"up.weight": 2})
    assert found["up.weight"].split == 2
    assert found["wqkv.weight"].split == ((8, 4, 4) if default == "auto" else None)


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="at least one parameter with requires_grad"):
        htmuon.param_groups(nn.Linear(2, 2).requires_grad_(False))


LAZY = {
    "linear": lambda: nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)),
    "convolution": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.LazyConv2d(4, 3)),
    "transposed convolution": lambda: nn.LazyConvTranspose1d(4, 3),
    "batch norm": lambda: nn.Sequential(nn.Linear(4, 4), nn.LazyBatchNorm1d(), nn.Linear(4, 2)),
    "instance norm": lambda: nn.LazyInstanceNorm2d(affine=True),
}


@pytest.mark.parametrize("model", LAZY.values(), ids=LAZY)
@pytest.mark.parametrize("ask", ["route", "groups", "constructor"])
def test_a_lazy_module_is_asked_for_a_batch(ask, model):
    asked = {
        "route": htmuon.route,
        "groups": htmuon.param_groups,
        "constructor": lambda m: htmuon.HTMuon([{"params": list(m.named_parameters()), "use_muon": False}]),
    }
    with pytest.raises(
        ValueError, match=r"got parameter '.*' of a lazy module.*Run one batch through the model first\."
    ):
        asked[ask](model())


def test_a_lazy_module_has_its_routes_after_a_batch():
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="of a lazy module"):
        htmuon.route(model)
    model(torch.randn(3, 5))
    assert str(htmuon.route(model)) == str(htmuon.route(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), model[2])))


def test_a_lazy_group_leaves_the_optimizer_as_it_was():
    optimizer = htmuon.HTMuon([nn.Parameter(torch.ones(2, 2))])
    before = str(optimizer)
    for use_muon in (True, False):
        with pytest.raises(ValueError, match="got a parameter of a lazy module"):
            optimizer.add_param_group({"params": list(nn.LazyLinear(4).parameters()), "use_muon": use_muon})
    assert str(optimizer) == before


def test_a_pattern_takes_the_view_of_the_layer():
    model = nn.Sequential(nn.Conv1d(3, 8, 5), nn.ConvTranspose2d(8, 4, 2), nn.Linear(4, 4), nn.Linear(4, 2))
    views, _ = sides(model, spectral=["*.weight"])
    assert list(filter(None, views.values())) == ["conv", "conv_transpose", "linear", "linear"]
    views, _ = sides(model, spectral={"0.weight": "conv"})
    assert views["0.weight"] == "conv"
    with pytest.raises(ValueError, match=r"gives '0.weight' the view 'linear', but Conv1d stores it as 'conv'"):
        htmuon.route(model, spectral={"0.weight": "linear"})


def test_an_empty_matrix_takes_adamw():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    for shape in ((0, 4), (4, 0)):
        model[1].weight = nn.Parameter(torch.zeros(shape))
        views, reasons = sides(model)
        assert (views["1.weight"], reasons["1.weight"]) == (None, "empty")


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((), "vector"),
        ((5,), "vector"),
        ((0,), "vector"),
        ((0, 4), "empty"),
        ((3, 0, 4), "empty"),
        ((1, 4), "matrix of one row or column"),
        ((4, 1), "matrix of one row or column"),
        ((3, 1, 4), "matrix of one row or column"),
        ((1, 3, 5, 5), "matrix of one row or column"),
        ((4, 5), None),
        ((1, 4, 5), None),
        ((4, 1, 5, 5), None),
    ],
)
def test_whether_a_bare_tensor_can_be_a_matrix(shape, reason):
    from htmuon.routing.storage import other_reason

    assert other_reason(torch.zeros(shape)) == reason
