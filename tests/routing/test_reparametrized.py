"""A weight that is made anew at each call is routed as the weight: by its layer, in its layer's orientation."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.parametrize import register_parametrization
from transformers.pytorch_utils import Conv1D

import htmuon


class Scaled(nn.Module):
    def forward(self, x):
        return 2 * x


class Hyper(nn.Module):
    """A parametrization with a layer inside."""

    def __init__(self, width):
        super().__init__()
        self.net = nn.Linear(width, width)

    def forward(self, x):
        return x + self.net(x)


class Triangle(nn.Module):
    """A symmetric matrix of the vector of its lower triangle."""

    def forward(self, x):
        half = torch.zeros(8, 8).index_put(tuple(torch.tril_indices(8, 8)), x)
        return half + half.mT

    def right_inverse(self, weight):
        return weight[tuple(torch.tril_indices(8, 8))]


class Product(nn.Module):
    """A weight of two factors with `rank` columns and rows."""

    def __init__(self, rank):
        super().__init__()
        self.rank = rank

    def forward(self, left, right):
        return left @ right

    def right_inverse(self, weight):
        return weight[:, : self.rank].clone(), weight[: self.rank].clone()


def old_weight_norm(layer, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # where torch calls it deprecated
        return nn.utils.weight_norm(layer, name)


def pruned_weight_norm(layer, name):
    return prune.l1_unstructured(old_weight_norm(layer, name), f"{name}_v", amount=0.3)


def parametrized_pruned(layer, name):
    register_parametrization(layer, name, Scaled())
    prune.l1_unstructured(layer.parametrizations[name], "original", amount=0.3)
    return layer


def pruned_twice(layer, name):
    return prune.random_unstructured(prune.l1_unstructured(layer, name, amount=0.3), name, amount=0.3)


def scaled_twice(layer, name):
    for _ in range(2):
        register_parametrization(layer, name, Scaled())
    return layer


def scaled_weight_norm(layer, name):
    parametrizations.weight_norm(layer, name)
    for original in ("original0", "original1"):
        register_parametrization(layer.parametrizations[name], original, Scaled())
    return layer


# What makes a weight; where the parameter of its shape is then, its gain if it has one, and what the listing says.
MAKERS = {
    "weight_norm": (
        parametrizations.weight_norm,
        "parametrizations.{}.original1",
        "parametrizations.{}.original0",
        "WeightNorm",
    ),
    "spectral_norm": (parametrizations.spectral_norm, "parametrizations.{}.original", None, "SpectralNorm"),
    "own": (scaled_twice, "parametrizations.{}.original", None, "Scaled, Scaled"),
    "prune": (lambda m, name: prune.l1_unstructured(m, name, amount=0.3), "{}_orig", None, "L1Unstructured"),
    "prune twice": (pruned_twice, "{}_orig", None, "PruningContainer"),
    "old weight_norm": (old_weight_norm, "{}_v", "{}_g", "WeightNorm"),
    "old spectral_norm": (nn.utils.spectral_norm, "{}_orig", None, "SpectralNorm"),
    "prune on old weight_norm": (pruned_weight_norm, "{}_v_orig", "{}_g", "L1Unstructured, WeightNorm"),
    "own in weight_norm": (
        scaled_weight_norm,
        "parametrizations.{}.parametrizations.original1.original",
        "parametrizations.{}.parametrizations.original0.original",
        "Scaled, WeightNorm",
    ),
    "prune on own": (parametrized_pruned, "parametrizations.{}.original_orig", None, "L1Unstructured, Scaled"),
}
LAYERS = {
    "Linear": (lambda: nn.Linear(8, 6), "weight"),
    "Conv1d": (lambda: nn.Conv1d(8, 6, 3), "weight"),
    "Conv2d": (lambda: nn.Conv2d(8, 6, 3), "weight"),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(8, 6, 2), "weight"),
    "Conv1D": (lambda: Conv1D(6, 8), "weight"),
    "in_proj_weight": (lambda: nn.MultiheadAttention(8, 2), "in_proj_weight"),
    "k_proj_weight": (lambda: nn.MultiheadAttention(8, 2, kdim=4, vdim=6), "k_proj_weight"),
    "v_proj_weight": (lambda: nn.MultiheadAttention(8, 2, kdim=4, vdim=6), "v_proj_weight"),
}


def around(hidden):
    return nn.ModuleDict({"embed": nn.Embedding(9, 8), "hidden": hidden, "lm_head": nn.Linear(8, 9)})


def routes(model, **patterns):
    return {route.name: route for route in htmuon.route(model, **patterns).routes}


def group_of(model, name):
    [group] = [g for g in htmuon.param_groups(model) if name in dict(g["params"])]
    return group


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("maker", MAKERS)
def test_what_has_the_shape_of_a_hidden_weight_is_the_matrix_that_the_weight_was(maker, layer):
    make, direction, gain, words = MAKERS[maker]
    build, attribute = LAYERS[layer]
    plain = routes(around(build()))[f"hidden.{attribute}"]
    model = around(make(build(), attribute))
    before = copy.deepcopy(model.state_dict())
    found = routes(model)
    route = found[f"hidden.{direction.format(attribute)}"]
    assert (route.view, route.parameter.shape) == (plain.view, plain.parameter.shape)
    assert route.reason == f"{plain.reason} under {words}"
    if gain is not None:
        name = f"hidden.{gain.format(attribute)}"
        assert (found[name].view, found[name].reason.split()[0]) == (None, "vector")
        assert group_of(model, name)["weight_decay"] == 0.0
    # To look at a model must not move it; spectral_norm iterates whenever its weight is read.
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("maker", MAKERS)
def test_heads_stems_and_embeddings_stay_what_they_are(maker):
    make, direction, gain, _ = MAKERS[maker]
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 8), nn.Linear(8, 5))
    tokens = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9))
    for layer in (*model, *tokens):
        make(layer, "weight")
    images, texts = routes(model), routes(tokens)
    name = direction.format("weight")
    assert [images[f"{i}.{name}"].view for i in range(4)] == [None, "conv", "linear", None]
    assert images[f"0.{name}"].reason == "patch or stem layer"
    assert images[f"3.{name}"].reason == texts[f"2.{name}"].reason == "output head"
    assert texts[f"0.{name}"].reason == "embedding"
    if gain is not None:
        for i in range(4):
            assert group_of(model, f"{i}.{gain.format('weight')}")["weight_decay"] == 0.0


@pytest.mark.parametrize("maker", ["weight_norm", "old weight_norm"])
def test_a_normed_layer_trains_as_its_parts_would(maker):
    make, direction, gain, _ = MAKERS[maker]
    layer = make(nn.ConvTranspose2d(4, 6, 2, bias=False), "weight")
    model = nn.ModuleDict({"hidden": layer, "head": nn.Conv2d(6, 3, 1, bias=False)})
    parts = dict(model.named_parameters())
    v, g = parts[f"hidden.{direction.format('weight')}"], parts[f"hidden.{gain.format('weight')}"]
    v_alone, g_alone = (nn.Parameter(p.detach().clone()) for p in (v, g))
    optimizer = htmuon.HTMuon(htmuon.param_groups(model), lr=0.02, adamw_lr=0.01)
    matrix = htmuon.HTMuon([{"params": [v_alone], "matrix_view": "conv_transpose"}], lr=0.02)
    vector = torch.optim.AdamW([g_alone], lr=0.01, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0)
    for _ in range(3):
        optimizer.zero_grad()
        model.head(model.hidden(torch.randn(2, 4, 5, 5))).square().mean().backward()
        v_alone.grad, g_alone.grad = v.grad.clone(), g.grad.clone()
        for each in (optimizer, matrix, vector):
            each.step()
    assert torch.equal(v, v_alone)
    # torch's fused and plain AdamW round in another order.
    torch.testing.assert_close(g, g_alone, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("trivialization", [True, False])
@pytest.mark.parametrize("form", ["matrix_exp", "cayley", "householder"])
@pytest.mark.parametrize("place", ["hidden", "lm_head"])
def test_an_orthogonal_weight_stays_orthogonal(place, form, trivialization):
    model = around(nn.Linear(8, 8))
    model["up"] = nn.Linear(8, 8)
    parametrizations.orthogonal(model[place], "weight", form, use_trivialization=trivialization)
    name = f"{place}.parametrizations.weight.original"
    reason = "output head" if place == "lm_head" else "coordinates of an orthogonal matrix under Orthogonal"
    assert (routes(model)[name].view, routes(model)[name].reason) == (None, reason)
    assert group_of(model, name)["weight_decay"] == 0.0
    optimizer = htmuon.HTMuon(htmuon.param_groups(model))
    for _ in range(3):
        optimizer.zero_grad()
        model["lm_head"](model["hidden"](torch.randn(4, 8))).square().sum().backward()
        optimizer.step()
    weight = model[place].weight.detach().double()
    # A float32 matrix function of condition one: some tens of roundings of 6e-8.
    torch.testing.assert_close(weight.mT @ weight, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-5)


def test_what_is_no_matrix_of_the_layer_says_so():
    triangle, low_rank, square = (nn.Linear(8, 8, bias=False) for _ in range(3))
    register_parametrization(triangle, "weight", Triangle(), unsafe=True)
    register_parametrization(low_rank, "weight", Product(2), unsafe=True)
    register_parametrization(square, "weight", Product(8), unsafe=True)
    grouped = parametrizations.spectral_norm(nn.Conv1d(8, 8, 3, groups=4, bias=False))
    recurrent = old_weight_norm(nn.LSTM(8, 8, bias=False), "weight_hh_l0")
    layers = {"a": triangle, "b": low_rank, "c": square, "d": grouped, "e": recurrent}
    found = routes(around(nn.ModuleDict(layers)))
    reasons = {name.removeprefix("hidden."): route.reason for name, route in found.items() if "hidden" in name}
    assert reasons == {
        "a.parametrizations.weight.original": "vector under Triangle",
        "b.parametrizations.weight.original0": "not of the shape of Linear.weight under Product",
        "b.parametrizations.weight.original1": "not of the shape of Linear.weight under Product",
        "c.parametrizations.weight.original0": "one of several of the weight's shape under Product",
        "c.parametrizations.weight.original1": "one of several of the weight's shape under Product",
        "d.parametrizations.weight.original": "matrix of Conv1d; 4 groups under SpectralNorm",
        "e.weight_ih_l0": "matrix of LSTM; i, f, g, o",
        "e.weight_hh_l0_g": "vector under WeightNorm",
        "e.weight_hh_l0_v": "bare parameter of LSTM under WeightNorm",
    }
    matrices = {name for name, route in found.items() if route.view}
    assert matrices == {"hidden.d.parametrizations.weight.original", "hidden.e.weight_ih_l0"}


@pytest.mark.parametrize("name", ["lm_head", "last"])
def test_a_layer_inside_a_parametrization_is_no_head(name):
    model = nn.ModuleDict({"embed": nn.Embedding(9, 8), "hidden": nn.Linear(8, 8), name: nn.Linear(8, 9)})
    register_parametrization(model[name], "weight", Hyper(8))
    found = routes(model)
    assert found[f"{name}.parametrizations.weight.original"].reason == "output head"
    assert found["hidden.weight"].view == "linear"


def test_parametrizing_a_bias_does_not_change_how_a_weight_is_stored():
    model = around(Conv1D(6, 8))
    register_parametrization(model["hidden"], "bias", Scaled())
    found = routes(model)
    assert (found["hidden.weight"].view, found["hidden.weight"].reason) == ("transposed", "matrix of Conv1D")


def test_tied_weights_stay_tied():
    model = around(nn.Linear(8, 8))
    model["lm_head"].weight = model["embed"].weight
    for name in ("embed", "lm_head"):
        register_parametrization(model[name], "weight", Scaled())
    assert routes(model)["embed.parametrizations.weight.original"].reason == "embedding (tied)"


def test_patterns_and_splits_are_over_these_names():
    model = nn.ModuleDict({"qkv": nn.Linear(8, 24), "up": nn.ConvTranspose1d(8, 6, 3), "head": nn.Linear(8, 9)})
    for layer in model.values():
        parametrizations.weight_norm(layer)
    found = routes(model, split={"qkv*original1": 3}, spectral=["*up*original1", "head*1"], adamw=["*bias"])
    matrices = {name: (route.view, route.split) for name, route in found.items() if route.view}
    assert matrices == {
        "qkv.parametrizations.weight.original1": ("linear", 3),
        "up.parametrizations.weight.original1": ("conv_transpose", None),
        "head.parametrizations.weight.original1": ("linear", None),
    }
    found = routes(model, adamw=["qkv*"])
    assert found["qkv.parametrizations.weight.original1"].reason == "pattern 'qkv*'"
    # A gain stays one whatever sends it to AdamW.
    [group] = [g for g in htmuon.param_groups(model, adamw=["qkv*"]) if g.get("weight_decay") == 0.0]
    assert "qkv.parametrizations.weight.original0" in dict(group["params"])
    # A wide pattern leaves the gain alone; one that matches nothing else is refused.
    found = routes(model, split={"qkv*original*": 3})
    assert [found[f"qkv.parametrizations.weight.original{i}"].split for i in (0, 1)] == [None, 3]
    with pytest.raises(ValueError, match=r"takes AdamW .vector under WeightNorm.*Leave it out"):
        htmuon.route(model, split={"qkv*original0": 3})
