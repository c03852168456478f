"""A matrix without a signal rests, and no update is made of rounding."""

import contextlib
import copy
import itertools

import pytest
import torch
from problems import network, train
from torch import nn

import htmuon
from htmuon.optim.adamuon import Sign
from htmuon.spectral import Power
from htmuon.spectral.apply import advance_map

NAMES = list(htmuon.OPTIMIZERS)
every_optimizer = pytest.mark.parametrize("name", NAMES)
METHODS = ["eigh", "polynomial", "newton_schulz", "streaming", "svd"]


def snapshot(optimizer, parameter, rows):
    """What is kept of some matrices of a stack."""
    return [parameter.detach()[rows].clone(), *(t[rows].clone() for t in optimizer.state[parameter].values())]


@every_optimizer
@pytest.mark.parametrize("method", METHODS)
def test_one_expert_of_a_stack_rests_and_the_others_do_not_notice(name, method):
    power = {} if method != "newton_schulz" else {"power": 0.0}
    experts = nn.Parameter(torch.randn(3, 6, 4))
    alone = [nn.Parameter(experts.detach()[k].clone()) for k in range(3)]
    make = htmuon.OPTIMIZERS[name]
    optimizer, *others = (make([p], lr=0.02, method=method, **power) for p in (experts, *alone))
    for step in range(6):
        gradient = torch.randn(3, 6, 4)
        if step >= 2:
            gradient[1] = 0.0
        before = snapshot(optimizer, experts, 1) if step else None
        experts.grad = gradient
        optimizer.step()
        for k in range(3):
            alone[k].grad = gradient[k].clone() if gradient[k].any() else None
            if alone[k].grad is not None:
                others[k].step()
        if step >= 2:
            assert all(map(torch.equal, before, snapshot(optimizer, experts, 1)))
    for k in range(3):
        # float32 sums of a batch and of one matrix; bfloat16 products in newton_schulz.
        tolerance = 2e-3 if method == "newton_schulz" else 2e-5
        torch.testing.assert_close(experts[k], alone[k], rtol=0, atol=tolerance)


@every_optimizer
@pytest.mark.parametrize("view", ["linear", "transposed", "conv", "conv_transpose"])
def test_a_part_of_a_fused_weight_rests(name, view):
    sizes = (4, 2, 6)
    stored = {
        "linear": lambda t: t.flatten(1),
        "transposed": lambda t: t.flatten(1).mT.contiguous(),
        "conv": lambda t: t,
        "conv_transpose": lambda t: t.transpose(0, 1).contiguous(),
    }[view]
    weight = nn.Parameter(stored(torch.randn(12, 5, 2, 2)))
    optimizer = htmuon.OPTIMIZERS[name]([{"params": [weight], "matrix_view": view, "split": sizes}], lr=0.1)
    rows = lambda: htmuon.matrix_view(weight.detach(), view).clone()  # noqa: E731 - read twice
    for step in range(3):
        gradient = torch.randn(12, 5, 2, 2)
        if step == 2:
            gradient[4:6] = 0.0
            before, state = rows(), {k: v.clone() for k, v in optimizer.state[weight].items()}
        weight.grad = stored(gradient)
        optimizer.step()
    still = (rows() == before).all(1)
    assert still.tolist() == [False] * 4 + [True] * 2 + [False] * 6
    for key, value in optimizer.state[weight].items():
        if key != "momentum_buffer":
            assert torch.equal(value, state[key]) == key.endswith(".1")


MAPS = [*htmuon.spectral.MAPS]
POWERS = [-0.5, -0.25, 0.0, 0.125, 1.0]
SIZES = ["auto", "none", "spectral", "rms"]


def possible(spectral_map):
    """The powers that a map takes; those that level off have one of their own."""
    found = []
    for power in POWERS:
        with contextlib.suppress(ValueError):
            htmuon.spectral.MAPS[spectral_map](power)
            found.append(power)
    assert found
    return found


@pytest.mark.slow
@every_optimizer
@pytest.mark.parametrize("spectral_map", MAPS)
def test_nothing_moves_without_a_signal(name, spectral_map):
    for power, normalization in itertools.product(possible(spectral_map), SIZES):
        settings = {"power": power, "spectral_map": spectral_map, "normalization": normalization, "method": "eigh"}
        weight = nn.Parameter(torch.randn(8, 6))
        start = weight.detach().norm()
        optimizer = htmuon.OPTIMIZERS[name]([weight], lr=1e-3, **settings)
        gradients = torch.randn(10, 8, 6)
        for gradient in gradients:
            weight.grad = gradient
            optimizer.step()
        before = weight.detach().clone()
        for faint in (1e-12, 0.0):
            for gradient in gradients[:4]:
                weight.grad = faint * gradient
                optimizer.step()
            # To the bit, so that any number of such steps leaves it where it is.
            assert torch.equal(weight, before), (settings, faint)
        for gradient in gradients:
            weight.grad = gradient
            optimizer.step()
        assert weight.detach().norm() <= 2 * start, settings


@pytest.mark.slow
@pytest.mark.parametrize("faint", [0.0, 1e-12])
def test_thousands_of_steps_without_a_signal(faint):
    weight = nn.Parameter(torch.randn(6, 6))
    start = weight.detach().norm()
    optimizer = htmuon.HTMuon([weight], lr=0.02, power=-0.25, normalization="none")
    for step in range(4020):
        weight.grad = torch.randn(6, 6) * (1.0 if step < 10 or step >= 4010 else faint)
        optimizer.step()
        assert weight.detach().norm() <= 2 * start


def test_the_other_parameters_take_the_adamw_of_torch():
    ours, theirs = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    optimizer = htmuon.HTMuon([{"params": [ours], "use_muon": False}], adamw_lr=0.01, adamw_weight_decay=0.1)
    reference = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.1)
    for step in range(8):
        gradient = torch.randn(5) if step < 3 else torch.zeros(5)
        ours.grad, theirs.grad = gradient, gradient.clone()
        optimizer.step()
        reference.step()
    # The fused kernel rounds a few operations in another order.
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48)], ids=str)
@pytest.mark.parametrize("exponent", [-30, -20, -12, -10, -8, -7, -4, 0, 4, 12])
def test_newton_schulz_is_torch_at_every_gradient_scale(shape, exponent):
    start = torch.randn(shape)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizer = htmuon.Muon([ours], lr=0.02, method="newton_schulz")
    reference = torch.optim.Muon([theirs], lr=0.02)
    for _ in range(4):
        gradient = torch.randn(shape) * 10.0**exponent
        ours.grad, theirs.grad = gradient, gradient.clone()
        optimizer.step()
        reference.step()
    # The same bfloat16 products; float32 sums of the weights in another order.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_newton_schulz_is_torch_while_the_gradient_fades():
    ours, theirs = (nn.Parameter(torch.eye(16)) for _ in range(2))
    optimizer = htmuon.Muon([ours], lr=0.02, method="newton_schulz")
    reference = torch.optim.Muon([theirs], lr=0.02)
    for step in range(40):
        gradient = torch.randn(16, 16) * 10.0 ** (-0.5 * step)
        ours.grad, theirs.grad = gradient, gradient.clone()
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)  # forty steps of the above


@pytest.mark.parametrize("method", ["eigh", "svd", "polynomial", "streaming"])
@pytest.mark.parametrize("power", [-0.25, 0.0, 0.125])
def test_momentum_below_the_floor_counts_as_nothing(method, power):
    matrix = torch.randn(3, 8, 6) * torch.tensor([1.0, 1e-9, 1e-42])[:, None, None]
    update, _ = advance_map(
        matrix, Power(power), htmuon.linalg.METHODS[method], "rms", {"right_basis": torch.zeros(3, 6, 6)}, floor=1e-7
    )
    # Its Frobenius norm is that of a polar factor, to the five percent of a counted rank.
    torch.testing.assert_close(update[0].norm(), torch.tensor(6.0).sqrt(), rtol=0.05, atol=0)
    assert not update[1:].any()


def test_signs_of_rounding_are_none():
    direction = torch.stack([torch.randn(4, 4), 1e-30 * torch.randn(4, 4)])
    signs = Sign(1e-7)(direction)
    assert torch.equal(signs[0], direction[0].sign())
    assert not signs[1].any()


@pytest.mark.parametrize("method", ["eigh", "polynomial", "svd"])
@pytest.mark.parametrize("power", [-0.25, -0.125])
def test_an_update_of_negative_power_does_not_grow_as_the_gradient_shrinks(method, power):
    sizes = []
    gradients = [torch.randn(12, 8) for _ in range(3)]
    for scale in (1.0, 1e-2, 1e-4):
        weight = nn.Parameter(torch.zeros(12, 8))
        optimizer = htmuon.HTMuon([weight], lr=0.1, power=power, method=method)
        for gradient in gradients:
            weight.grad = scale * gradient
            optimizer.step()
        sizes.append(weight.detach().norm().item())
    # Everything is relative to the largest singular value; 1e-5 is rounding of the scaled gradients.
    assert sizes == pytest.approx([sizes[0]] * 3, rel=1e-5)


# Of torch, within its own compiler.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*_prims_common.*:FutureWarning")
@pytest.mark.parametrize("compiled", [False, True])
def test_the_size_does_not_jump_where_a_schedule_crosses_zero(compiled):
    weight = nn.Parameter(torch.zeros(12, 8))
    schedule = htmuon.power_schedule("linear", start=0.04, end=-0.04, total_steps=16)
    settings = {"method": "polynomial", "compile": True} if compiled else {}
    optimizer = htmuon.HTMuon([weight], lr=1.0, weight_decay=0.0, momentum=0.0, power_schedule=schedule, **settings)
    gradient, before, sizes = 1e-3 * torch.randn(12, 8), torch.zeros(12, 8), []
    for _ in range(18):
        weight.grad = gradient
        optimizer.step()
        sizes.append((weight.detach() - before).norm().item())
        before = weight.detach().clone()
    steps = [later / earlier for earlier, later in itertools.pairwise(sizes)]
    # One step is 0.005 of power: 1e-3^0.005 is 3.5 % from 1, and the error of the polynomial adds at most one.
    assert max(steps) < 1.05
    assert min(steps) > 0.95


def test_the_default_size_of_a_positive_power_is_the_published_one():
    matrices = [torch.randn(9, 5) for _ in range(2)]
    weights = {}
    for normalization in ("auto", "none"):
        weight = nn.Parameter(torch.zeros(9, 5))
        optimizer = htmuon.HTMuon([weight], normalization=normalization)
        for matrix in matrices:
            weight.grad = 1e-3 * matrix
            optimizer.step()
        weights[normalization] = weight.detach()
    assert torch.equal(weights["auto"], weights["none"])


def test_a_step_without_a_gradient_says_why_once():
    model = network()
    optimizer = htmuon.HTMuon(htmuon.param_groups(model))
    with pytest.warns(UserWarning, match=r"loss\.backward\(\) before, and zero_grad\(\) after") as told:
        optimizer.step()
    assert len(told) == 1
    assert told[0].filename == __file__
    optimizer.step()
    train(model, optimizer, 1)


def test_a_step_of_frozen_parameters_says_that_they_are_frozen():
    model = network()
    optimizer = htmuon.HTMuon(htmuon.param_groups(model))
    model.requires_grad_(False)  # as a wrapper that is applied too late
    with pytest.warns(UserWarning, match=r"frozen.*Make the optimizer after it"):
        optimizer.step()


def test_a_matrix_that_a_wrapper_flattens_gets_the_sentence_of_construction():
    model = network()
    before = copy.deepcopy(model.state_dict())
    optimizer = htmuon.HTMuon(htmuon.param_groups(model))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    weight = model[3].weight
    weight.data, weight.grad = weight.detach().flatten()[:100], None
    weight.grad = torch.ones(100)
    with pytest.raises(ValueError, match=r"must not be flattened.*'3\.weight' of shape \(100,\).*fully_shard"):
        optimizer.step()
    for name, value in model.state_dict().items():
        if name != "3.weight":
            assert torch.equal(value, before[name])
    assert not optimizer.state


def test_a_group_that_a_wrapper_replaces_by_a_flat_vector_gets_it_too():
    model = network()
    optimizer = htmuon.HTMuon(htmuon.param_groups(model, named=False))
    flat = nn.Parameter(torch.zeros(300))
    flat.grad = torch.ones(300)
    optimizer.param_groups[0]["params"] = [flat]
    with pytest.raises(ValueError, match="must not be flattened"):
        optimizer.step()


@pytest.mark.parametrize("name", ["htmuon", "muon", "adamuon"])
def test_no_gradient_is_so_small_that_its_matrix_only_decays(name):
    gradients = torch.randn(30, 16, 16)
    for exponent in range(-4, -14, -1):
        weight = nn.Parameter(torch.eye(16))
        optimizer = htmuon.OPTIMIZERS[name]([weight], lr=0.01, normalization="rms")
        for gradient in gradients:
            weight.grad = gradient * 10.0**exponent
            optimizer.step()
        decayed = torch.eye(16) * (1 - 0.01 * 0.1) ** len(gradients)
        rests = torch.equal(weight, torch.eye(16))
        # A step is 0.04 long at least: 0.01 times the Frobenius norm 4 (AdaMuon: 0.2 * 4 as much, in its own scale).
        assert rests or (weight.detach() - decayed).norm() > 0.04, exponent
    assert rests  # 1e-13 is below the floor


@pytest.mark.parametrize("method", ["svd", "eigh", "polynomial"])
@pytest.mark.parametrize("normalization", ["none", "rms", "lmo", "spectral"])
def test_gradients_pass_through_a_map(method, normalization, monkeypatch):
    monkeypatch.setattr("htmuon.linalg.strips.STRIP_ELEMENTS", 8)  # a matrix of several strips

    def mapped(matrix):
        return htmuon.spectral_power(matrix, 0.25, method=method, normalization=normalization)

    left, right = (torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q for n in (3, 17))
    matrix = (left * torch.tensor([1.0, 0.6, 0.3], dtype=torch.float64)) @ right[:3]
    if method == "polynomial":  # whose derivative is that of a polynomial through the weights, not of the power itself
        slope = torch.randn(3, 17, dtype=torch.float64)
        matrix.requires_grad_()
        mapped(matrix).mul(slope).sum().backward()
        assert matrix.grad.isfinite().all()
        assert matrix.grad.any()
        return
    # Central differences of 1e-6 in float64.
    assert torch.autograd.gradcheck(mapped, (matrix.requires_grad_(),), atol=1e-5, rtol=1e-4)


def test_strips_are_the_whole(monkeypatch):
    matrices = [torch.randn(2, 5, 301), torch.randn(301, 5)]
    for method in ("eigh", "polynomial"):
        whole = [htmuon.spectral_power(m, 0.125, method=method) for m in matrices]
        monkeypatch.setattr("htmuon.linalg.strips.STRIP_ELEMENTS", 100)
        before = [m.clone() for m in matrices]
        for m, expected, original in zip(matrices, whole, before, strict=True):
            # Sums of a Gram matrix in another order: the rounding of float32.
            torch.testing.assert_close(htmuon.spectral_power(m, 0.125, method=method), expected, rtol=0, atol=1e-4)
            assert torch.equal(m, original)
        monkeypatch.undo()
