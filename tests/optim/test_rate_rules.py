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


def factors_of(optimizer):
    return {p: optimizer.state[p]["log_rate"].item() for p in matrices(optimizer)}


def test_matrices_without_a_gradient_keep_their_factor_and_move_no_other():
    model, optimizer = made(rate_rule=Alignment(speed=1.0, averaging=0.5))
    for number in range(5):
        step(optimizer, model, number)
    before = factors_of(optimizer)
    alone = matrices(optimizer)[0]
    for p in model.parameters():
        p.grad = torch.randn_like(p) if p is alone else None
    optimizer.step()
    # Alone it has nobody to differ from.
    assert factors_of(optimizer) == before


def test_a_matrix_at_rest_counts_for_nothing():
    runs = []
    for idle in (True, False):
        torch.manual_seed(0)
        weights = [nn.Parameter(torch.randn(8, 8)) for _ in range(4 if idle else 3)]
        optimizer = htmuon.Muon(weights, lr=0.1, rate_rule=Alignment(speed=1.0), method="eigh")
        for number in range(6):
            generator = torch.Generator().manual_seed(number)
            for p in weights[:3]:
                p.grad = p.detach() + torch.randn(8, 8, generator=generator)
            if idle:
                weights[3].grad = torch.eye(8) if number == 0 else torch.zeros(8, 8)
            optimizer.step()
        runs.append(list(factors_of(optimizer).values()))
    assert runs[0][3] == 0
    assert runs[0][:3] == runs[1]


def test_factors_stay_within_their_bounds():
    rule = Alignment(speed=5.0, averaging=0.0, most=2.0)
    cosine, logs = torch.tensor([1.0, -0.5, -0.5, -0.5]), torch.zeros(4)
    for _ in range(5):
        _, logs = rule(cosine, torch.zeros(4), logs, torch.ones(4, dtype=torch.bool))
    assert torch.allclose(logs.exp(), torch.tensor([2.0, 0.5, 0.5, 0.5]))


def test_all_groups_have_one_rule():
    weights = [nn.Parameter(torch.eye(3)) for _ in range(2)]
    groups = [{"params": [weights[0]], "rate_rule": "alignment"}, {"params": [weights[1]], "rate_rule": RULE}]
    optimizer = htmuon.Muon(groups)
    for p in weights:
        p.grad = torch.randn(3, 3)
    with pytest.raises(ValueError, match="rate_rule must be the same in all groups that have one; got 'alignment' and"):
        optimizer.step()
    assert all(torch.equal(p, torch.eye(3)) for p in weights)


def test_a_rule_that_is_switched_off_leaves_nothing():
    model, optimizer = made()
    for number in range(3):
        step(optimizer, model, number)
    for group in optimizer.param_groups:
        group["rate_rule"] = None
    step(optimizer, model, 3)
    assert not any("log_rate" in optimizer.state[p] or "last_update" in optimizer.state[p] for p in matrices(optimizer))
    for group in optimizer.param_groups:
        group["rate_rule"] = "alignment"
    step(optimizer, model, 4)
    assert set(factors_of(optimizer).values()) == {0.0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_weights_find_the_factors_of_wide_ones(dtype):
    found = []
    for own in (dtype, torch.float32):
        weights = [
            nn.Parameter((torch.randn(300, 300, generator=torch.Generator().manual_seed(i)) / 50).to(own))
            for i in (0, 1)
        ]
        optimizer = htmuon.AdaMuon(weights, lr=1e-3, rate_rule=Alignment(speed=1.0, averaging=0.0))
        for number in range(2):
            for index, p in enumerate(weights):
                generator = torch.Generator().manual_seed(0 if index == 0 else number + 1)
                p.grad = (1e-3 * torch.randn(300, 300, generator=generator)).to(own)
            optimizer.step()
        found.append(torch.tensor(list(factors_of(optimizer).values())))
    # A gradient and an update of 8 bits, in sums of 90,000 terms.
    torch.testing.assert_close(found[0], found[1], rtol=0.02, atol=1e-3)
    assert found[1].abs().min() > 0.1


def test_rules_of_ones_own():
    @htmuon.optim.RATE_RULES.register("test: still")
    def still(cosine, alignment, log_rate, moves):
        return alignment, log_rate

    @htmuon.optim.RATE_RULES.register("test: all double")
    def double(cosine, alignment, log_rate, moves):
        return alignment, torch.full_like(log_rate, 2.0).log()

    try:
        model, optimizer = made(rate_rule=double)
        assert optimizer.param_groups[0]["rate_rule"] == "test: all double"
        for number in range(2):
            step(optimizer, model, number)
        assert factors(optimizer).tolist() == pytest.approx([2.0] * len(matrices(optimizer)))
        assert made(rate_rule=still)[1].param_groups[0]["rate_rule"] == "test: still"
    finally:
        for name in ("test: still", "test: all double"):
            del htmuon.optim.RATE_RULES._parts[name]
    with pytest.raises(ValueError, match=r"must be registered.*Pass Alignment\(\)"):
        made(rate_rule=Alignment)
    with pytest.raises(ValueError, match=r"must be registered.*Register it"):
        made(rate_rule=double)


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        ("allignment", ValueError, r"rate_rule must be one of alignment; got 'allignment'"),
        (3, TypeError, r"rate_rule must be a name, a dict or an object; got 3"),
        ({"name": "alignment", "pace": 1}, ValueError, r"rate_rule 'alignment' takes speed, averaging, most; got pace"),
        ({"name": "alignment", "speed": -1.0}, ValueError, r"speed must be a finite number at least 0; got -1"),
    ],
)
def test_bad_rules_say_what_is_wrong(rule, error, message):
    with pytest.raises(error, match=message):
        htmuon.HTMuon([nn.Parameter(torch.eye(3))], rate_rule=rule)


def test_a_factor_that_is_no_number_is_not_loaded():
    model, optimizer = made(rate_rule="alignment")
    step(optimizer, model, 0)
    saved = copy.deepcopy(optimizer.state_dict())
    first = next(state for state in saved["state"].values() if "log_rate" in state)
    first["log_rate"].fill_(torch.nan)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"log_rate of parameter .* must be finite; the state_dict has nan. Remove it"):
        optimizer.load_state_dict(saved)
    torch.testing.assert_close(optimizer.state_dict()["state"], before["state"], rtol=0, atol=0)
