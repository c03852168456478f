"""What a step remembers, and how weights take it: against the formulas, and what must not change them."""

import copy
import warnings

import pytest
import torch
from torch import nn

import htmuon
from htmuon.optim import MOMENTUM_RULES, WEIGHT_UPDATES, TwoAverages

# Settings without an effect are given all the same: the formulas show that they have none.
pytestmark = pytest.mark.filterwarnings("ignore:.* has no effect with")

SHAPES = [(6, 6), (9, 4), (3, 8), (2, 5, 7), (3, 2, 2, 3)]
LR, DECAY, BETA = 0.05, 0.3, 0.9


def weights(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def gradients(number, parameters):
    generator = torch.Generator().manual_seed(100 + number)
    return [torch.randn(p.shape, generator=generator).to(p.dtype) * 10.0 ** (number - 2) for p in parameters]


def made(kind=htmuon.Muon, parameters=None, **settings):
    parameters = weights() if parameters is None else parameters
    views = [{"params": parameters, "use_muon": True}]
    return parameters, kind(
        views, lr=LR, **{"weight_decay": DECAY, "momentum": BETA, "method": "exact", "adjust_lr_fn": None, **settings}
    )


def step(parameters, optimizer, number):
    for p, gradient in zip(parameters, gradients(number, parameters), strict=True):
        p.grad = gradient
    optimizer.step()


def matrices(tensor):
    """A parameter in float64 as the matrices that the map sees."""
    wide = tensor.detach().double()
    return wide.flatten(1) if wide.ndim == 4 else wide


def polar(direction):
    u, _, vh = torch.linalg.svd(direction, full_matrices=False)
    return (u @ vh) * max(1.0, direction.shape[-2] / direction.shape[-1]) ** 0.5


# From the buffers and a gradient to the new buffers and a direction.
def average(buffers, gradient, beta=BETA):
    m = beta * buffers[0] + (1 - beta) * gradient
    return [m], beta * m + (1 - beta) * gradient


def summed(buffers, gradient):
    m = BETA * buffers[0] + gradient
    return [m], BETA * m + gradient


def two(buffers, gradient, fast=0.85, slow=0.98, share=0.56):
    f = fast * buffers[0] + (1 - fast) * gradient
    s = slow * buffers[1] + (1 - slow) * gradient
    return [f, s], (1 - share) * f + share * s


# From a weight and its update to the new weight.
def decoupled(w, o):
    return (1 - LR * DECAY) * w - LR * o


def cautious(w, o):
    return w - LR * (DECAY * w * (w * o > 0) + o)


def independent(w, o):
    return (1 - 0.01) * w - LR * o


def hyperball(w, o):
    v = w - LR * w.norm() * o / o.norm()
    return v * w.norm() / v.norm()


MOMENTA = {
    "average": (average, "average", 1),
    "sum": (summed, "sum", 1),
    "two averages": (two, "two_averages", 2),
    "two of one's own": (
        lambda buffers, gradient: two(buffers, gradient, 0.5, 0.9, 0.25),
        TwoAverages(fast=0.5, slow=0.9, share=0.25),
        2,
    ),
}
UPDATES = {"decoupled": decoupled, "cautious": cautious, "independent": independent, "hyperball": hyperball}


@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("update", UPDATES)
def test_steps_follow_the_formulas(momentum, update):
    rule, setting, count = MOMENTA[momentum]
    decay = 0.01 if update == "independent" else DECAY
    parameters, optimizer = made(momentum_rule=setting, weight_update=update, weight_decay=decay)
    expected = [matrices(p) for p in parameters]
    buffers = [[torch.zeros_like(w)] * count for w in expected]
    for number in range(4):
        step(parameters, optimizer, number)
        for index, p in enumerate(parameters):
            buffers[index], direction = rule(buffers[index], matrices(p.grad))
            expected[index] = UPDATES[update](expected[index], polar(direction))
            # Float32 weights of size 1, four steps; the decision of `cautious` is of a product far from zero.
            torch.testing.assert_close(matrices(p), expected[index], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("kind", htmuon.OPTIMIZERS)
@pytest.mark.parametrize(
    "setting",
    [*({"momentum_rule": n} for n in MOMENTUM_RULES), *({"weight_update": n} for n in WEIGHT_UPDATES)],
    ids=str,
)
def test_every_optimizer_takes_every_choice_and_goes_on_exactly(kind, setting):
    settings = {"adjust_lr_fn": None, "rate_rule": "alignment", "weight_decay": 0.01, **setting}
    parameters, optimizer = made(htmuon.OPTIMIZERS[kind], **settings)
    for number in range(2):
        step(parameters, optimizer, number)
    others, resumed = made(htmuon.OPTIMIZERS[kind], copy.deepcopy(parameters), **settings)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for number in range(2, 4):
        step(parameters, optimizer, number)
        step(others, resumed, number)
    assert all(map(torch.equal, parameters, others))
    assert all(p.isfinite().all() for p in parameters)


@pytest.mark.parametrize("momentum_rule", MOMENTUM_RULES)
@pytest.mark.parametrize("weight_update", WEIGHT_UPDATES)
def test_what_rests_stays_as_it_is(momentum_rule, weight_update):
    parameters, optimizer = made(momentum_rule=momentum_rule, weight_update=weight_update, weight_decay=0.01)
    step(parameters, optimizer, 0)
    before = copy.deepcopy((parameters, [dict(optimizer.state[p]) for p in parameters]))
    for p in parameters:
        p.grad = torch.zeros_like(p)
    parameters[0].grad = torch.randn(6, 6)
    parameters[3].grad[0] = torch.randn(5, 7)  # the first of two matrices of a stack
    optimizer.step()
    for p, old, state in zip(parameters[1:3], before[0][1:3], before[1][1:3], strict=True):
        assert torch.equal(p, old)
        assert all(torch.equal(optimizer.state[p][name], value) for name, value in state.items())
    assert not torch.equal(parameters[0], before[0][0])
    assert torch.equal(parameters[3][1], before[0][3][1])
    assert not torch.equal(parameters[3][0], before[0][3][0])
    parameters[0].grad[0, 0] = torch.nan
    before = copy.deepcopy(parameters)
    optimizer.step()
    assert all(map(torch.equal, parameters, before))


def test_the_sum_is_a_multiple_of_the_average():
    # At p = 1 the update is the direction itself, and 1 / (1 - beta) = 10 times as large.
    settings = {"power": 1.0, "normalization": "none", "weight_decay": 0.0}
    (one, first), (two, second) = (made(htmuon.HTMuon, momentum_rule=n, **settings) for n in ("average", "sum"))
    start = copy.deepcopy(one)
    step(one, first, 2)
    step(two, second, 2)
    for p, q, old in zip(one, two, start, strict=True):
        torch.testing.assert_close(q - old, 10 * (p - old), rtol=1e-3, atol=1e-4)  # differences of float32 weights


def test_independent_decay_follows_the_schedule():
    parameters, optimizer = made(weight_update="independent", weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=4)
    before = copy.deepcopy(parameters)
    step(parameters, optimizer, 2)
    for p, old in zip(parameters, before, strict=True):
        expected = (1 - 0.25 * 0.01) * matrices(old) - 0.25 * LR * polar(matrices(p.grad))
        torch.testing.assert_close(matrices(p), expected, rtol=1e-4, atol=1e-5)
    scheduler.step()


def test_independent_decay_is_that_of_no_rate_rule():
    _, optimizer = made(weight_update="independent", weight_decay=0.01, rate_rule="alignment")
    parameters = optimizer.param_groups[0]["params"]
    step(parameters, optimizer, 2)
    for factor, p in zip((4.0, 0.25, 1.0, 2.0, 0.5), parameters, strict=True):
        optimizer.state[p]["log_rate"].fill_(torch.tensor(factor).log())
    before = copy.deepcopy(parameters)
    step(parameters, optimizer, 3)
    for p, old in zip(parameters, before, strict=True):
        factor = optimizer.state[p]["log_rate"].double().exp()
        moved = matrices(p) + factor * LR * matrices(optimizer.state[p]["last_update"])
        torch.testing.assert_close(moved, 0.99 * matrices(old), rtol=1e-4, atol=1e-5)  # float32 weights of size 1


def test_a_rule_of_ones_own_may_keep_another_buffer():
    class Held:
        buffers = ("momentum_buffer", "held_buffer")

        def __call__(self, buffers, gradient, moves, group, out):
            for buffer, beta in zip(buffers, (0.5, 0.9), strict=True):
                buffer.lerp_(gradient, (1 - beta) * moves)
            out.copy_(buffers[0] + buffers[1])

    MOMENTUM_RULES.register("test: held")(Held())
    parameters = weights(dtype=torch.bfloat16)[:1]
    try:
        group = {"params": parameters, "use_muon": True, "split": [3, 3]}
        optimizer = htmuon.Muon([group], lr=LR, momentum_rule="test: held", method="exact")
        for number in range(2):
            step(parameters, optimizer, number)
        assert optimizer.state[parameters[0]]["held_buffer"].dtype == torch.bfloat16
        expected = 0.9 * 0.1 * gradients(0, parameters)[0].double() + 0.1 * gradients(1, parameters)[0].double()
        held = optimizer.state[parameters[0]]["held_buffer"].double()
        assert (held - expected).abs().max() <= 0.02 * expected.abs().max()  # rounded to bfloat16 twice
        optimizer.param_groups[0]["momentum_rule"] = "average"
        step(parameters, optimizer, 2)
        assert "held_buffer" not in optimizer.state[parameters[0]]
    finally:
        del MOMENTUM_RULES._parts["test: held"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_on_the_hyperball_weights_keep_their_norm(dtype):
    parameters, optimizer = made(parameters=weights(dtype=dtype), weight_update="hyperball")
    before = [p.detach().double().norm() for p in parameters]
    for number in range(4):
        step(parameters, optimizer, number)
    for p, norm in zip(parameters, before, strict=True):
        # Of 36 rounded entries and more, some errors cancel.
        torch.testing.assert_close(p.detach().double().norm(), norm, rtol=5 * torch.finfo(dtype).eps, atol=0)


def test_weights_that_are_zero_stay_so_on_the_hyperball_and_this_is_said():
    zero, other = nn.Parameter(torch.zeros(4, 3)), nn.Parameter(torch.eye(3))
    with pytest.warns(UserWarning, match=r"those that are zero never move, as now one of shape \(4, 3\). Initialize"):
        _, optimizer = made(parameters=[zero, other], weight_update="hyperball")
    step([zero, other], optimizer, 2)
    assert torch.equal(zero, torch.zeros(4, 3))
    assert not torch.equal(other, torch.eye(3))
    group = {"params": [("late", nn.Parameter(torch.zeros(2, 2)))], "use_muon": True}
    optimizer = htmuon.Muon([("first", other)], weight_update="hyperball")
    with pytest.warns(UserWarning, match="never move, as now 'late'. "):
        optimizer.add_param_group(group)


def told(kind, groups, **settings):
    """What is said of settings without an effect."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        kind(groups, **settings)
    return [str(warning.message) for warning in said]


@pytest.mark.parametrize("by", ["optimizer", "group"])
@pytest.mark.parametrize(
    ("rule", "setting", "is_said"),
    [
        ({"momentum_rule": "two_averages"}, {"momentum": 0.9}, True),
        ({"momentum_rule": TwoAverages(fast=0.5)}, {"momentum": 0.9}, True),
        ({"momentum_rule": "two_averages"}, {"momentum": 0.95}, False),  # the default, which nobody may have chosen
        ({"momentum_rule": "two_averages"}, {"nesterov": False}, False),  # it takes no Nesterov step
        ({"momentum_rule": "sum"}, {"momentum": 0.9}, False),
        ({"weight_update": "hyperball"}, {"weight_decay": 0.2}, True),
        ({"weight_update": "hyperball"}, {"weight_decay": 0.0}, False),  # it decays nothing
        ({"weight_update": "hyperball"}, {"adjust_lr_fn": "spectral_unclamped"}, True),
        ({"weight_update": "hyperball"}, {"adjust_lr_fn": "none"}, False),
        ({"weight_update": "cautious"}, {"weight_decay": 0.2}, False),
    ],
    ids=str,
)
def test_a_setting_without_an_effect_is_said_once(by, rule, setting, is_said):
    of_group = {**rule, **setting} if by == "group" else {}
    groups = [{"params": [p], "use_muon": True, **of_group} for p in weights()]
    groups.append({"params": [nn.Parameter(torch.ones(3))], "use_muon": False})
    said = told(htmuon.Muon, groups, **({} if by == "group" else {**rule, **setting}))
    name, value = next(iter(setting.items()))
    assert len(said) == is_said
    assert all(sentence.startswith(f"{name}={value!r} has no effect with {next(iter(rule))}=") for sentence in said)


def test_the_default_of_a_variant_is_its_own():
    groups = [{"params": weights(), "use_muon": True}]
    assert told(htmuon.AdaMuon, groups, weight_update="hyperball") == []
    assert len(told(htmuon.AdaMuon, groups, weight_update="hyperball", adjust_lr_fn="original")) == 1


def test_a_second_average_goes_with_its_rule():
    parameters, optimizer = made(momentum_rule="two_averages")
    step(parameters, optimizer, 0)
    assert "slow_momentum_buffer" in optimizer.state[parameters[0]]
    optimizer.param_groups[0]["momentum_rule"] = "average"
    step(parameters, optimizer, 1)
    assert "slow_momentum_buffer" not in optimizer.state[parameters[0]]


def test_an_object_is_held_as_plain_values():
    held = made(momentum_rule=TwoAverages(slow=0.99))[1].param_groups[0]["momentum_rule"]
    assert held == {"name": "two_averages", "fast": 0.85, "slow": 0.99, "share": 0.56}
    assert made(momentum_rule=TwoAverages())[1].param_groups[0]["momentum_rule"] == "two_averages"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"momentum_rule": "averages"}, ValueError, "momentum_rule must be one of average, sum, two_averages"),
        ({"momentum_rule": None}, TypeError, "momentum_rule must be a name, a dict or an object; got None"),
        (
            {"momentum_rule": {"name": "two_averages", "slow": 1.0}},
            ValueError,
            "slow must be a finite number at least 0 and less than 1; got 1.0",
        ),
        ({"weight_update": "hyper_ball"}, ValueError, "weight_update must be one of .* Did you mean 'hyperball'"),
        ({"weight_update": {"name": "cautious", "share": 1}}, ValueError, "takes no settings; got share"),
        ({"weight_update": "independent"}, ValueError, "independent' must be a finite number .*at most 0.01; got 0.3"),
        ({"weight_update": print}, ValueError, r"must be registered.*@WEIGHT_UPDATES.register"),
    ],
)
def test_bad_choices_say_what_is_wrong(settings, error, message):
    with pytest.raises(error, match=message):
        made(**settings)
