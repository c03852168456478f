"""Rates that matrices find for themselves: against the formula, and what must not change them."""

import copy

import pytest
import torch
from problems import network
from torch import nn

import htmuon
from htmuon.optim import Alignment

RULE = Alignment(speed=0.5, averaging=0.5, most=1.5)


def step(optimizer, model, number, *, bad=False):
    for index, p in enumerate(model.parameters()):
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * number + index))
    if bad:
        next(model.parameters()).grad.view(-1)[0] = torch.nan
    optimizer.step()


def matrices(optimizer):
    return [p for group in optimizer.param_groups if group["use_muon"] for p in group["params"]]


def factors(optimizer):
    return torch.stack([optimizer.state[p]["log_rate"] for p in matrices(optimizer)]).exp()


def made(name="htmuon", **settings):
    model = network()
    settings = {"rate_rule": RULE, "method": "eigh", "adamw_lr": 0.02, "weight_decay": 0.1, **settings}
    return model, htmuon.OPTIMIZERS[name](htmuon.param_groups(model), lr=0.02, **settings)


@pytest.mark.parametrize("name", htmuon.OPTIMIZERS)
def test_factors_follow_the_formula(name):
    model, optimizer = made(name)
    weights = matrices(optimizer)
    mean, logs = torch.zeros(len(weights), dtype=torch.float64), torch.zeros(len(weights), dtype=torch.float64)
    updates = None
    for number in range(6):
        before = [p.detach().clone() for p in weights]
        step(optimizer, model, number)
        if updates is not None:
            pairs = [(p.grad.double(), update) for p, update in zip(weights, updates, strict=True)]
            cosine = torch.stack([(g * o).sum() / (g.norm() * o.norm()) for g, o in pairs])
            mean = 0.5 * mean + 0.5 * cosine
            logs = (logs + 0.5 * (mean - mean.mean())).clamp(-(torch.tensor(1.5).log()), torch.tensor(1.5).log())
            logs = logs - logs.mean()
        rates = 0.02 * logs.exp()
        updates = [
            (old.double() * (1 - rate * 0.1) - p.detach().double()) / rate
            for old, p, rate in zip(before, weights, rates, strict=True)
        ]
        # The weights, from which the updates are read off here, are rounded to float32: 1e-7 of 1 by a rate of 0.02.
        torch.testing.assert_close(factors(optimizer).double(), logs.exp(), rtol=1e-4, atol=0)
    assert factors(optimizer).std() > 0.01


def test_a_step_is_that_at_the_rate_of_each_matrix():
    model, optimizer = made()
    for number in range(4):
        step(optimizer, model, number)
    first = copy.deepcopy(model)
    held = {q: optimizer.state[q]["momentum_buffer"].clone() for q in matrices(optimizer)}
    step(optimizer, model, 5)
    names = {p: name for name, p in model.named_parameters()}
    for q, factor in zip(matrices(optimizer), factors(optimizer), strict=True):
        p = first.get_parameter(names[q])
        alone = htmuon.HTMuon([p], lr=0.02 * factor.item(), method="eigh", weight_decay=0.1)
        alone.state[p]["momentum_buffer"] = held[q]
        p.grad = q.grad
        alone.step()
        # One matrix or a stack of them may round otherwise.
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_with_speed_zero_nothing_changes():
    model, optimizer = made(rate_rule=Alignment(speed=0.0))
    other, plain = made(rate_rule=None)
    for number in range(5):
        step(optimizer, model, number)
        step(plain, other, number)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_masked_step_moves_no_factor():
    model, optimizer = made()
    for number in range(3):
        step(optimizer, model, number)
    before = copy.deepcopy([optimizer.state[p] for p in matrices(optimizer)])
    step(optimizer, model, 3, bad=True)
    for p, state in zip(matrices(optimizer), before, strict=True):
        for name, value in state.items():
            assert torch.equal(optimizer.state[p][name], value), name


def test_a_resumed_run_goes_on_exactly():
    model, optimizer = made()
    for number in range(3):
        step(optimizer, model, number)
    other, resumed = made()
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for number in range(3, 6):
        step(optimizer, model, number)
        step(resumed, other, number)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    assert torch.equal(factors(resumed), factors(optimizer))


def test_a_rule_is_stored_as_plain_values():
    _, optimizer = made()
    rule = optimizer.state_dict()["param_groups"][0]["rate_rule"]
    assert rule == {"name": "alignment", "speed": 0.5, "averaging": 0.5, "most": 1.5}
    assert made(rate_rule=Alignment())[1].param_groups[0]["rate_rule"] == "alignment"


def test_scales_of_the_gradient_do_not_matter():
    found = []
    for scale in (1e-4, 1.0, 1e12):
        model, optimizer = made(normalization="rms")
        for number in range(4):
            for index, p in enumerate(model.parameters()):
                p.grad = scale * torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * number + index))
            optimizer.step()
        found.append(factors(optimizer))
    for other in (found[0], found[2]):
        torch.testing.assert_close(other, found[1], rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        ("allignment", ValueError, r"rate_rule must be one of alignment; got 'allignment'"),
        (3, TypeError, r"rate_rule must be a name, a dict or a rule; got 3"),
        ({"name": "alignment", "pace": 1}, ValueError, r"rate_rule 'alignment' takes speed, averaging, most; got pace"),
        ({"name": "alignment", "speed": -1.0}, ValueError, r"speed must be a finite number at least 0; got -1"),
    ],
)
def test_bad_rules_say_what_is_wrong(rule, error, message):
    with pytest.raises(error, match=message):
        htmuon.HTMuon([nn.Parameter(torch.eye(3))], rate_rule=rule)
