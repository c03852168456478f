"""Methods and spectral maps as objects: what a group holds of them, what a file gives back, and what their power is."""

import copy
import inspect
import io
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import htmuon
from htmuon.linalg import METHODS, Eigh, NewtonSchulz, Polynomial, method_of
from htmuon.spectral import Clip, Function, Knee, Power, Quantile, RankPower, Soren, map_of

NAMES = list(htmuon.OPTIMIZERS)
KNEE = {"name": "knee", "tau": 0.02, "sharpness": 4.0}


def matrix():
    torch.manual_seed(0)
    return nn.Parameter(torch.randn(6, 4))


def updated(optimizer, steps=2):
    """The one parameter of an optimizer, after steps with fixed gradients."""
    (weight,) = optimizer.param_groups[0]["params"]
    for step in range(steps):
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
        optimizer.step()
    return weight.detach()


def saved_and_loaded(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", NAMES)
def test_objects_are_stored_as_plain_dicts_and_continue_from_a_file_to_the_bit(name):
    settings = {"method": Polynomial(levels=8), "spectral_map": Knee(0.25, tau=0.02)}
    one, other = (htmuon.OPTIMIZERS[name]([matrix()], **settings) for _ in range(2))
    group = one.param_groups[0]
    assert group["method"] == {"name": "polynomial", "levels": 8, "precision": None}
    assert (group["spectral_map"], group["power"]) == (KNEE, 0.25)
    updated(one)
    fresh = htmuon.OPTIMIZERS[name]([nn.Parameter(one.param_groups[0]["params"][0].detach().clone())])
    with pytest.warns(UserWarning, match="the state_dict brings"):
        fresh.load_state_dict(saved_and_loaded(one.state_dict()))
    assert fresh.param_groups[0]["method"] == group["method"]
    updated(other)
    assert torch.equal(updated(fresh), updated(other))


@pytest.mark.parametrize(
    ("choice", "method"),
    [(Polynomial(), "polynomial"), (Eigh(), "eigh"), ({"name": "polynomial"}, "polynomial"), ("svd", "svd")],
)
def test_what_is_the_default_is_stored_by_name(choice, method):
    optimizer = htmuon.HTMuon([{"params": [matrix()], "method": choice}])
    assert optimizer.param_groups[0]["method"] == method


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"spectral_map": Power(0.25)}, {"power": 0.25}),
        ({"spectral_map": RankPower(0.25)}, {"spectral_map": "rank_power", "power": 0.25}),
        ({"spectral_map": Knee(0.25)}, {"spectral_map": "knee", "power": 0.25}),
        ({"spectral_map": Clip()}, {"spectral_map": "soft_clip", "power": 1.0}),
        ({"spectral_map": Clip(sharpness=math.inf)}, {"spectral_map": "hard_clip", "power": 1.0}),
        ({"spectral_map": Soren()}, {"spectral_map": "soren", "power": 0.0}),
        ({"method": Polynomial()}, {"method": "polynomial"}),
        ({"method": NewtonSchulz()}, {"method": "newton_schulz"}),
    ],
    ids=str,
)
def test_an_object_updates_as_its_name_does(given, named):
    one, other = htmuon.HTMuon([matrix()], **given), htmuon.HTMuon([matrix()], **named)
    assert torch.equal(updated(one), updated(other))
    assert repr(one) == repr(other)


def test_a_quantile_survives_a_file():
    optimizer = htmuon.HTMuon([matrix()], spectral_map=Knee(0.5, tau=Quantile(0.25)), method="eigh")
    loaded = saved_and_loaded(optimizer.state_dict())["param_groups"][0]
    assert map_of(loaded["spectral_map"], loaded["power"]) == Knee(0.5, tau=Quantile(0.25))


def test_an_edited_power_and_a_schedule_remake_the_map():
    optimizer = htmuon.HTMuon([matrix()], spectral_map=Knee(0.25, tau=0.02))
    optimizer.param_groups[0]["power"] = 0.5
    assert torch.equal(updated(optimizer), updated(htmuon.HTMuon([matrix()], spectral_map=Knee(0.5, tau=0.02))))
    schedule = htmuon.power_schedule("constant", power=0.5)
    optimizer = htmuon.HTMuon([matrix()], spectral_map=Knee(0.25, tau=0.02), power_schedule=schedule)
    assert torch.equal(updated(optimizer), updated(htmuon.HTMuon([matrix()], spectral_map=Knee(0.5, tau=0.02))))
    assert optimizer.param_groups[0]["power"] == 0.5


def test_an_object_written_into_a_group_brings_its_power():
    optimizer = htmuon.HTMuon([matrix()])
    optimizer.param_groups[0].update(spectral_map=Knee(0.5, tau=0.02), method=Polynomial(levels=8))
    assert torch.equal(
        updated(optimizer),
        updated(htmuon.HTMuon([matrix()], spectral_map=Knee(0.5, tau=0.02), method=Polynomial(levels=8))),
    )
    optimizer.param_groups[0]["spectral_map"] = Soren(0.5)
    assert optimizer.state_dict()["param_groups"][0]["spectral_map"] == {"name": "soren", "lam": 0.5}
    assert optimizer.state_dict()["param_groups"][0]["power"] == 0.0


def test_a_dict_is_copied_and_an_optimizer_can_be():
    given = {"name": "polynomial", "levels": 4}
    optimizer = htmuon.HTMuon([matrix()], method=given)
    given["levels"] = 99
    assert optimizer.param_groups[0]["method"]["levels"] == 4
    assert copy.deepcopy(optimizer).param_groups[0]["method"] == optimizer.param_groups[0]["method"]


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        (
            {"spectral_map": Knee(0.25), "power": 0.5},
            ValueError,
            r"that of the spectral map, 0\.25.*got power=0\.5.*Le",
        ),
        pytest.param(
            {"spectral_map": Function(torch.tanh)},
            ValueError,
            "registered by name, so that it can be saved.*'mine'",
            id="a function without a name",
        ),
        ({"spectral_map": Knee}, TypeError, "a name, a dict or a map; got <class"),
        ({"spectral_map": 3}, TypeError, "a name, a dict or a map; got 3 of type int"),
        ({"spectral_map": {"tau": 0.1}}, TypeError, "must have the key 'name'"),
        ({"spectral_map": {"name": "kne"}}, ValueError, "Did you mean 'knee'"),
        ({"spectral_map": {"name": "knee", "tua": 0.1}}, ValueError, "takes tau, sharpness; got tua"),
        ({"spectral_map": {"name": "knee", "exponent": 0.1}}, ValueError, "the exponent is the setting power"),
        ({"spectral_map": {"name": "knee", "tau": 7.0}}, ValueError, r"tau must be a number in \[0\.0001, 1\]"),
        ({"method": Polynomial}, TypeError, "a name, a dict or a method; got <class"),
        ({"method": None}, TypeError, "a name, a dict or a method; got None"),
        ({"method": {"levels": 8}}, TypeError, "must have the key 'name'"),
        ({"method": {"name": "polynomial", "level": 8}}, ValueError, "takes levels, precision; got level"),
        ({"method": {"name": "polynomial", "levels": 2}}, ValueError, "from 3 to 8; got 2"),
        ({"method": {"name": "auto"}}, ValueError, "method must be one of eigh"),
        ({"method": Polynomial(), "power": -0.5}, ValueError, "at least -0.25; got power=-0.5"),
    ],
    ids=str,
)
@pytest.mark.parametrize("where", ["constructor", "group"])
def test_what_does_not_fit_is_named(where, settings, error, words):
    weight = matrix()
    with pytest.raises(error, match=words):
        htmuon.HTMuon([weight], **settings) if where == "constructor" else htmuon.HTMuon(
            [{"params": [weight], **settings}]
        )


def test_a_power_that_says_the_same_is_no_contradiction():
    assert htmuon.Muon([matrix()], spectral_map=Knee(0.25), power=0.25).param_groups[0]["power"] == 0.25
    with pytest.raises(ValueError, match=r"got power=0\.125"):
        htmuon.Muon([matrix()], spectral_map=Knee(0.25), power=0.125)


def test_a_method_that_is_not_registered_computes_but_does_not_train():
    @dataclass(frozen=True)
    class Mine(Eigh):
        name: ClassVar[str] = "mine"

    assert htmuon.spectral_power(torch.eye(3), 0.5, method=Mine()).allclose(torch.eye(3))
    with pytest.raises(ValueError, match=r"must be registered.*METHODS\.register\('mine'\)"):
        htmuon.HTMuon([matrix()], method=Mine())


def test_the_functions_take_objects_and_dicts():
    given = matrix().detach()
    by_name = htmuon.spectral_power(given, 0.125, method="polynomial")
    assert torch.equal(by_name, htmuon.spectral_power(given, 0.125, method=Polynomial()))
    assert torch.equal(by_name, htmuon.spectral_power(given, 0.125, method={"name": "polynomial"}))
    assert not torch.equal(by_name, htmuon.spectral_power(given, 0.125, method=Polynomial(levels=3)))
    assert method_of(METHODS["polynomial"]) == Polynomial()


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_has_a_name_a_type_and_a_default(name):
    kind = htmuon.OPTIMIZERS[name]
    parameters = list(inspect.signature(kind).parameters.values())
    assert [p.name for p in parameters[:2]] == ["params", "lr"]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters[2:])
    assert all(p.annotation is not p.empty and p.default is not p.empty for p in parameters[1:])
    assert {p.name for p in parameters} >= set(inspect.signature(htmuon.HTMuon).parameters)


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_reaches_the_group(name):
    settings = {
        "lr": 0.5,
        "power": 0.25,
        "spectral_map": "rank_power",
        "momentum": 0.5,
        "nesterov": False,
        "weight_decay": 0.5,
        "normalization": "rms",
        "eps": 0.5,
        "adjust_lr_fn": "spectral_unclamped",
        "method": "eigh",
        "compile": True,
        "stack_elements": 7,
    }
    others = {"adamw_lr": 0.75, "adamw_betas": (0.5, 0.25), "adamw_eps": 0.75, "adamw_weight_decay": 0.75}
    bias = nn.Parameter(torch.ones(3))
    optimizer = htmuon.OPTIMIZERS[name](
        [{"params": [matrix()]}, {"params": [bias], "use_muon": False}], **settings, **others
    )
    assert settings.items() <= optimizer.param_groups[0].items()
    assert {key.removeprefix("adamw_"): value for key, value in others.items()}.items() <= (
        optimizer.param_groups[1].items()
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_group_shows_what_it_uses(name):
    bias = nn.Parameter(torch.ones(3))
    optimizer = htmuon.OPTIMIZERS[name]([{"params": [matrix()]}, {"params": [bias], "use_muon": False}])
    matrices, others = repr(optimizer).split("Parameter Group 1")
    assert [line.split(":")[0].strip() for line in others.splitlines() if ":" in line] == [
        "betas",
        "eps",
        "lr",
        "skipped_steps",
        "steps_taken",
        "use_muon",
        "weight_decay",
    ]
    assert all(f"    {key}: " in matrices for key in optimizer.defaults)
    assert optimizer.param_groups[1]["momentum"] == 0.95  # every key is there all the same
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    assert repr(optimizer).count("initial_lr") == 2


@pytest.mark.parametrize("name", ["levels", "precision"])
def test_settings_of_a_method_are_none_of_a_group(name):
    with pytest.raises(ValueError, match=rf"{name} is a setting of a method; got {name}=None .*Polynomial\(levels=8"):
        htmuon.HTMuon([{"params": [torch.nn.Parameter(torch.eye(2))], name: None}])
    optimizer = htmuon.HTMuon([torch.nn.Parameter(torch.eye(2))])
    saved = optimizer.state_dict()
    saved["param_groups"][0][name] = 8
    with pytest.raises(ValueError, match=f"{name} is a setting of a method"):
        optimizer.load_state_dict(saved)


def test_no_two_groups_share_a_method():
    parameters = [[torch.nn.Parameter(torch.eye(4))] for _ in range(2)]
    optimizer = htmuon.HTMuon([{"params": p} for p in parameters], method=Polynomial(levels=8))
    optimizer.param_groups[0]["method"]["levels"] = 4
    assert [group["method"]["levels"] for group in optimizer.param_groups] == [4, 8]
    assert optimizer.defaults["method"]["levels"] == 8


def test_the_power_of_a_map_is_not_that_of_groups_with_another_map():
    groups = [{"params": [torch.nn.Parameter(torch.eye(4))], **own} for own in ({"spectral_map": "power"}, {})]
    optimizer = htmuon.HTMuon(groups, spectral_map=Clip())
    assert [group["power"] for group in optimizer.param_groups] == [0.125, 1.0]
    copied = copy.deepcopy(optimizer)
    copied.add_param_group({"params": [torch.nn.Parameter(torch.eye(4))], "spectral_map": "knee"})
    assert copied.param_groups[-1]["power"] == 0.125


def test_a_partial_dict_of_a_method_is_stored_whole():
    optimizer = htmuon.HTMuon([torch.nn.Parameter(torch.eye(4))], method={"name": "polynomial", "levels": 8})
    assert optimizer.param_groups[0]["method"] == {"name": "polynomial", "levels": 8, "precision": None}
    optimizer = htmuon.HTMuon([torch.nn.Parameter(torch.eye(4))], method={"name": "polynomial"})
    assert optimizer.param_groups[0]["method"] == "polynomial"


@pytest.mark.parametrize(
    ("key", "meant"),
    [("pwoer", "power"), ("adamw_lr", "lr"), ("weight_decy", "weight_decay")],
)
def test_a_key_that_looks_like_a_setting_is_named(key, meant):
    with pytest.warns(UserWarning, match=f"the key '{key}', which has no effect.*Did you mean '{meant}'"):
        htmuon.HTMuon([{"params": [matrix()], key: 0.5}])


@pytest.mark.parametrize("key", ["initial_lr", "max_lr", "max_momentum", "base_momentum", "lr_scale", "step", "name"])
def test_keys_of_schedulers_and_wrappers_are_no_mistakes(key):
    htmuon.HTMuon([{"params": [matrix()], key: 0.5}])  # warnings are errors


def test_a_schedule_by_name_is_told_how_to_make_it():
    with pytest.raises(TypeError, match=r"power_schedule\('logistic', start=\.\.\., end=\.\.\., total_steps="):
        htmuon.HTMuon([matrix()], power_schedule="logistic")


@pytest.mark.parametrize("function", ["knee", Knee, torch.tanh])
def test_the_function_alone_takes_maps(function):
    with pytest.raises(TypeError, match="function must be a map such as"):
        htmuon.spectral_map(torch.eye(3), function)
