"""Groups of other libraries, divided: each parameter keeps the settings that its group had."""

import re

import pytest
import torch
from torch import nn

import htmuon


def by_parameter(groups):
    """Of every parameter its group, by identity; each must be in one group only."""
    found = {}
    for group in groups:
        for member in group["params"]:
            parameter = member[1] if isinstance(member, tuple) else member
            assert id(parameter) not in found
            found[id(parameter)] = group
    return found


def small_vit():
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224", embed_dim=16, depth=2, num_heads=2, img_size=32, num_classes=5, pretrained=False
    )


def test_the_layer_decay_of_timm_is_kept():
    from timm.optim import param_groups_layer_decay

    model = small_vit()
    foreign = param_groups_layer_decay(
        model, weight_decay=0.1, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.5
    )
    before, after = by_parameter(foreign), by_parameter(htmuon.route_groups(model, foreign))
    routes = htmuon.route(model).routes
    assert before.keys() == after.keys() == {id(route.parameter) for route in routes}
    for route in routes:
        old, new = before[id(route.parameter)], after[id(route.parameter)]
        assert {name: new[name] for name in ("lr_scale", "weight_decay")} == {
            name: old[name] for name in ("lr_scale", "weight_decay")
        }
        assert (new["use_muon"], new.get("matrix_view")) == (route.view is not None, route.view)
    assert len({group["lr_scale"] for group in foreign}) == 4
    assert sum(group["use_muon"] for group in after.values()) == 2 * 4


@pytest.mark.parametrize("named", [True, False])
def test_the_groups_of_a_trainer_are_kept_and_train(named):
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer

    sizes = {"vocab_size": 50, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2))
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    foreign = [
        {"params": [p for n, p in model.named_parameters() if (n in decayed) is decay], "weight_decay": 0.1 * decay}
        for decay in (True, False)
    ]
    groups = htmuon.route_groups(model, foreign, named=named)
    assert [(group["use_muon"], group["weight_decay"], len(group["params"])) for group in groups] == [
        (True, 0.1, 7),
        (False, 0.1, 2),
        (False, 0.0, 3),
    ]
    assert all(isinstance(member, tuple) is named for group in groups for member in group["params"])
    optimizer = htmuon.HTMuon(groups, lr=0.1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    tokens = torch.arange(12).reshape(2, 6)
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    assert not [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]


def test_every_setting_is_kept_and_tensors_are_copied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    rate = torch.tensor(0.1)
    named = list(model.named_parameters())
    foreign = [
        {"params": named[:4], "param_names": ["left"] * 4, "lr": rate, "betas": (0.8, 0.9), "mine": None},
        {"params": named[4][1]},
    ]
    groups = htmuon.route_groups(model, foreign, adamw=["0.*"])
    assert [
        ([name for name, _ in group["params"]], group["use_muon"], group.get("weight_decay")) for group in groups
    ] == [
        (["1.weight"], True, None),
        (["0.weight"], False, None),
        (["0.bias", "1.bias"], False, 0.0),
        (["2.weight"], False, None),
    ]
    for group in groups[:3]:
        assert (group["lr"].item(), group["betas"], group["mine"]) == (pytest.approx(0.1), (0.8, 0.9), None)
        assert "param_names" not in group
    groups[0]["lr"].fill_(0.5)
    assert groups[1]["lr"] == rate == torch.tensor(0.1)


def test_what_is_frozen_or_in_no_group_is_in_none():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].weight.requires_grad_(False)
    groups = htmuon.route_groups(model, [{"params": model[0].parameters()}, {"params": model[1].parameters()}])
    assert [[name for name, _ in group["params"]] for group in groups] == [["0.bias"], ["1.weight"], ["1.bias"]]


def test_tied_parameters_and_wrapped_models_are_found():
    model = nn.ModuleDict({"embed": nn.Embedding(9, 4), "up": nn.Linear(4, 4), "lm_head": nn.Linear(4, 9, bias=False)})
    model["lm_head"].weight = model["embed"].weight
    wrapped = nn.ModuleDict({"module": model})
    groups = htmuon.route_groups(wrapped, [{"params": list(model.parameters()), "lr": 0.1}])
    assert [[name for name, _ in group["params"]] for group in groups] == [
        ["module.up.weight"],
        ["module.embed.weight"],
        ["module.up.bias"],
    ]


LINEAR = nn.Linear(2, 2)
BOTH = {"params": list(LINEAR.parameters())}
PAIRS = "must be parameters or pairs (name, parameter); group 0 has "


@pytest.mark.parametrize(
    ("groups", "error", "words"),
    [
        ([{"params": nn.Linear(3, 2).parameters()}], ValueError, "group 0 has one of shape (2, 3) that is not in"),
        ([[LINEAR.weight]], TypeError, "must be dicts with 'params'; group 0 is list. For plain parameters"),
        ([{"lr": 0.1}], TypeError, "must be dicts with 'params'"),
        ([{"params": LINEAR.weight, "use_muon": True}], ValueError, "group 0 has use_muon=True"),
        ([BOTH, {"params": LINEAR.bias}], ValueError, "each parameter once; 'bias' is in groups 0 and 1. Leave it in"),
        ([{"params": [LINEAR.bias] * 2}], ValueError, "each parameter once; 'bias' is in group 0 twice. Leave it in"),
        (BOTH, TypeError, "must be a list of dicts with 'params'; got dict. Write"),
        (LINEAR.weight, TypeError, "must be a list of dicts with 'params'; got Parameter"),
        (3, TypeError, "must be a list of dicts with 'params'; got int"),
        ([3], TypeError, "must be dicts with 'params'; group 0 is int"),
        ([{"params": None}], TypeError, f"{PAIRS}NoneType. Write"),
        ([{"params": "weight"}], TypeError, f"{PAIRS}str. Write"),
        ([{"params": dict(LINEAR.named_parameters())}], TypeError, f"{PAIRS}dict. Write"),
        ([{"params": ["weight"]}], TypeError, f"{PAIRS}'weight'. Take it from model.named_parameters"),
        ([{"params": [("weight", None)]}], TypeError, f"{PAIRS}None. Take"),
        ([{"params": [()]}], TypeError, f"{PAIRS}(). Take"),
    ],
)
def test_bad_groups_are_named(groups, error, words):
    with pytest.raises(error, match=re.escape(words)):
        htmuon.route_groups(LINEAR, groups)


def test_the_patterns_are_those_of_route():
    model = nn.ModuleDict({"qkv": nn.Linear(4, 12), "up": nn.Linear(4, 8), "head": nn.Linear(8, 3)})
    foreign = [{"params": list(model.parameters())}]
    groups = htmuon.route_groups(model, foreign, split={"qkv.weight": 3}, adamw=["up.weight"], spectral=["head.weight"])
    assert [([name for name, _ in g["params"]], g.get("split")) for g in groups if g["use_muon"]] == [
        (["qkv.weight"], 3),
        (["head.weight"], None),
    ]
