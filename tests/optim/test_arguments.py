"""Optimizers that are called with arguments they have not, or without those they need."""

import inspect

import pytest
from problems import network

import htmuon

KINDS = [htmuon.OPTIMIZERS[name] for name in htmuon.OPTIMIZERS]


@pytest.mark.parametrize("kind", KINDS)
def test_the_class_and_the_method_that_were_called_are_named(kind):
    with pytest.raises(TypeError, match=rf"^{kind.__name__}.for_model\(...\) must be given adamw_lr. .*adamw_lr=3e-3"):
        kind.for_model(network(), lr=0.02)
    with pytest.raises(TypeError, match=rf"^{kind.__name__}.for_model\(...\) must be given lr and adamw_lr\. "):
        kind.for_model(network())
    with pytest.raises(
        TypeError, match=rf"^{kind.__name__}\(...\) must be given params. .*{kind.__name__}.for_model\("
    ):
        kind(lr=0.02)


@pytest.mark.parametrize("by_model", [False, True])
@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"betas": (0.9, 0.99)}, r"AdamW's are adamw_betas="),
        ({"ns_steps": 5}, r"NewtonSchulz\(coefficients=...\)"),
        ({"momentun": 0.9}, r"Did you mean 'momentum'\?"),
        ({"fused": True}, r"It takes params, lr, power, "),
    ],
    ids=str,
)
def test_an_unknown_argument_is_an_error_with_a_remedy(by_model, given, remedy):
    message = rf"^Muon\(...\) takes no argument '{next(iter(given))}'. .*{remedy}"
    made, of = (htmuon.Muon.for_model, network()) if by_model else (htmuon.Muon, htmuon.param_groups(network()))
    with pytest.raises(TypeError, match=message):
        made(of, lr=0.02, adamw_lr=0.003, **given)


@pytest.mark.parametrize("argument", ["lr_scale", "spectral", "adamw", "split"])
def test_what_groups_are_made_by_is_said_of_their_arguments(argument):
    with pytest.raises(TypeError, match=rf"'{argument}'. Pass it to htmuon.param_groups\(model, {argument}=...\)"):
        htmuon.HTMuon(htmuon.param_groups(network()), **{argument: "kinds"})


def test_settings_of_another_muon_need_parameters_too():
    with pytest.raises(TypeError, match=r"HTMuon\(...\) must be given params. Pass htmuon.param_groups\(model\)"):
        htmuon.HTMuon(**htmuon.like("torch", lr=0.02))


def test_the_arguments_stay_those_of_the_function():
    assert [*inspect.signature(htmuon.Muon).parameters][:2] == ["params", "lr"]
    assert inspect.signature(htmuon.Muon.for_model).parameters["adamw_lr"].default is inspect.Parameter.empty
    assert htmuon.Muon(htmuon.param_groups(network()), 0.5).param_groups[0]["lr"] == 0.5
