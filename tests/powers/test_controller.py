"""Powers that a controller sets: what it sees, when it looks, what it leaves alone, and that a resumed run is exact."""

import copy
import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

import htmuon
from htmuon.analysis import eigenvalues
from htmuon.powers import RULES, Alpha, NuclearRank, PowerController, Schatten, SpectralRule

ACTIVE = [NuclearRank(), Schatten()]


def made(every=3, rule="nuclear_rank", name="muon", **settings):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 20), nn.Tanh(), nn.Linear(20, 16), nn.Linear(16, 4)
    )
    optimizer = htmuon.OPTIMIZERS[name](htmuon.param_groups(model), lr=0.02, power_rule="held", **settings)
    controller = None if rule is None else PowerController(model, optimizer, rule, every=every)
    return model, optimizer, controller


def batch(number):
    draw = torch.Generator().manual_seed(number)
    return torch.randn(64, 16, generator=draw) @ torch.diag(torch.arange(1.0, 17.0) ** -1), number


def loss_of(model, number):
    inputs, seed = batch(number)
    targets = torch.randn(64, 4, generator=torch.Generator().manual_seed(seed + 1000))
    return (model(inputs) - targets).square().mean()


def step(model, optimizer, number):
    optimizer.zero_grad()
    loss_of(model, number).backward()
    optimizer.step()


def powers(optimizer):
    order = [p for group in optimizer.param_groups for p in group["params"]]
    return {p: optimizer.state[p]["power"].item() for p in order if "power" in optimizer.state.get(p, {})}


def hooks(model):
    return sum(len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("rule", [Alpha(averaging=0.25), *ACTIVE], ids=lambda rule: type(rule).__name__)
def test_powers_are_those_of_the_spectra_of_the_step(rule):
    model, optimizer, _ = made(rule=rule)
    seen = {}
    for module in model:
        if isinstance(module, nn.Linear):
            module.register_forward_hook(
                lambda module, args, _: seen.update({module.weight: args[0].detach().double()})
            )
    expected = {}
    for number in range(6):
        step(model, optimizer, number)
        if number in (2, 5):
            for p in powers(optimizer):
                of = {"weights": p.detach(), "gradients": p.grad, "activations": seen[p]}
                found = rule(*(eigenvalues(of[kind]) for kind in rule.looks_at)).item()
                before = expected.get(p, 0.0)
                expected[p] = rule.averaging * before + (1 - rule.averaging) * found
        # Grams of activations are sums in float32; the argmax of a flat function may move to its neighbour on the grid.
        tolerance = 1 / 128 if isinstance(rule, Schatten) else 1e-5
        for p, power in powers(optimizer).items():
            assert power == pytest.approx(expected.get(p, 0.0), abs=tolerance)
    assert len({round(power, 6) for power in expected.values()}) > 1


def test_powers_reach_the_next_step():
    model, optimizer, _ = made(every=1, rule=NuclearRank(averaging=0.0), method="svd")
    step(model, optimizer, 0)
    before = copy.deepcopy((model, optimizer.state_dict()["state"]))
    found = powers(optimizer)
    step(model, optimizer, 1)
    for number, (p, power) in enumerate(found.items()):
        assert 0.01 < power < 0.99
        old = next(q for q, own in zip(before[0].parameters(), model.parameters(), strict=True) if own is p)
        alone = htmuon.HTMuon([old], lr=0.02, power=power, normalization="rms", method="svd")
        kept = before[1][number]
        alone.state[old].update({name: value for name, value in kept.items() if name != "power"})
        old.grad = p.grad
        alone.step()
        torch.testing.assert_close(p, old, rtol=0, atol=2e-6)


@pytest.mark.parametrize("rule", RULES)
def test_between_looks_nobody_listens(rule):
    model, optimizer, controller = made(every=4, rule=rule)
    listening = []
    for number in range(9):
        listening.append(hooks(model) > 0)
        before = powers(optimizer)
        step(model, optimizer, number)
        assert not before or (before != powers(optimizer)) == (number % 4 == 3)
    assert listening == [rule != "alpha" and number % 4 == 3 for number in range(9)]
    controller.close()
    for number in range(4):
        before = powers(optimizer)
        step(model, optimizer, number)
        assert powers(optimizer) == before
        assert hooks(model) == 0


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("done", [1, 2, 3, 5])  # steps 2 and 5 are those before a look
def test_a_resumed_run_goes_on_exactly(rule, done):
    model, optimizer, _ = made(rule=rule)
    for number in range(done):
        step(model, optimizer, number)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    again, resumed, _ = made(rule=rule)
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    later, late, _ = made(rule=None)
    later.load_state_dict(saved[0])
    late.load_state_dict(saved[1])
    PowerController(later, late, rule, every=3)  # made after the state was loaded
    for number in range(done, 8):
        step(model, optimizer, number)
        for other, its in ((again, resumed), (later, late)):
            step(other, its, number)
            for p, q in zip(model.parameters(), other.parameters(), strict=True):
                assert torch.equal(p, q)
            assert list(powers(its).values()) == list(powers(optimizer).values())


def test_steps_that_are_masked_count_and_those_without_gradients_do_not():
    model, optimizer, controller = made(every=2)
    step(model, optimizer, 0)
    before = powers(optimizer)
    optimizer.zero_grad()
    with pytest.warns(UserWarning, match="no parameter of the optimizer has a gradient"):
        optimizer.step()
    loss_of(model, 1).backward()
    model[0].weight.grad[0, 0] = math.nan
    optimizer.step()  # the second, with a look
    assert powers(optimizer) == before
    state = copy.deepcopy(optimizer.state_dict())
    steps = controller._steps
    optimizer.load_state_dict(state)
    assert controller._steps == steps == 2


def test_the_batches_of_a_step_are_seen_together_and_an_evaluation_is_not():
    found = []
    for split in (False, True):
        model, optimizer, _ = made(every=1, rule=NuclearRank(averaging=0.0))
        inputs, _ = batch(0)
        for some in inputs.split(32) if split else [inputs]:
            (model(some).square().mean() / (2 if split else 1)).backward()
        with torch.no_grad():
            model(torch.randn(200, 16))
        optimizer.step()
        found.append(list(powers(optimizer).values()))
    assert found[0] == pytest.approx(found[1], abs=1e-5)  # sums in another order, in float32


def test_a_closure():
    model, optimizer, _ = made(every=2)
    other, plain, _ = made(every=2)
    for number in range(4):

        def closure(number=number):
            optimizer.zero_grad()
            loss = loss_of(model, number)
            loss.backward()
            return loss

        optimizer.step(closure)
        step(other, plain, number)
    assert list(powers(optimizer).values()) == list(powers(plain).values())
    assert len(set(powers(optimizer).values())) > 1


@dataclass(frozen=True)
class Counting(SpectralRule):
    """Gives 1/4 to the first matrix of a stack, 3/4 to the second, and none to the others."""

    averaging: float = 0.0
    shapes: list = field(default_factory=list)
    looks_at = ("weights", "gradients")

    def __call__(self, weights, gradients):
        assert weights.shape == gradients.shape
        self.shapes.append(tuple(weights.shape))
        given = torch.full(weights.shape[:-1], torch.nan).flatten()
        given[:2] = torch.tensor([0.25, 0.75])[: len(given)]
        return given.view(weights.shape[:-1])


def test_stacks_parts_and_convolutions_have_the_mean_over_their_matrices():
    torch.manual_seed(0)
    fused, unequal, experts, conv = (
        nn.Parameter(torch.randn(shape)) for shape in ((36, 16), (40, 12), (3, 12, 14), (8, 4, 3, 3))
    )
    model = nn.ParameterList([fused, unequal, experts, conv])
    groups = [
        {"params": [fused], "split": 3},
        {"params": [unequal], "split": [20, 10, 10]},
        {"params": [experts], "matrix_view": "linear"},
        {"params": [conv]},
    ]
    optimizer = htmuon.Muon(groups, power_rule="held")
    rule = Counting()
    PowerController(model, optimizer, rule, every=1)
    for p in model:
        p.grad = torch.randn_like(p)
    optimizer.step()
    assert rule.shapes == [(3, 12), (1, 12), (2, 10), (3, 12), (8,)]
    means = {fused: 0.5, unequal: (0.25 + 0.25 + 0.75) / 3, experts: 0.5, conv: 0.25}
    assert powers(optimizer) == pytest.approx(means)


def test_convolutions_are_seen():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(16 * 16, 4))
    optimizer = htmuon.Muon(htmuon.param_groups(model), power_rule="held")
    PowerController(model, optimizer, NuclearRank(averaging=0.0), every=1)
    inputs = torch.randn(5, 3, 8, 8)
    model(inputs).square().mean().backward()
    optimizer.step()
    rows = nn.functional.unfold(model[0](inputs), 3).mT.flatten(end_dim=1)
    weight = model[1].weight
    # The first layer has moved by a step since, so its output is a little another.
    expected = NuclearRank()(eigenvalues(weight.grad.flatten(1)), eigenvalues(rows)).item()
    assert powers(optimizer)[weight] == pytest.approx(expected, rel=0.1)


def test_what_nobody_sees_keeps_its_power():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.used, self.frozen, self.idle = (nn.Linear(16, 16) for _ in range(4))
            self.experts = nn.Parameter(torch.randn(2, 16, 16))
            self.last = nn.Linear(16, 4)

        def forward(self, inputs):
            hidden = self.frozen(self.first(inputs))
            return self.last(nn.functional.linear(hidden, self.used.weight) @ self.experts[0] @ self.experts[1])

    torch.manual_seed(0)
    model = Model()
    model.frozen.weight.requires_grad_(False)
    groups = [
        {"params": [model.first.weight, model.used.weight, model.idle.weight, model.experts]},
        {"params": [model.frozen.weight]},
    ]
    optimizer = htmuon.HTMuon(groups, power_rule="held")
    PowerController(model, optimizer, "nuclear_rank", every=1)
    for number in range(2):
        step(model, optimizer, number)
    found = powers(optimizer)
    assert found.keys() == {model.first.weight, model.used.weight, model.experts}
    assert found[model.used.weight] == found[model.experts] == 0.125
    assert found[model.first.weight] != 0.125


def test_a_look_that_finds_nothing_warns_once():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(16, 16))
    optimizer = htmuon.Muon([weight], power_rule="held")
    PowerController(nn.ParameterList([weight]), optimizer, "schatten", every=1)
    weight.grad = torch.randn(16, 16)
    with pytest.warns(UserWarning, match=r"Schatten found none after step 1, from gradients and activations: all keep"):
        optimizer.step()
    optimizer.step()


@pytest.mark.parametrize("name", htmuon.OPTIMIZERS)
def test_every_optimizer(name):
    model, _, _ = made(rule=None)
    groups = [group | ({"power_rule": "held"} if group["use_muon"] else {}) for group in htmuon.param_groups(model)]
    optimizer = htmuon.OPTIMIZERS[name](groups, lr=0.02)
    with PowerController(model, optimizer, "nuclear_rank", every=2):
        for number in range(4):
            step(model, optimizer, number)
    assert len(set(powers(optimizer).values())) == 3
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("settings", "arguments", "error", "message"),
    [
        ({"power_rule": "held"}, {"rule": "shatten"}, ValueError, r"rule must be one of .* Did you mean 'schatten'"),
        ({"power_rule": "held"}, {"every": 0}, ValueError, r"every must be a whole number of at least 1; got 0"),
        ({"power_rule": "held"}, {"every": 2.5}, ValueError, r"every must be a whole number of at least 1; got 2.5"),
        ({}, {}, ValueError, r"power_rule='held', .* got Muon with None. Make it by htmuon.Muon\("),
        ({"power_rule": "alignment"}, {}, ValueError, r"power_rule='held', .* got Muon with 'alignment'\. Make"),
        (
            {"power_rule": htmuon.optim.Held(highest=0.2)},
            {},
            ValueError,
            r"within those of the power_rule, 0.0 to 0.2; got Alpha.*Pass power_rule=htmuon.optim.Held\(low",
        ),
    ],
)
def test_errors(settings, arguments, error, message):
    model, _, _ = made(rule=None)
    optimizer = htmuon.Muon(htmuon.param_groups(model), **settings)
    with pytest.raises(error, match=message):
        PowerController(model, optimizer, **arguments)


def test_an_optimizer_without_power_rule_and_one_of_another_model():
    model, optimizer, _ = made(rule=None)
    with pytest.raises(ValueError, match=r"power_rule='held'.*got AdamW with None"):
        PowerController(model, torch.optim.AdamW(model.parameters()))
    with pytest.raises(ValueError, match="the optimizer must have parameters of the model"):
        PowerController(nn.Linear(4, 4), optimizer)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        PowerController([], optimizer)
