"""timm's own functions make our optimizers, with the model divided by our rules and the groups by timm's."""

import argparse
import logging
import math
import warnings

import pytest
import torch
from torch import nn

import htmuon
from htmuon.analysis import SpectralMonitor
from htmuon.integrations.timm import register

timm = pytest.importorskip("timm")
from timm.optim import create_optimizer, create_optimizer_v2, list_optimizers, param_groups_layer_decay
from timm.scheduler import create_scheduler_v2

NAMES = ["htmuon", "htadamuon", "normuon", "htnormuon"]
RATES = {"lr": 0.02, "adamw_lr": 0.003}


@pytest.fixture(autouse=True)
def registered():
    register()


def transformer():
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "num_heads": 3, "depth": 2}
    return timm.models.VisionTransformer(**sizes, num_classes=5)


def train(model, optimizer, steps=3, first=0):
    for step in range(first, first + steps):
        images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.arange(8) % 5).backward()
        optimizer.step()


def equal(one, other):
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def by_name(optimizer, key):
    return {name: group[key] for group in optimizer.param_groups for name in group["param_names"]}


def test_names_that_timm_has_stay_its_own(caplog):
    theirs = timm.optim.get_optimizer_class("muon", bind_defaults=False)
    with caplog.at_level(logging.WARNING):
        assert sorted(register()) == sorted(register()) == sorted(NAMES)
    assert caplog.records == []
    assert timm.optim.get_optimizer_class("muon", bind_defaults=False) is theirs is timm.optim.Muon
    described = dict(list_optimizers(with_description=True))
    assert all(described[name] == htmuon.OPTIMIZERS[name].__doc__.splitlines()[0] for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_optimizer_over_routed_groups(name):
    ours, theirs = transformer(), transformer()
    layers = {"weight_decay": 0.05, "layer_decay": 0.75}
    made = create_optimizer_v2(theirs, opt=name, **RATES, **layers)
    groups = param_groups_layer_decay(ours, **layers, no_weight_decay_list=ours.no_weight_decay())
    expected = htmuon.OPTIMIZERS[name](htmuon.route_groups(ours, groups), **RATES)
    assert type(made) is type(expected)
    for optimizer, model in ((made, theirs), (expected, ours)):
        scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=4, warmup_epochs=0)
        for epoch in range(3):
            train(model, optimizer, steps=2, first=2 * epoch)
            scheduler.step(epoch + 1)
    assert equal(ours, theirs)
    # The schedule is one of all groups; the layers have their shares of it.
    rates, sides, depths = by_name(made, "lr"), by_name(made, "use_muon"), by_name(made, "lr_scale")
    cosine = (1 + math.cos(3 / 4 * math.pi)) / 2
    for parameter, rate in rates.items():
        assert rate == pytest.approx((0.02 if sides[parameter] else 0.003) * depths[parameter] * cosine, rel=1e-5)
    assert depths["blocks.0.mlp.fc1.weight"] == 0.75**2
    assert depths["blocks.1.mlp.fc1.weight"] == 0.75


@pytest.mark.parametrize("layer_decay", [None, 0.75])
def test_what_is_a_matrix_and_what_is_decayed(layer_decay):
    model = transformer()
    optimizer = create_optimizer_v2(model, opt="htmuon", **RATES, weight_decay=0.05, layer_decay=layer_decay)
    matrices = {name for name, on in by_name(optimizer, "use_muon").items() if on}
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert matrices == {f"blocks.{n}.{layer}.weight" for n in (0, 1) for layer in layers}
    tables = {"cls_token", "pos_embed"}
    assert tables == model.no_weight_decay() & set(by_name(optimizer, "lr"))
    for name, decay in by_name(optimizer, "weight_decay").items():
        assert decay == (0.0 if name in tables or model.get_parameter(name).ndim == 1 else 0.05)


def test_what_a_fallback_list_names_takes_adamw():
    listed = {"fallback_list": ["blocks.1.*"], "fallback_no_weight_decay": True}
    optimizer = create_optimizer_v2(transformer(), opt="htmuon", **RATES, weight_decay=0.05, **listed)
    sides = by_name(optimizer, "use_muon")
    assert not any(on for name, on in sides.items() if name.startswith("blocks.1."))
    assert sum(sides.values()) == 4


def test_a_function_may_make_the_groups():
    def groups(model):
        return [{"params": list(model.blocks.parameters()), "lr": 0.01}, {"params": list(model.head.parameters())}]

    optimizer = create_optimizer_v2(transformer(), opt="htmuon", **RATES, weight_decay=0.05, param_group_fn=groups)
    rates, decays = by_name(optimizer, "lr"), by_name(optimizer, "weight_decay")
    assert rates["blocks.0.attn.proj.weight"] == rates["blocks.0.attn.proj.bias"] == 0.01
    assert rates["head.weight"] == 0.003
    assert decays["blocks.0.attn.proj.weight"] == decays["head.weight"] == 0.05
    plain = create_optimizer_v2(transformer(), opt="htmuon", **RATES, param_group_fn=lambda model: model.parameters())
    assert sum(by_name(plain, "use_muon").values()) == 8


def test_groups_without_a_model_are_taken_as_they_are():
    model = transformer()
    optimizer = create_optimizer_v2(htmuon.param_groups(model), opt="htmuon", **RATES, weight_decay=0.05)
    decays = by_name(optimizer, "weight_decay")
    assert decays["blocks.0.attn.proj.weight"] == decays["head.weight"] == 0.05
    assert decays["head.bias"] == 0.0


@pytest.mark.parametrize(("given", "momentum"), [({}, 0.95), ({"momentum": 0.9}, 0.95), ({"momentum": 0.98}, 0.98)])
def test_the_momentum_is_ours_where_none_was_asked_for(given, momentum):
    optimizer = create_optimizer_v2(transformer(), opt="htmuon", **RATES, **given)
    assert {group["momentum"] for group in optimizer.param_groups} == {momentum}


def test_the_arguments_of_a_training_script():
    """Those that timm's train.py has, with the names and defaults that it gives them."""
    parsed = {"opt": "htmuon", "lr": 0.02, "weight_decay": 0.05, "momentum": 0.9, "layer_decay": 0.75}
    options = {"opt_eps": 1e-8, "opt_betas": [0.9, 0.99], "opt_args": {"adamw_lr": 0.003, "power": 0.25}}
    optimizer = create_optimizer(argparse.Namespace(**parsed, **options, layer_decay_no_opt_scale=None), transformer())
    matrices, others = ([g for g in optimizer.param_groups if g["use_muon"] is side] for side in (True, False))
    assert {(g["lr"], g["power"], g["momentum"]) for g in matrices} == {(0.02, 0.25, 0.95)}
    assert {(g["lr"], g["eps"], tuple(g["betas"])) for g in others} == {(0.003, 1e-8, (0.9, 0.99))}
    with pytest.raises(TypeError, match="foreach"):
        create_optimizer_v2(transformer(), opt="htmuon", foreach=True)


def test_lookahead(tmp_path):
    model, slow = transformer(), transformer()
    optimizer = create_optimizer_v2(model, opt="lookahead_htmuon", **RATES, weight_decay=0.05)
    fast = create_optimizer_v2(slow, opt="htmuon", **RATES, weight_decay=0.05)
    start = [p.detach().clone() for p in slow.parameters()]
    train(model, optimizer, steps=5)
    train(slow, fast, steps=5)
    assert equal(model, slow)
    # At its sixth step, the first at which it looks, timm takes the weights as they are for the slow ones.
    train(model, optimizer, steps=1, first=5)
    train(slow, fast, steps=1, first=5)
    assert equal(model, slow)
    before = [p.detach().clone() for p in slow.parameters()]
    train(model, optimizer, steps=5, first=6)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "stored.pt")
    train(model, optimizer, steps=1, first=11)
    train(slow, fast, steps=6, first=6)
    for ours, then, now in zip(model.parameters(), before, slow.parameters(), strict=True):
        torch.testing.assert_close(ours, then + 0.5 * (now - then), rtol=0, atol=1e-6)  # one rounding of each sum
    assert not torch.equal(start[0], before[0])
    stored = torch.load(tmp_path / "stored.pt", weights_only=True)
    resumed = transformer()
    again = create_optimizer_v2(resumed, opt="lookahead_htmuon", **RATES, weight_decay=0.05)
    resumed.load_state_dict(stored["model"])
    again.load_state_dict(stored["optimizer"])
    train(resumed, again, steps=1, first=11)
    assert equal(resumed, model)


def test_the_monitor_listens_to_what_is_inside_lookahead():
    model = transformer()
    optimizer = create_optimizer_v2(model, opt="lookahead_htmuon", **RATES)
    with SpectralMonitor(model, optimizer, every=2) as monitor:
        train(model, optimizer, steps=2)
        assert {record["kind"] for record in monitor.latest} == {"weights", "momentum", "updates"}


def test_other_optimizers_of_timm_are_as_before():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert type(create_optimizer_v2(transformer(), opt="adamw", lr=1e-3)) is torch.optim.AdamW
        assert type(create_optimizer_v2(transformer(), opt="muon", lr=1e-3)) is timm.optim.Muon
