"""Updates against torch's own optimizers and against the published formulas, written out here independently."""

import copy

import pytest
import torch
from problems import network, train
from torch import nn

import htmuon


def matrices(seed=0, shapes=((24, 24), (32, 12), (10, 40))):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for shape in shapes]


def run(optimizer, parameters, steps):
    for step in range(steps):
        for p, gradient in zip(parameters, matrices(seed=100 + step), strict=True):
            p.grad = gradient * 0.01
        optimizer.step()


def polar_power(matrix, power):
    """U S^p V^T by float64 SVD."""
    u, sigma, vh = torch.linalg.svd(matrix.to(torch.float64), full_matrices=False)
    return ((u * sigma**power) @ vh).to(torch.float32)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust_lr_fn", ["original", "match_rms_adamw"])
def test_muon_with_newton_schulz_is_torch_muon(nesterov, adjust_lr_fn):
    ours = [nn.Parameter(m) for m in matrices()]
    theirs = [nn.Parameter(m) for m in matrices()]
    settings = {"lr": 0.02, "weight_decay": 0.1, "nesterov": nesterov, "adjust_lr_fn": adjust_lr_fn}
    run(htmuon.Muon(ours, method="newton_schulz", **settings), ours, 20)
    run(torch.optim.Muon(theirs, **settings), theirs, 20)
    for mine, theirs_, start in zip(ours, theirs, matrices(), strict=True):
        moved = (theirs_ - start).norm()
        # The bfloat16 steps are the same, one by one; what is left is float32 rounding of momentum and weights.
        assert (mine - theirs_).norm() < 1e-5 * moved


@pytest.mark.parametrize("nesterov", [True, False])
def test_power_one_is_sgd_with_momentum(nesterov):
    # torch's SGD sums gradients, ours averages: its learning rate is smaller by 1 - momentum. Square matrices have
    # update scale 1, and `none` keeps the size.
    ours, theirs = nn.Parameter(matrices()[0]), nn.Parameter(matrices()[0])
    optimizer = htmuon.HTMuon(
        [ours], lr=0.1, power=1.0, momentum=0.9, nesterov=nesterov, weight_decay=0.0, method="exact"
    )
    sgd = torch.optim.SGD([theirs], lr=0.1 * (1 - 0.9), momentum=0.9, dampening=0, nesterov=nesterov)
    for step in range(20):
        gradient = matrices(seed=step)[0]
        ours.grad, theirs.grad = gradient, gradient.clone()
        optimizer.step()
        sgd.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_power_one_divides_the_update_scale_out_on_tall_matrices():
    ours, theirs = nn.Parameter(matrices()[1]), nn.Parameter(matrices()[1])
    scale = (32 / 12) ** 0.5
    optimizer = htmuon.HTMuon(
        [ours], lr=0.1 / scale, power=1.0, momentum=0.9, nesterov=False, weight_decay=0.0, method="exact"
    )
    sgd = torch.optim.SGD([theirs], lr=0.1 * (1 - 0.9), momentum=0.9)
    for step in range(20):
        gradient = matrices(seed=step)[1]
        ours.grad, theirs.grad = gradient, gradient.clone()
        optimizer.step()
        sgd.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_the_other_parameters_are_torch_adamw():
    model = network()
    twin = copy.deepcopy(model)
    names = [name for name, _ in model.named_parameters()]
    with pytest.warns(UserWarning, match="everything takes AdamW"):
        groups = htmuon.param_groups(model, adamw=names)
    optimizer = htmuon.HTMuon(groups, adamw_lr=1e-3, adamw_weight_decay=0.1)
    vectors = [p for p in twin.parameters() if p.ndim < 2]
    tables = [p for p in twin.parameters() if p.ndim >= 2]
    adamw = torch.optim.AdamW(
        [{"params": tables, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.95),
        eps=1e-10,
    )
    train(model, optimizer, 10)
    train(twin, adamw, 10)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        # AdamW divides by the root of a square that may be tiny: float32 rounding of fused against plain arithmetic.
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def htmuon_by_the_paper(weight, momentum, gradient, *, lr, power, beta, decay):
    """Algorithm of arXiv 2603.10067 with the Nesterov momentum of its code."""
    momentum = beta * momentum + (1 - beta) * gradient
    direction = beta * momentum + (1 - beta) * gradient
    scale = max(1, weight.shape[0] / weight.shape[1]) ** 0.5
    return weight * (1 - lr * decay) - lr * scale * polar_power(direction, power), momentum


@pytest.mark.parametrize("power", [0.125, 0.5, -0.25])
@pytest.mark.parametrize("method", ["eigh", "svd"])
def test_htmuon_is_the_formula_of_the_paper(power, method):
    ours = [nn.Parameter(m) for m in matrices()]
    optimizer = htmuon.HTMuon(ours, lr=0.03, power=power, method=method, normalization="none")
    expected = [(m, torch.zeros_like(m)) for m in matrices()]
    for step in range(10):
        gradients = [0.01 * g for g in matrices(seed=step)]
        for p, gradient in zip(ours, gradients, strict=True):
            p.grad = gradient
        optimizer.step()
        expected = [
            htmuon_by_the_paper(w, m, g, lr=0.03, power=power, beta=0.95, decay=0.1)
            for (w, m), g in zip(expected, gradients, strict=True)
        ]
    for p, (weight, _) in zip(ours, expected, strict=True):
        torch.testing.assert_close(p.detach(), weight, rtol=0, atol=1e-4)


def test_the_interval_schedule_is_the_papers():
    ours = nn.Parameter(matrices()[0])
    schedule = htmuon.power_schedule("interval", power=0.125, every=5)
    optimizer = htmuon.HTMuon([ours], lr=0.03, power_schedule=schedule, method="exact")
    weight, momentum = matrices()[0], torch.zeros(24, 24)
    for step in range(11):
        gradient = 0.01 * matrices(seed=step)[0]
        ours.grad = gradient
        optimizer.step()
        power = 0.125 if step % 5 == 0 else 0.0
        weight, momentum = htmuon_by_the_paper(weight, momentum, gradient, lr=0.03, power=power, beta=0.95, decay=0.1)
    torch.testing.assert_close(ours.detach(), weight, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "power"), [("normuon", 0.0), ("htnormuon", 0.125)])
def test_normuon_is_the_published_update(name, power):
    # The authors' code: row mean squares of the mapped matrix, its Frobenius norm kept.
    ours = [nn.Parameter(m) for m in matrices()]
    optimizer = htmuon.OPTIMIZERS[name](ours, lr=0.02, weight_decay=0.1, method="exact")
    states = [(m, torch.zeros_like(m), torch.zeros(len(m), 1)) for m in matrices()]
    for step in range(10):
        gradients = [0.01 * g for g in matrices(seed=step)]
        for p, gradient in zip(ours, gradients, strict=True):
            p.grad = gradient
        optimizer.step()
        following = []
        for (weight, momentum, v), gradient in zip(states, gradients, strict=True):
            momentum = 0.95 * momentum + 0.05 * gradient
            update = polar_power(0.95 * momentum + 0.05 * gradient, power)
            norm = update.norm()
            v = 0.95 * v + 0.05 * (update**2).mean(1, keepdim=True)
            update = update / (v + 1e-10).sqrt()
            update = update * norm / update.norm()
            scale = max(1, weight.shape[0] / weight.shape[1]) ** 0.5
            following.append((weight * (1 - 0.02 * 0.1) - 0.02 * scale * update, momentum, v))
        states = following
    for p, (weight, _, _) in zip(ours, states, strict=True):
        torch.testing.assert_close(p.detach(), weight, rtol=0, atol=1e-4)


@pytest.mark.parametrize("sign", [True, False])
@pytest.mark.parametrize(("name", "power"), [("adamuon", 0.0), ("htadamuon", 0.125)])
def test_adamuon_is_the_published_update(name, power, sign):
    # Sign of the momentum, or that itself, element-wise second moments, root mean square 0.2.
    ours = [nn.Parameter(m) for m in matrices()]
    optimizer = htmuon.OPTIMIZERS[name](ours, lr=1e-3, weight_decay=0.1, method="eigh", sign=sign)
    states = [(m, torch.zeros_like(m), torch.zeros_like(m)) for m in matrices()]
    for step in range(10):
        gradients = [0.01 * g for g in matrices(seed=step)]
        for p, gradient in zip(ours, gradients, strict=True):
            p.grad = gradient
        optimizer.step()
        following = []
        for (weight, momentum, v), gradient in zip(states, gradients, strict=True):
            momentum = 0.95 * momentum + 0.05 * gradient
            direction = 0.95 * momentum + 0.05 * gradient
            update = polar_power(direction.sign() if sign else direction, power)
            v = 0.95 * v + 0.05 * update**2
            update = update / (v.sqrt() + 1e-8)
            update = update * 0.2 * weight.numel() ** 0.5 / update.norm()
            following.append((weight * (1 - 1e-3 * 0.1) - 1e-3 * update, momentum, v))
        states = following
    for p, (weight, _, _) in zip(ours, states, strict=True):
        torch.testing.assert_close(p.detach(), weight, rtol=0, atol=1e-5)


def test_a_torch_muon_state_dict_can_be_loaded():
    theirs, ours = nn.Parameter(matrices()[0]), nn.Parameter(matrices()[0])
    muon = torch.optim.Muon([theirs], lr=0.02)
    theirs.grad = matrices(seed=1)[0]
    muon.step()
    optimizer = htmuon.HTMuon([ours])
    optimizer.load_state_dict(muon.state_dict())
    assert torch.equal(optimizer.state[ours]["momentum_buffer"], muon.state[theirs]["momentum_buffer"])
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["power"]) == (0.02, 0.125)
    ours.grad = matrices(seed=2)[0]
    optimizer.step()
    assert optimizer.param_groups[0]["steps_taken"] == 1


def test_what_a_foreign_state_dict_does_not_name_stays_as_it_is():
    model = network()
    groups = htmuon.param_groups(model)
    optimizer = htmuon.NorMuon(groups, power=0.25)
    muon = htmuon.Muon(htmuon.param_groups(model), lr=0.01)
    train(model, muon, 1)
    saved = muon.state_dict()
    for group in saved["param_groups"]:
        for name in ("use_muon", "matrix_view", "power", "beta2"):
            group.pop(name, None)
    optimizer.load_state_dict(saved)
    assert [group["use_muon"] for group in optimizer.param_groups] == [True, False, False]
    assert optimizer.param_groups[0]["power"] == 0.25
    train(model, optimizer, 1)


def test_the_state_of_another_model_is_refused():
    small, large = nn.Parameter(torch.eye(3)), nn.Parameter(torch.eye(4))
    muon, optimizer = htmuon.Muon([small]), htmuon.Muon([large])
    small.grad = torch.eye(3)
    muon.step()
    with pytest.raises(ValueError, match=r"must have the shape \(4, 4\); the state_dict has \(3, 3\)"):
        optimizer.load_state_dict(muon.state_dict())
    assert not optimizer.state


def test_settings_of_a_method_do_not_follow_into_another():
    weight, other = nn.Parameter(torch.eye(3)), nn.Parameter(torch.eye(4))
    optimizer = htmuon.HTMuon([weight], method=htmuon.linalg.Polynomial(levels=8))
    optimizer.add_param_group({"params": [other], "method": "eigh"})
    assert [group["method"] for group in optimizer.param_groups][1] == "eigh"
    optimizer = htmuon.HTMuon([weight], method=htmuon.linalg.Polynomial(levels=8))
    optimizer.load_state_dict(htmuon.HTMuon([weight]).state_dict())
    assert optimizer.param_groups[0]["method"] == "auto"


@pytest.mark.parametrize("key", ["right_basis", "second_momentum_buffer"])
def test_the_state_of_a_slot_is_checked_before_anything_changes(key):
    weights = [nn.Parameter(torch.randn(3, 5)) for _ in range(2)]
    optimizer = htmuon.NorMuon(weights, method="streaming")
    for weight in weights:
        weight.grad = torch.randn(3, 5)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][1][key] = torch.zeros(7, 7)
    with pytest.raises(ValueError, match=f"{key} of parameter 1 must have the shape"):
        optimizer.load_state_dict(saved)
    assert optimizer.state[weights[1]][key].shape != (7, 7)


def test_another_view_of_the_same_parameter_begins_anew():
    weight = nn.Parameter(torch.randn(8, 3, 3, 3))
    optimizer = htmuon.HTMuon([weight], method="streaming")
    for view in (None, "conv_transpose"):
        optimizer.param_groups[0]["matrix_view"] = view
        weight.grad = torch.randn(8, 3, 3, 3)
        optimizer.step()
        assert weight.isfinite().all()


def test_a_state_dict_with_a_bad_setting_changes_nothing():
    weight = nn.Parameter(torch.eye(3))
    optimizer = htmuon.HTMuon([weight])
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["power"] = 9.0
    with pytest.raises(ValueError, match=r"got 9\.0"):
        optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["power"] == 0.125
