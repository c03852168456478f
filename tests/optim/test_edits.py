"""What schedulers, trainers and users write between steps is followed where it is good and refused where it is not."""

import copy
import math

import pytest
import torch
from problems import assert_same, train, twins
from torch import nn

import htmuon

NAMES = list(htmuon.OPTIMIZERS)


def cycle(optimizer):
    return torch.optim.lr_scheduler.CyclicLR(
        optimizer, [1e-3] * 3, [2e-2] * 3, step_size_up=3, cycle_momentum=True, base_momentum=0.8, max_momentum=0.9
    )


def one_cycle(optimizer):
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [0.02, 1e-3, 1e-3], total_steps=12, base_momentum=0.8, max_momentum=0.9
    )


SCHEDULERS = {"OneCycleLR": one_cycle, "CyclicLR": cycle}


def go(model, optimizer, scheduler, steps, first=0):
    """The learning rates and first betas of every group at every step."""
    seen = []
    for step in range(first, first + steps):
        seen.append([(group["lr"], group["betas"][0]) for group in optimizer.param_groups])
        train(model, optimizer, 1, first=step)
        scheduler.step()
    return seen


def assert_momentum_is_beta(optimizer):
    for group in optimizer.param_groups:
        if group["use_muon"]:
            assert group["momentum"] == group["betas"][0]


# The momentum of a group of matrices is `betas[0]`.


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_scheduler_that_cycles_betas_cycles_the_momentum(name, kind):
    (model, optimizer), (other, by_hand) = twins(name)
    seen = go(model, optimizer, SCHEDULERS[kind](optimizer), 8)
    assert len({beta for rates in seen for _, beta in rates}) > 3
    for step, rates in enumerate(seen):
        for group, (lr, beta) in zip(by_hand.param_groups, rates, strict=True):
            group["lr"] = lr
            group.update({"momentum": beta} if group["use_muon"] else {"betas": (beta, group["betas"][1])})
        train(other, by_hand, 1, first=step)
    # The same numbers reach the same arithmetic.
    assert_same(model, other)
    # And the momentum is one that matters.
    (third, constant), _ = twins(name)
    for step, rates in enumerate(seen):
        for group, (lr, _) in zip(constant.param_groups, rates, strict=True):
            group["lr"] = lr
        train(third, constant, 1, first=step)
    for p, q in zip(model.parameters(), third.parameters(), strict=True):
        assert not torch.equal(p, q)


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_momentum_that_was_cycled_after_the_last_step_is_saved(kind):
    # The order of every training loop: step, schedule, save.
    (model, optimizer), (other, fresh) = twins("htmuon")
    scheduler, again = SCHEDULERS[kind](optimizer), SCHEDULERS[kind](fresh)
    go(model, optimizer, scheduler, 4)
    assert optimizer.param_groups[0]["momentum"] != optimizer.param_groups[0]["betas"][0]
    saved = copy.deepcopy(optimizer.state_dict())
    assert saved["param_groups"][0]["momentum"] == saved["param_groups"][0]["betas"][0]
    other.load_state_dict(model.state_dict())
    fresh.load_state_dict(saved)
    again.load_state_dict(scheduler.state_dict())
    assert_momentum_is_beta(fresh)
    assert go(model, optimizer, scheduler, 4, first=4) == go(other, fresh, again, 4, first=4)
    assert_same(model, other)


def test_saving_changes_nothing_about_how_edits_are_followed():
    (model, optimizer), (other, silent) = twins("htmuon")
    for step in range(4):
        for of, saves in ((optimizer, True), (silent, False)):
            group = of.param_groups[0]
            group["betas"] = (0.9 - step / 10, 0.95)
            if saves:
                of.state_dict()
                copy.deepcopy(of)
            if step == 2:
                group["momentum"] = 0.3
            if saves:
                of.state_dict()
        train(model, optimizer, 1, first=step)
        train(other, silent, 1, first=step)
        assert optimizer.param_groups[0]["betas"] == silent.param_groups[0]["betas"]
    assert_same(model, other)


def test_a_momentum_set_by_hand_is_taken_and_shown_in_betas():
    (model, optimizer), (other, alike) = twins("htmuon", momentum=0.8)
    train(model, optimizer, 2)
    for group in optimizer.param_groups:
        group["momentum"] = 0.5
    train(model, optimizer, 2, first=2)
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.95)
    # In the other groups betas are AdamW's.
    assert optimizer.param_groups[1]["betas"] == (0.9, 0.95)
    train(other, alike, 2)
    alike.param_groups[0]["betas"] = (0.5, 0.95)
    train(other, alike, 2, first=2)
    assert alike.param_groups[0]["momentum"] == 0.5
    assert_same(model, other)


def test_momentum_and_betas_agree_from_the_start_and_after_loading():
    (_, optimizer), (_, fresh) = twins("htmuon", momentum=0.8)
    assert_momentum_is_beta(optimizer)
    assert optimizer.param_groups[0]["momentum"] == 0.8
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["betas"] = (0.9, 0.99)  # as they were saved before they were followed
    fresh.load_state_dict(saved)
    assert fresh.param_groups[0]["momentum"] == 0.8
    assert fresh.param_groups[0]["betas"] == (0.8, 0.99)
    fresh.param_groups[0]["betas"] = (0.7, 0.99)
    clone = copy.deepcopy(fresh)
    weight = clone.param_groups[0]["params"][0]
    weight.grad = torch.ones_like(weight)
    clone.step()
    assert clone.param_groups[0]["momentum"] == 0.7


def test_a_refused_beta_leaves_no_trace_once_it_is_mended():
    (model, optimizer), (other, alike) = twins("htmuon")
    train(model, optimizer, 1)
    train(other, alike, 1)
    group = optimizer.param_groups[0]
    for bad, error in ((1.0, ValueError), ("a", TypeError), (math.nan, ValueError)):
        group["betas"] = (bad, 0.95)
        with pytest.raises(error, match=r"^betas must be"):
            train(model, optimizer, 1, first=1)
    optimizer.param_groups[0]["betas"] = alike.param_groups[0]["betas"] = (0.6, 0.95)
    train(model, optimizer, 1, first=1)
    train(other, alike, 1, first=1)
    assert_same(model, other)
    assert group["momentum"] == 0.6


def test_an_error_in_one_group_does_not_make_another_deaf():
    (_, optimizer), _ = twins("htmuon")
    first, second = optimizer.param_groups[:2]
    first["betas"] = (0.6, 0.95)
    second["eps"] = -1.0
    with pytest.raises(ValueError, match="eps must be"):
        optimizer.step()
    second["eps"] = 1e-8
    first["betas"] = (0.5, 0.95)  # a scheduler goes on
    first["params"][0].grad = torch.ones_like(first["params"][0])
    optimizer.step()
    assert first["momentum"] == first["betas"][0] == 0.5


# Counters of wrappers


@pytest.mark.parametrize("kind", ["counts", "makes an int", "makes a tensor"])
def test_a_wrapper_that_counts_in_step_does_not_disturb_a_power_schedule(kind):
    schedule = htmuon.power_schedule("linear", start=0.5, end=0.0, total_steps=10)
    (model, optimizer), (other, alone) = twins("htmuon", power_schedule=schedule)
    powers = []
    for step in range(5):
        for group in optimizer.param_groups:
            if kind == "counts":
                group["step"] = group.get("step", 0) + 1
            else:
                group["step"] = 1000 * step if kind == "makes an int" else torch.tensor(1000.0 * step)
        train(model, optimizer, 1, first=step)
        train(other, alone, 1, first=step)
        powers.append((optimizer.param_groups[0]["power"], alone.param_groups[0]["power"]))
        if step == 2:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert all(one == two for one, two in powers)
    assert len(set(powers)) == 5
    assert_same(model, other)
    assert optimizer.param_groups[0]["steps_taken"] == 5


# Bad edits


def fused():
    """A matrix of 64 rows, a convolution's kernel and a gain, with gradients."""
    torch.manual_seed(0)
    matrix, kernel, gain = (nn.Parameter(torch.randn(shape)) for shape in ((64, 8), (4, 3, 2, 2), (8,)))
    groups = [{"params": [matrix], "split": 2}, {"params": [kernel]}, {"params": [gain], "use_muon": False}]
    optimizer = htmuon.HTNorMuon(groups)
    for parameter in (matrix, kernel, gain):
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return [matrix, kernel, gain], optimizer


@pytest.mark.parametrize(
    ("number", "edit", "error", "words"),
    [
        (0, {"split": (32.0, 32.0)}, TypeError, r"split must be None.*whole numbers; got \(32\.0, 32\.0\)"),
        (0, {"split": (True, 63)}, TypeError, r"split must be.*got \(True, 63\)"),
        (0, {"split": True}, TypeError, "split must be"),
        (0, {"split": ()}, TypeError, "split must be"),
        (0, {"split": "qkv"}, TypeError, "split must be"),
        (0, {"split": (32, 16)}, ValueError, r"a parameter of shape \(64, 8\): .*the 64 output rows"),
        (0, {"split": 3}, ValueError, r"a parameter of shape \(64, 8\)"),
        (0, {"split": -2}, ValueError, r"a parameter of shape \(64, 8\)"),
        (0, {"split": (65, -1)}, ValueError, r"a parameter of shape \(64, 8\)"),
        (0, {"matrix_view": "transposed", "split": 64}, ValueError, r"a parameter of shape \(64, 8\)"),
        (0, {"matrix_view": "conv"}, ValueError, r"needs parameters of 3 or more dimensions"),
        (0, {"matrix_view": "rows"}, ValueError, "matrix_view must be one of"),
        (2, {"use_muon": True}, ValueError, r"needs parameters of 2 or more dimensions; got a parameter of shape \(8,"),
        (0, {"lr": torch.tensor(-0.1)}, ValueError, r"lr must be a finite number at least 0"),
        (1, {"lr": torch.tensor(math.nan)}, ValueError, r"lr must be a finite number at least 0"),
        (2, {"lr": torch.tensor(math.inf)}, ValueError, r"lr must be a finite number at least 0"),
        (2, {"lr": torch.tensor([0.1, 0.1])}, TypeError, "tensor of one element"),
        (2, {"lr": torch.tensor(1)}, TypeError, "floating-point tensor"),
        (2, {"lr": None}, TypeError, "lr must be a number"),
        (0, {"betas": None}, TypeError, "betas must be a pair of numbers; got None"),
        (2, {"betas": None}, TypeError, "betas must be a pair of numbers; got None"),
        (0, {"betas": (0.9,)}, TypeError, "betas must be a pair"),
        (2, {"betas": (0.9, 1.0)}, ValueError, r"betas must be a finite number at least 0 and less than 1"),
        (0, {"momentum": 1.0}, ValueError, r"momentum must be a finite number at least 0 and less than 1"),
        (0, {"eps": -1}, ValueError, r"eps must be a finite number at least 0; got -1"),
        (2, {"eps": -1}, ValueError, r"eps must be a finite number at least 0; got -1"),
        (2, {"eps": math.nan}, ValueError, "eps must be"),
        (2, {"weight_decay": -1}, ValueError, "weight_decay must be"),
        (1, {"beta2": 1.0}, ValueError, "beta2 must be"),
        (1, {"use_muon": 1}, TypeError, "use_muon must be"),
    ],
)
def test_a_bad_edit_is_refused_before_anything_moves(number, edit, error, words):
    parameters, optimizer = fused()
    group = optimizer.param_groups[number]
    weights = [p.detach().clone() for p in parameters]
    state = copy.deepcopy([optimizer.state[p] for p in parameters])
    counts = {key: value.item() for key, value in group.items() if isinstance(value, torch.Tensor)}
    good = {key: group[key] for key in edit}
    group.update(edit)
    for _ in range(2):  # the second time, too
        with pytest.raises(error, match=words):
            optimizer.step()
    assert all(torch.equal(p, w) for p, w in zip(parameters, weights, strict=True))
    for p, old in zip(parameters, state, strict=True):
        assert optimizer.state[p].keys() == old.keys()
        assert all(torch.equal(optimizer.state[p][key], old[key]) for key in old)
    assert len(counts) == 2  # of steps that were taken and of those that were skipped
    assert {key: group[key].item() for key in counts} == counts
    # And the good value again goes on as if nothing had been.
    group.update(good)
    optimizer.step()
    others, alone = fused()
    alone.step()
    for p, q in zip(parameters, others, strict=True):
        assert torch.equal(p, q)


def test_a_good_edit_of_split_or_view_begins_the_statistics_anew():
    (matrix, *_), optimizer = fused()
    optimizer.param_groups[0]["split"] = [16, 48]
    optimizer.step()
    optimizer.param_groups[0].update(split=None, matrix_view="transposed")
    optimizer.step()
    assert optimizer.state[matrix]["second_momentum_buffer"].shape == (8, 1)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"adamw_lr": -1}, ValueError, r"^adamw_lr must be a finite number at least 0; got -1"),
        ({"adamw_lr": torch.tensor(-0.1)}, ValueError, r"^adamw_lr must be a finite"),
        ({"adamw_lr": None}, TypeError, "^adamw_lr must be a number"),
        ({"adamw_weight_decay": -1}, ValueError, r"^adamw_weight_decay must be a finite number at least 0; got -1"),
        ({"adamw_eps": math.nan}, ValueError, r"^adamw_eps must be a finite number at least 0; got nan"),
        ({"adamw_eps": "small"}, TypeError, "^adamw_eps must be a number; got 'small'"),
        ({"lr": torch.tensor(-0.1)}, ValueError, r"^lr must be a finite number at least 0"),
        ({"lr": torch.tensor(math.nan)}, ValueError, r"^lr must be a finite number at least 0"),
        ({"eps": -1}, ValueError, "^eps must be"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_a_bad_argument_is_called_as_the_user_calls_it(name, settings, error, words):
    with pytest.raises(error, match=words):
        htmuon.OPTIMIZERS[name]([nn.Parameter(torch.eye(3))], **settings)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_keyword_names_the_class_that_was_called(name):
    kind = htmuon.OPTIMIZERS[name]
    with pytest.raises(TypeError, match=rf"^{kind.__name__}\(...\) takes no argument 'mu'"):
        kind([nn.Parameter(torch.eye(3))], mu=0.9)


# The update scale of torch's third name


@pytest.mark.parametrize("shape", [(24, 24), (32, 12), (10, 40)], ids=["square", "tall", "wide"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_spectral_unclamped_is_that_of_torch_muon(shape, nesterov):
    start = torch.randn(shape)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"lr": 0.02, "weight_decay": 0.1, "nesterov": nesterov, "adjust_lr_fn": "spectral_unclamped"}
    one, other = htmuon.Muon([ours], method="newton_schulz", **settings), torch.optim.Muon([theirs], **settings)
    for _ in range(20):
        ours.grad = 0.01 * torch.randn(shape)
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
    # The bfloat16 steps are the same, one by one; what is left is float32 rounding of momentum and weights.
    assert (ours - theirs).norm() < 1e-5 * (theirs - start).norm()


@pytest.mark.parametrize("name", NAMES)
def test_spectral_unclamped_scales_an_update_by_the_root_of_rows_over_columns(name):
    moved = {}
    for scale in ("spectral_unclamped", "rms_to_rms", "original", "none"):
        torch.manual_seed(0)
        wide = nn.Parameter(torch.zeros(4, 16))
        wide.grad = torch.randn(4, 16)
        htmuon.OPTIMIZERS[name]([wide], adjust_lr_fn=scale, weight_decay=0.0).step()
        moved[scale] = wide.detach()
    # `original` leaves a wide matrix alone, and a half is exact.
    assert torch.equal(moved["spectral_unclamped"], moved["original"] / 2)
    assert torch.equal(moved["rms_to_rms"], moved["spectral_unclamped"])
    assert torch.equal(moved["none"], moved["original"])


def test_no_scale_leaves_a_tall_matrix_alone():
    moved = {}
    for scale in ("none", "original"):
        tall = nn.Parameter(torch.zeros(16, 4))
        tall.grad = torch.eye(16, 4)
        htmuon.Muon([tall], adjust_lr_fn=scale, weight_decay=0.0).step()
        moved[scale] = tall.detach()
    assert torch.equal(moved["none"], moved["original"] / 2)
