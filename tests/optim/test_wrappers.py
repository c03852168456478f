"""Wrappers that fill in the settings of groups by themselves: each group keeps the rates that `param_groups` states."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

import htmuon

RATES = {"lr": 0.02, "adamw_lr": 0.001, "weight_decay": 0.1, "adamw_weight_decay": 0.01}
# Of the matrices, of the tables and heads, of the vectors.
EXPECTED = [(0.02, 0.1), (0.001, 0.01), (0.001, 0.0)]


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimization as it is commonly written: two gradients a step, one at the worst point nearby."""

    def __init__(self, params, base_optimizer, rho=0.05, **kwargs):
        super().__init__(params, {"rho": rho, **kwargs})
        self.base_optimizer = base_optimizer(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups
        self.defaults.update(self.base_optimizer.defaults)

    @torch.no_grad()
    def step(self, closure):
        moved = [(p, p.clone()) for group in self.param_groups for p in group["params"]]
        norm = torch.stack([p.grad.norm() for p, _ in moved]).norm()
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(p.grad, alpha=float(group["rho"] / norm))
        with torch.enable_grad():
            closure()
        for p, before in moved:
            p.copy_(before)
        self.base_optimizer.step()


@pytest.fixture
def ranks():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 9))


def loss_of(model):
    return nn.functional.cross_entropy(model(torch.arange(9)), torch.arange(9))


def rates(optimizer):
    return [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]


def descend(model, optimizer, steps=3):
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()


@pytest.mark.parametrize("named", [True, False])
def test_groups_state_the_rates_of_their_kind(named):
    model = build()
    groups = htmuon.param_groups(model, **RATES, named=named)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == EXPECTED
    plain = htmuon.param_groups(model)
    assert not any("lr" in group for group in plain)
    assert ["weight_decay" in group for group in plain] == [False, False, True]
    for group, names in zip(groups, plain, strict=True):
        assert group["params"] == (names["params"] if named else [p for _, p in names["params"]])


def test_a_rate_that_is_a_tensor_is_one_for_each_group():
    rate = torch.tensor(0.1)
    first, second, third = htmuon.param_groups(build(), lr=rate, adamw_lr=rate)
    first["lr"].mul_(0.5)
    second["lr"].mul_(0.1)
    assert [float(group["lr"]) for group in (first, second, third)] == pytest.approx([0.05, 0.01, 0.1])
    assert float(rate) == pytest.approx(0.1)


@pytest.mark.parametrize("named", [True, False])
def test_sharpness_aware_minimization(named):
    model, alone = build(), build()
    optimizer = SAM(htmuon.param_groups(model, **RATES, named=named), htmuon.HTMuon, lr=0.02, momentum=0.9)
    assert rates(optimizer) == rates(optimizer.base_optimizer) == EXPECTED
    # At rho = 0 the two gradients are one, and so are the two optimizers.
    plain = htmuon.HTMuon(htmuon.param_groups(alone), momentum=0.9, **RATES)
    optimizer.param_groups[0]["rho"] = optimizer.param_groups[1]["rho"] = optimizer.param_groups[2]["rho"] = 0.0
    for _ in range(3):

        def closure():
            optimizer.zero_grad()
            loss_of(model).backward()

        closure()
        optimizer.step(closure)
    descend(alone, plain)
    for ours, theirs in zip(model.parameters(), alone.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_zero_redundancy_optimizer(ranks):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model, alone = build(), build()
    groups = htmuon.param_groups(model, **RATES, named=False)
    optimizer = ZeroRedundancyOptimizer(groups, htmuon.HTMuon, lr=0.02, momentum=0.9)
    assert rates(optimizer) == rates(optimizer.optim) == EXPECTED
    plain = htmuon.HTMuon(htmuon.param_groups(alone), momentum=0.9, **RATES)
    descend(model, optimizer)
    descend(alone, plain)
    optimizer.consolidate_state_dict()
    optimizer.load_state_dict(optimizer.state_dict())
    descend(model, optimizer)
    descend(alone, plain)
    for ours, theirs in zip(model.parameters(), alone.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"lr": -0.1}, ValueError, r"^lr must be a finite number at least 0; got -0.1. Pass a float"),
        ({"lr": "0.1"}, TypeError, "^lr must be a number; got '0.1'"),
        ({"lr": torch.ones(2)}, TypeError, "^lr must be a number or a floating-point tensor of one element"),
        ({"adamw_lr": float("nan")}, ValueError, r"^adamw_lr must be a finite number at least 0; got nan"),
        ({"adamw_lr": True}, TypeError, "^adamw_lr must be a number; got True"),
        ({"adamw_lr": torch.tensor(1)}, TypeError, "^adamw_lr must be a number or a floating-point tensor"),
        ({"weight_decay": float("inf")}, ValueError, r"^weight_decay must be a finite number at least 0; got inf"),
        ({"weight_decay": [0.1]}, TypeError, "^weight_decay must be a number; got .0.1. of type list"),
        ({"adamw_weight_decay": -1}, ValueError, r"^adamw_weight_decay must be a finite number at least 0; got -1"),
        ({"named": "yes"}, TypeError, "^named must be True or False; got 'yes'"),
    ],
)
def test_settings_are_checked(settings, error, words):
    with pytest.raises(error, match=words):
        htmuon.param_groups(build(), **settings)
