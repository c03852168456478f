"""One line for a model: the same as groups and optimizer by hand."""

import pytest
import torch
from problems import network

import htmuon

SETTINGS = [
    {},
    {"power": 0.25, "normalization": "rms", "weight_decay": 0.05},
    {"power": {"*.weight": 0.5}},
    {"lr_scale": {"*.weight": 2.0}, "method": "eigh"},
    {"adamw": ["0.*"], "split": None},
]


@pytest.mark.parametrize("name", htmuon.OPTIMIZERS)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_is_groups_and_optimizer(name, settings):
    kind, models = htmuon.OPTIMIZERS[name], (network(), network())
    for_groups = {key: settings[key] for key in ("adamw", "split", "lr_scale") if key in settings}
    if isinstance(settings.get("power"), dict):
        for_groups["power"] = settings["power"]
    for_optimizer = {key: value for key, value in settings.items() if key not in for_groups}
    one = kind.for_model(models[0], lr=0.02, adamw_lr=0.003, **settings)
    two = kind(htmuon.param_groups(models[1], **for_groups), lr=0.02, adamw_lr=0.003, **for_optimizer)
    assert type(one) is kind
    for model, optimizer in zip(models, (one, two), strict=True):
        for index, p in enumerate(model.parameters()):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(index))
        optimizer.step()
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(p, q)
    without_params = [[{k: v for k, v in g.items() if k != "params"} for g in o.param_groups] for o in (one, two)]
    assert without_params[0] == without_params[1]


def test_both_rates_are_asked_for():
    with pytest.raises(TypeError, match="adamw_lr"):
        htmuon.HTMuon.for_model(network(), lr=0.02)
    with pytest.raises(TypeError, match="momentun"):
        htmuon.HTMuon.for_model(network(), lr=0.02, adamw_lr=0.003, momentun=0.9)
