"""Powers that matrices find for themselves: against the formula, and what must not change them."""

import copy

import pytest
import torch
from problems import network
from torch import nn

import htmuon
from htmuon.optim import PowerAlignment

RULE = PowerAlignment(speed=0.5, averaging=0.5, lowest=-0.4, highest=0.4)
# Of one shape, so that they are a stack, with spectra that fall at different speeds.
DECAYS = (0.0, 0.5, 1.0, 2.0)


def gradient(shape, decay, seed):
    draw = torch.Generator().manual_seed(seed)
    u, _, vh = torch.linalg.svd(torch.randn(shape, generator=draw, dtype=torch.float64), full_matrices=False)
    sigma = torch.arange(1, min(shape) + 1, dtype=torch.float64) ** -decay
    return ((u * sigma) @ vh).float()


def made(name="htmuon", shape=(12, 20), **settings):
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape) / 4) for _ in DECAYS]
    settings = {"power_rule": RULE, "method": "svd", "weight_decay": 0.1, **settings}
    return weights, htmuon.OPTIMIZERS[name](weights, lr=0.02, **settings)


def step(optimizer, weights, number, *, bad=False):
    # Half of each gradient comes again, so that there is something to find in hindsight.
    for index, (p, decay) in enumerate(zip(weights, DECAYS, strict=True)):
        same, new = (gradient(p.shape, decay, seed) for seed in (index, 100 * number + index + 50))
        p.grad = same + new
    if bad:
        weights[0].grad[0, 0] = torch.nan
    optimizer.step()


def powers(optimizer, weights):
    return torch.stack([optimizer.state[p]["power"] for p in weights])


def mapped(matrix, power):
    """`U S^p V^T` at the Frobenius norm of a polar factor, in float64."""
    u, sigma, vh = torch.linalg.svd(matrix, full_matrices=False)
    found = (u * (sigma / sigma[0]) ** power) @ vh
    return found * len(sigma) ** 0.5 / found.norm()


def inner(one, other):
    return (one * other).sum()


@pytest.mark.parametrize("start", [0.0, 0.125, -0.25])
def test_powers_and_weights_follow_the_formula(start):
    weights, optimizer = made(power=start)
    own = [p.detach().double() for p in weights]
    buffers = [torch.zeros_like(w) for w in own]
    average, found = torch.zeros(4, dtype=torch.float64), torch.full((4,), start, dtype=torch.float64)
    updates = None
    for number in range(8):
        step(optimizer, weights, number)
        gradients = [p.grad.double() for p in weights]
        if updates is not None:
            cosines = []
            for g, o, m in zip(gradients, updates, buffers, strict=True):
                d = m / m.norm() - inner(m, o) / (m.norm() * o.norm() ** 2) * o
                cosines.append(inner(g, d) / (g.norm() * d.norm()))
            average = 0.5 * average + 0.5 * torch.stack(cosines)
            found = (found + 0.5 * average).clamp(-0.4, 0.4)
        updates = []
        for index, g in enumerate(gradients):
            buffers[index] = 0.95 * buffers[index] + 0.05 * g
            update = mapped(0.95 * buffers[index] + 0.05 * g, found[index])
            own[index] = own[index] * (1 - 0.02 * 0.1) - 0.02 * update
            updates.append(update)
        # Cosines of float32 matrices of 240 entries; a power moves by half of one.
        torch.testing.assert_close(powers(optimizer, weights).double(), found, rtol=0, atol=2e-5)
        for p, w in zip(weights, own, strict=True):
            torch.testing.assert_close(p.double(), w, rtol=0, atol=2e-5)
    assert found.std() > 0.01


def test_the_direction_is_that_of_more_weight_on_the_strong():
    # One more step of the same power grows the share of what is strong: h has the sign of the derivative by p at a
    # fixed norm, for a gradient that is this derivative.
    for decay in (0.5, 1.0, 2.0):
        for power in (-0.25, 0.0, 0.125, 0.5):
            m = gradient((12, 20), decay, 0).double()
            u, sigma, vh = torch.linalg.svd(m, full_matrices=False)
            weight, log = sigma**power, sigma.log()
            mean = (weight**2 * log).sum() / (weight**2).sum()
            derivative = (u * (weight * (log - mean))) @ vh
            o = mapped(m, power)
            d = m / m.norm() - inner(m, o) / (m.norm() * o.norm() ** 2) * o
            assert inner(derivative, d) / (derivative.norm() * d.norm()) > 0.5
            assert abs(inner(o, d)) < 1e-9


@pytest.mark.parametrize("name", ["muon", "htmuon"])
@pytest.mark.parametrize("method", ["auto", "eigh", "svd", "quintic", "streaming"])
@pytest.mark.parametrize("start", [-0.3, 0.0])
def test_each_matrix_takes_the_step_of_its_own_power(name, method, start):
    weights, optimizer = made(name, method=method, power=start)
    for number in range(4):
        step(optimizer, weights, number)
    before, states = copy.deepcopy(weights), copy.deepcopy([optimizer.state[p] for p in weights])
    step(optimizer, weights, 5)
    found = powers(optimizer, weights).tolist()
    assert max(found) - min(found) > 0.01
    for p, old, state, power in zip(weights, before, states, found, strict=True):
        # What `auto` stands for beside a rule.
        own = {"name": "quintic", "steps": 7} if method == "auto" else method  # of small matrices
        settings = {"lr": 0.02, "method": own, "weight_decay": 0.1, "normalization": "rms"}
        alone = htmuon.OPTIMIZERS[name]([old], power=power, **settings)
        kept = {key for key in state if key not in ("power", "power_alignment", "last_update")}
        alone.state[old].update({key: state[key] for key in kept})
        old.grad = p.grad
        alone.step()
        # Products of a stack round otherwise than those of one, and coefficients to float32: in bfloat16 by a percent
        # or two of an update whose entries are up to one, at a rate of 0.02.
        tolerance = 5e-4 if method in ("auto", "quintic") else 2e-6
        torch.testing.assert_close(p, old, rtol=0, atol=tolerance)


def test_with_speed_zero_every_power_stays_where_it_starts():
    weights, optimizer = made(power=0.125, power_rule=PowerAlignment(speed=0.0))
    others, plain = made(power=0.125, power_rule=None, normalization="rms")
    for number in range(4):
        step(optimizer, weights, number)
        step(plain, others, number)
    for p, q in zip(weights, others, strict=True):
        assert torch.equal(p, q)


def test_groups_start_at_their_own_power_and_may_have_rules_of_their_own():
    weights, _ = made()
    groups = [
        {"params": weights[:1], "power": 0.3},
        {"params": weights[1:2], "power": -0.3, "power_rule": PowerAlignment(speed=0.0)},
        {"params": weights[2:], "power_rule": None},
    ]
    optimizer = htmuon.HTMuon(groups, lr=0.02, power_rule=RULE, method="svd")
    for number in range(3):
        step(optimizer, weights, number)
    moved, still = (optimizer.state[p]["power"].item() for p in weights[:2])
    assert abs(moved - 0.3) > 1e-3
    assert still == pytest.approx(-0.3)
    assert not any("power" in optimizer.state[p] for p in weights[2:])


def test_a_masked_step_moves_nothing():
    weights, optimizer = made()
    for number in range(3):
        step(optimizer, weights, number)
    before = copy.deepcopy([optimizer.state[p] for p in weights])
    step(optimizer, weights, 3, bad=True)
    for p, state in zip(weights, before, strict=True):
        for name, value in state.items():
            assert torch.equal(optimizer.state[p][name], value), name


@pytest.mark.parametrize("rates", [None, "alignment"])
def test_a_resumed_run_goes_on_exactly(rates):
    weights, optimizer = made(rate_rule=rates)
    for number in range(3):
        step(optimizer, weights, number)
    others, resumed = made(rate_rule=rates)
    for p, q in zip(weights, others, strict=True):
        q.data.copy_(p.data)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for number in range(3, 6):
        step(optimizer, weights, number)
        step(resumed, others, number)
    for p, q in zip(weights, others, strict=True):
        assert torch.equal(p, q)
    assert torch.equal(powers(resumed, others), powers(optimizer, weights))


def test_a_rate_rule_sees_the_same_beside_a_power_rule():
    found = []
    for rule in (None, PowerAlignment(speed=0.0)):
        weights, optimizer = made(power=0.0, rate_rule="alignment", power_rule=rule, normalization="rms")
        for number in range(4):
            step(optimizer, weights, number)
        found.append(torch.stack([optimizer.state[p]["log_rate"] for p in weights]))
    assert torch.equal(*found)
    assert found[0].abs().max() > 1e-3


def test_scales_of_the_gradient_do_not_matter():
    found = []
    for scale in (1e-4, 1.0, 1e12):
        weights, optimizer = made(method="quintic")
        for number in range(4):
            for index, (p, decay) in enumerate(zip(weights, DECAYS, strict=True)):
                p.grad = scale * gradient(p.shape, decay, 100 * number + index)
            optimizer.step()
        found.append(powers(optimizer, weights))
    for other in (found[0], found[2]):
        # The scale is no power of two, so the products in bfloat16 round otherwise: 1e-2 of an update.
        torch.testing.assert_close(other, found[1], rtol=0, atol=1e-2)


def test_matrices_of_rank_one_have_no_power_to_find():
    weights, optimizer = made(method="eigh")  # which leaves out directions that rounding has made
    for _ in range(8):
        for p in weights:
            p.grad = torch.outer(torch.arange(1.0, 13.0), torch.arange(20.0))
        optimizer.step()
    assert powers(optimizer, weights).tolist() == pytest.approx([0.125] * 4)


def test_a_model_with_fused_weights_experts_and_convolutions():
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape)) for shape in ((12, 8), (3, 8, 6), (6, 4, 3, 3), (8, 12))]
    groups = [
        {"params": weights[:1], "split": 3},
        {"params": weights[1:2], "matrix_view": "linear"},
        {"params": weights[2:]},
    ]
    optimizer = htmuon.HTMuon(groups, lr=0.02, power_rule=RULE)
    for _ in range(4):
        for p in weights:
            p.grad = p.detach() + torch.randn_like(p)
        optimizer.step()
    assert all(abs(optimizer.state[p]["power"].item() - 0.125) > 1e-4 for p in weights)
    assert all(p.isfinite().all() for p in weights)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*_prims_common.*:FutureWarning")
def test_compiled_steps_are_those_of_eager_ones():
    found = []
    for compiling in (False, True):
        weights, optimizer = made(method={"name": "quintic", "precision": "float32"}, compile=compiling)
        for number in range(4):
            step(optimizer, weights, number)
        found.append([p.detach() for p in weights])
    for eager, compiled in zip(*found, strict=True):
        # Sums in another order, in float32.
        torch.testing.assert_close(eager, compiled, rtol=0, atol=1e-5)


def test_a_rule_is_stored_as_plain_values():
    _, optimizer = made()
    assert optimizer.state_dict()["param_groups"][0]["power_rule"] == {
        "name": "alignment",
        "speed": 0.5,
        "averaging": 0.5,
        "lowest": -0.4,
        "highest": 0.4,
    }
    assert made(power_rule=PowerAlignment())[1].param_groups[0]["power_rule"] == "alignment"


def test_a_rule_that_is_switched_off_leaves_nothing():
    weights, optimizer = made()
    for number in range(2):
        step(optimizer, weights, number)
    optimizer.param_groups[0]["power_rule"] = None
    step(optimizer, weights, 2)
    assert not any(set(optimizer.state[p]) & {"power", "power_alignment", "last_update"} for p in weights)


def test_one_matrix_of_a_stack_that_rests_does_not_hold_up_the_others():
    torch.manual_seed(0)
    [experts] = weights = [nn.Parameter(torch.randn(3, 8, 6))]
    optimizer = htmuon.HTMuon([{"params": weights, "matrix_view": "linear"}], lr=0.02, power_rule=RULE)
    for _ in range(3):
        experts.grad = experts.detach() + torch.randn_like(experts)
        experts.grad[1] = 0.0
        optimizer.step()
    assert abs(optimizer.state[experts]["power"].item() - 0.125) > 1e-4


def test_a_power_that_is_edited_beside_a_rule_is_said_to_do_nothing():
    weights, optimizer = made()
    step(optimizer, weights, 0)
    optimizer.param_groups[0]["power"] = 0.3
    with pytest.warns(UserWarning, match=r"power=0.3 of a group has no effect.*Set optimizer.state") as said:
        step(optimizer, weights, 1)
    assert [warning.filename for warning in said] == [__file__]
    step(optimizer, weights, 2)  # said once: warnings are errors


def test_a_start_outside_the_range_of_the_rule_is_refused():
    for settings in ({"power": 0.5}, {"power": -0.5}):
        with pytest.raises(ValueError, match=r"power must lie in the range of its power_rule, \[-0.4, 0.4\].*got"):
            made(**settings)


def test_what_a_rule_makes_infinite_or_too_large_does_no_harm():
    @htmuon.optim.POWER_RULES.register("test: wild")
    def wild(cosine, average, power, moves):
        return average, torch.tensor([torch.nan, torch.inf, 3.0, -3.0])

    try:
        weights, optimizer = made(power_rule=wild)
        for number in range(3):
            step(optimizer, weights, number)
        assert powers(optimizer, weights).tolist() == [0.125, 0.125, 1.0, -1.0]
        assert all(p.isfinite().all() for p in weights)
    finally:
        del htmuon.optim.POWER_RULES._parts["test: wild"]


@pytest.mark.parametrize("power", [-0.5, -0.25, 0.0, 0.125, 0.5])
def test_auto_follows_every_power_where_directions_are_above_its_range(power):
    # Condition 50, in float32: within the range of seven steps at every power.
    matrices = torch.stack([gradient((40, 64), 0.0, seed) for seed in range(3)])
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    matrices = (u * torch.logspace(0, -1.7, 40)) @ vh
    weights = [nn.Parameter(torch.zeros(40, 64)) for _ in matrices]
    rule = PowerAlignment(speed=0.0)
    optimizer = htmuon.HTMuon(weights, lr=1.0, power=power, power_rule=rule, weight_decay=0.0, momentum=0.0)
    for p, matrix in zip(weights, matrices, strict=True):
        p.grad = matrix.clone()
    optimizer.step()
    for p, matrix in zip(weights, matrices, strict=True):
        expected = mapped(matrix.double(), power) * max(1, 40 / 64) ** 0.5
        # A declared error of 3 %, and products in bfloat16, which at p = -1/2 weigh the smallest directions most.
        assert (p.detach().double() + expected).norm() < (0.1 if power >= -0.25 else 0.15) * expected.norm()


def test_powers_stay_within_their_bounds():
    rule = PowerAlignment(speed=5.0, averaging=0.0, lowest=-0.25, highest=0.75)
    cosine, power = torch.tensor([1.0, -1.0]), torch.zeros(2)
    _, power = rule(cosine, torch.zeros(2), power, torch.ones(2, dtype=torch.bool))
    assert power.tolist() == [0.75, -0.25]


def test_rules_of_ones_own():
    @htmuon.optim.POWER_RULES.register("test: half")
    def half(cosine, average, power, moves):
        return average, torch.full_like(power, 0.5)

    try:
        weights, optimizer = made(power_rule=half)
        for number in range(2):
            step(optimizer, weights, number)
        assert powers(optimizer, weights).tolist() == [0.5] * 4
    finally:
        del htmuon.optim.POWER_RULES._parts["test: half"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"power_rule": "allignment"}, ValueError, r"power_rule must be one of alignment, held; got 'allignment'"),
        ({"power_rule": 3}, TypeError, r"power_rule must be a name, a dict or an object; got 3"),
        (
            {"power_rule": {"name": "alignment", "lowest": -2.0}},
            ValueError,
            r"lowest must be a finite number at least -1 and at most 1; got -2",
        ),
        (
            {"power_rule": {"name": "alignment", "highest": -0.75}},
            ValueError,
            r"highest must be a finite number at least -0.5 and at most 1; got -0.75",
        ),
        (
            {"power_rule": "alignment", "power_schedule": htmuon.power_schedule("constant", power=0.0)},
            ValueError,
            r"power_rule must be None beside a power_schedule; .* Pass power_schedule=None",
        ),
        (
            {"power_rule": "alignment", "spectral_map": "knee"},
            ValueError,
            r"power_rule must be None with a spectral_map that takes one power .*'knee'. Use spectral_map='power'",
        ),
        (
            {"power_rule": "alignment", "method": "newton_schulz"},
            ValueError,
            r"method 'newton_schulz' needs power 0 or 2\^-k",
        ),
        (
            {"power_rule": "alignment", "method": "polynomial"},
            ValueError,
            r"method 'polynomial' needs a power of at least -0.25; got power=-0.5",
        ),
        *(
            (
                {"power_rule": "alignment", "normalization": size},
                ValueError,
                rf"power_rule needs updates of one size at every power; got normalization='{size}'.*Use 'rms'",
            )
            for size in ("none", "lmo", "spectral")
        ),
    ],
)
def test_bad_rules_say_what_is_wrong(settings, error, message):
    with pytest.raises(error, match=message):
        htmuon.HTMuon([nn.Parameter(torch.eye(3))], **settings)


@pytest.mark.parametrize("name", [name for name in htmuon.OPTIMIZERS if name not in ("muon", "htmuon")])
def test_optimizers_that_change_the_update_have_no_power_rule(name):
    group = {"params": [nn.Parameter(torch.eye(3))], "power_rule": "alignment"}
    with pytest.raises(ValueError, match=r"power_rule needs an update that is the mapped momentum.*Use Muon or HTMuon"):
        htmuon.OPTIMIZERS[name]([group])
    with pytest.raises(ValueError, match=r"power_rule needs an update that is the mapped momentum.*Use Muon or HTMuon"):
        htmuon.OPTIMIZERS[name]([nn.Parameter(torch.eye(3))], power_rule="alignment")


def test_a_power_that_is_none_is_not_loaded():
    weights, optimizer = made()
    step(optimizer, weights, 0)
    saved = copy.deepcopy(optimizer.state_dict())
    for wrong in (torch.nan, 1.5):
        saved["state"][0]["power"].fill_(wrong)
        with pytest.raises(ValueError, match=r"power of parameter .* must be in \[-1, 1\]; the state_dict has"):
            optimizer.load_state_dict(saved)


def test_a_real_network_trains_with_both_rules():
    model = network()
    optimizer = htmuon.HTMuon(
        htmuon.param_groups(model), lr=0.02, power_rule="alignment", rate_rule="alignment", adamw_lr=0.02
    )
    for number in range(3):
        for index, p in enumerate(model.parameters()):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * number + index))
        optimizer.step()
    found = [state["power"].item() for state in optimizer.state.values() if "power" in state]
    assert len(found) > 1
    assert len(set(found)) == len(found)
