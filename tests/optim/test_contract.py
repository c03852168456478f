"""What every optimizer in the registry promises."""

import copy
import inspect
import io
import math
from functools import partial

import pytest
import torch
from problems import assert_same, network, train, twins
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import htmuon
from htmuon.optim import SpectralOptimizer

NAMES = list(htmuon.OPTIMIZERS)
every_optimizer = pytest.mark.parametrize("name", NAMES)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def test_nobody_overrides_the_step():
    for name in NAMES:
        # torch wraps the step of every class that has an instance.
        assert inspect.unwrap(htmuon.OPTIMIZERS[name].step) is inspect.unwrap(SpectralOptimizer.step)


@pytest.mark.slow
@every_optimizer
def test_it_learns(name):
    model = network()
    optimizer = htmuon.OPTIMIZERS[name](htmuon.param_groups(model), lr=0.01, weight_decay=0.0, adamw_lr=3e-3)
    tokens = torch.arange(11)
    loss = lambda: nn.functional.cross_entropy(model(tokens), (3 * tokens + 1) % 11)  # noqa: E731 - evaluated twice
    before = loss().item()
    train(model, optimizer, 100)
    # 11 classes: the untrained loss is near log 11 = 2.4, and the task is a lookup table.
    assert loss().item() < 0.5 * before


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("schedule", [None, htmuon.power_schedule("interval", power=0.125, every=3)], ids=str)
def test_a_state_dict_continues_to_the_bit(name, dtype, schedule):
    (model, optimizer), (other, fresh) = twins(name, dtype, power_schedule=schedule)
    train(model, optimizer, 5)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other.load_state_dict(saved["model"])
    fresh.load_state_dict(saved["optimizer"])
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        for key, value in optimizer.state[p].items():
            assert fresh.state[q][key].dtype == value.dtype
    train(model, optimizer, 5, first=5)
    train(other, fresh, 5, first=5)
    assert_same(model, other)
    assert fresh.param_groups[0]["steps_taken"] == 10


@every_optimizer
def test_loading_a_live_state_dict_does_not_tie_two_optimizers(name):
    (model, optimizer), (other, fresh) = twins(name)
    train(model, optimizer, 2)
    other.load_state_dict(model.state_dict())
    fresh.load_state_dict(optimizer.state_dict())
    train(model, optimizer, 3, first=2)
    train(other, fresh, 3, first=2)
    assert_same(model, other)


@every_optimizer
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["1.weight", "0.weight", "6.bias"])
def test_a_gradient_that_is_not_finite_masks_the_whole_step(name, bad, where):
    schedule = htmuon.power_schedule("linear", start=0.5, end=0.0, total_steps=10)
    (model, optimizer), (other, undisturbed) = twins(name, power_schedule=schedule)

    def spoil(step, model):
        if step == 3:
            dict(model.named_parameters())[where].grad.view(-1)[0] = bad

    train(model, optimizer, 4, spoil=spoil)
    train(other, undisturbed, 3)
    assert_same(model, other)
    assert optimizer.skipped_steps == 1
    train(model, optimizer, 3, first=4)
    train(other, undisturbed, 3, first=4)
    # State, counters and schedules did not move either: what follows is what would have followed.
    assert_same(model, other)
    assert optimizer.param_groups[0]["steps_taken"] == 6
    assert optimizer.param_groups[0]["power"] == undisturbed.param_groups[0]["power"]


@every_optimizer
def test_a_parameter_without_a_gradient_is_left_alone(name):
    model = network()
    optimizer = htmuon.OPTIMIZERS[name](htmuon.param_groups(model))
    before = weights(model)
    with pytest.warns(UserWarning, match="no parameter of the optimizer has a gradient"):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    model[3](torch.ones(2, 16)).sum().backward()
    optimizer.step()
    changed = [name for (name, p), q in zip(model.named_parameters(), before, strict=True) if not torch.equal(p, q)]
    assert changed == ["3.weight"]
    assert len(optimizer.state) == 1


@every_optimizer
def test_gradients_are_not_written(name):
    model = network()
    optimizer = htmuon.OPTIMIZERS[name](htmuon.param_groups(model), nesterov=True)
    train(model, optimizer, 1)
    gradients = [p.grad.clone() for p in model.parameters()]
    optimizer.step()
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(p.grad, gradient)


@every_optimizer
def test_bfloat16_weights_are_updated_in_float32_and_rounded_once(name):
    start, gradient = torch.randn(8, 8).to(torch.bfloat16), torch.randn(8, 8).to(torch.bfloat16)
    results = {}
    for dtype in (torch.bfloat16, torch.float32):
        weight = nn.Parameter(start.to(dtype, copy=True))
        weight.grad = gradient.to(dtype)
        # A decay of 1e-3 rounds to nothing if it is done in bfloat16, whose spacing near 1 is 2^-8.
        htmuon.OPTIMIZERS[name]([weight], lr=0.01, weight_decay=0.1).step()
        results[dtype] = weight.detach()
    assert torch.equal(results[torch.bfloat16], results[torch.float32].to(torch.bfloat16))


def test_bfloat16_vectors_are_updated_in_float32_and_rounded_once():
    start, gradient = torch.randn(9).to(torch.bfloat16), torch.randn(9).to(torch.bfloat16)
    results = {}
    for dtype in (torch.bfloat16, torch.float32):
        gain = nn.Parameter(start.to(dtype, copy=True))
        gain.grad = gradient.to(dtype)
        htmuon.HTMuon([{"params": [gain], "use_muon": False}], adamw_lr=0.01).step()
        results[dtype] = gain.detach()
    assert torch.equal(results[torch.bfloat16], results[torch.float32].to(torch.bfloat16))


@every_optimizer
def test_the_default_dtype_of_torch_does_not_matter(name):
    results = []
    for default in (torch.float32, torch.bfloat16):
        weight = nn.Parameter(torch.eye(4, dtype=torch.float64))
        weight.grad = torch.diag(torch.arange(1.0, 5.0, dtype=torch.float64))
        optimizer = htmuon.OPTIMIZERS[name]([weight], lr=0.01, weight_decay=0.1)
        torch.set_default_dtype(default)
        try:
            optimizer.step()
        finally:
            torch.set_default_dtype(torch.float32)
        results.append(weight.detach())
    assert torch.equal(*results)


@every_optimizer
def test_memory_layouts_do_not_matter(name):
    results = []
    for transposed in (False, True):
        start = torch.arange(12.0).view(3, 4).mT.contiguous() / 7
        matrix, table = (nn.Parameter(start.mT.contiguous().mT if transposed else start.clone()) for _ in range(2))
        groups = [{"params": [matrix]}, {"params": [table], "use_muon": False}]
        optimizer = htmuon.OPTIMIZERS[name](groups, lr=0.1, adamw_lr=0.1)
        for sign in (1, -1):
            matrix.grad = sign * torch.arange(-6.0, 6.0).view(4, 3)
            table.grad = matrix.grad.clone()
            optimizer.step()
            # What a file gives back is contiguous, whatever was saved.
            state = copy.deepcopy(optimizer.state_dict())
            for entry in state["state"].values():
                entry.update({key: value.contiguous() for key, value in entry.items()})
            optimizer.load_state_dict(state)
        results.append([matrix.detach(), table.detach()])
    for plain, other in zip(*results, strict=True):
        torch.testing.assert_close(plain, other, rtol=0, atol=1e-6)


@every_optimizer
def test_empty_parameters_and_groups_are_harmless(name):
    weight, empty, none = nn.Parameter(torch.eye(3)), nn.Parameter(torch.ones(0, 3)), nn.Parameter(torch.ones(0))
    groups = [{"params": [weight, empty]}, {"params": [none], "use_muon": False}, {"params": []}]
    optimizer = htmuon.OPTIMIZERS[name](groups)
    for p in (weight, empty, none):
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert not torch.equal(weight, torch.eye(3))


@every_optimizer
def test_a_large_stack_is_computed_in_pieces(name):
    (model, optimizer), (other, pieces) = twins(name, method="exact")
    train(model, optimizer, 2)
    for group in pieces.param_groups:
        group["stack_elements"] = 1
    train(other, pieces, 2)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        # Batched products may sum in another order.
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5)


@every_optimizer
@pytest.mark.parametrize("method", ["eigh", "polynomial"])
def test_a_step_holds_no_tensor_larger_than_a_stack_may_be(name, method):
    largest = 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            largest = max([largest, *(t.numel() for t in tree_leaves(result) if isinstance(t, torch.Tensor))])
            return result

    weights = [nn.Parameter(torch.randn(64, 64)) for _ in range(8)]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer = htmuon.OPTIMIZERS[name](weights, method=method, stack_elements=2 * 64 * 64 + 1)
    optimizer.step()  # a fit, which is made once, has tensors of its own
    with Largest():
        optimizer.step()
    assert largest == 2 * 64 * 64


def test_a_tensor_learning_rate_belongs_to_one_group():
    model = network()
    optimizer = htmuon.HTMuon(htmuon.param_groups(model), lr=torch.tensor(0.02), adamw_lr=torch.tensor(0.01))
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    for _ in range(2):
        scheduler.step(1.0)
    assert [group["lr"].item() for group in optimizer.param_groups] == pytest.approx([0.01, 0.005, 0.005])


def test_settings_changed_after_construction_are_checked_before_anything_moves():
    weights = [nn.Parameter(torch.eye(3)) for _ in range(2)]
    optimizer = htmuon.HTMuon([{"params": [weight]} for weight in weights])
    for weight in weights:
        weight.grad = torch.eye(3)
    optimizer.param_groups[1]["normalization"] = "frobenius"
    with pytest.raises(ValueError, match="normalization must be one of"):
        optimizer.step()
    assert all(torch.equal(weight, torch.eye(3)) for weight in weights)


def test_a_registered_map_of_ones_own_trains(monkeypatch):
    monkeypatch.setitem(
        htmuon.spectral.MAPS._parts, "soft", lambda power: htmuon.spectral.Function(lambda x: x / (x + 0.05))
    )
    model = network()
    optimizer = htmuon.HTMuon(htmuon.param_groups(model), spectral_map="soft")
    train(model, optimizer, 2)
    assert optimizer.state_dict()["param_groups"][0]["spectral_map"] == "soft"


@every_optimizer
def test_stacks_of_equal_shapes_equal_single_matrices(name):
    starts = [torch.randn(6, 9) for _ in range(3)]
    gradients = [torch.randn(6, 9) for _ in range(3)]
    together = [nn.Parameter(w.clone()) for w in starts]
    apart = [nn.Parameter(w.clone()) for w in starts]
    make = partial(htmuon.OPTIMIZERS[name], method="exact")
    optimizers = [make(together), *[make([p]) for p in apart]]
    for p, q, gradient in zip(together, apart, gradients, strict=True):
        p.grad, q.grad = gradient, gradient.clone()
    for optimizer in optimizers:
        optimizer.step()
    for p, q in zip(together, apart, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)


@every_optimizer
def test_views_are_the_same_update_in_another_storage(name):
    linear, gradient = torch.randn(12, 5, 2, 2), torch.randn(12, 5, 2, 2)
    stored = {
        "linear": lambda t: t.flatten(1),
        "transposed": lambda t: t.flatten(1).mT.contiguous(),
        "conv": lambda t: t,
        "conv_transpose": lambda t: t.transpose(0, 1).contiguous(),
    }
    results = {}
    for view, store in stored.items():
        weight = nn.Parameter(store(linear).clone())
        weight.grad = store(gradient).clone()
        htmuon.OPTIMIZERS[name]([{"params": [weight], "matrix_view": view}], method="exact").step()
        results[view] = htmuon.matrix_view(weight.detach(), view)
    for view in ("transposed", "conv", "conv_transpose"):
        # conv_transpose orders the columns differently; row statistics and maps do not care, float32 sums do.
        expected = results["linear"].view(12, 5, 4).flatten(1)
        torch.testing.assert_close(results[view], expected, rtol=0, atol=1e-5)


@every_optimizer
def test_stacked_experts_are_a_batch(name):
    experts, gradient = torch.randn(3, 6, 4), torch.randn(3, 6, 4)
    stack = nn.Parameter(experts.clone())
    stack.grad = gradient.clone()
    htmuon.OPTIMIZERS[name]([stack], method="exact").step()
    for index in range(3):
        one = nn.Parameter(experts[index].clone())
        one.grad = gradient[index].clone()
        htmuon.OPTIMIZERS[name]([one], method="exact").step()
        torch.testing.assert_close(stack[index], one, rtol=0, atol=1e-6)


@every_optimizer
def test_schedulers_closures_and_tensor_learning_rates_work(name):
    model = network()
    optimizer = htmuon.OPTIMIZERS[name](htmuon.param_groups(model), lr=torch.tensor(0.01), adamw_lr=torch.tensor(1e-3))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        htmuon.OPTIMIZERS[name](htmuon.param_groups(network()), lr=0.01, adamw_lr=1e-3), lambda step: 1 / (1 + step)
    )
    with pytest.warns(UserWarning, match="no parameter of the optimizer has a gradient"):
        scheduler.optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in scheduler.optimizer.param_groups] == [0.005, 5e-4, 5e-4]

    def closure():
        optimizer.zero_grad()
        loss = model(torch.arange(4)).square().mean()
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert closure() < first


@every_optimizer
def test_every_group_has_every_key_and_copies_work(name):
    model = network()
    optimizer = htmuon.OPTIMIZERS[name](htmuon.param_groups(model))
    assert len({frozenset(group) - {"params", "param_names"} for group in optimizer.param_groups}) == 1
    clone = copy.deepcopy(optimizer)
    clone.add_param_group({"params": [("gain", nn.Parameter(torch.ones(3)))], "use_muon": False})
    assert clone.param_groups[-1]["lr"] == 3e-4


@every_optimizer
def test_memory_is_what_is_declared(name):
    model = network()
    optimizer = htmuon.OPTIMIZERS[name](htmuon.param_groups(model))
    train(model, optimizer, 1)
    matrix = model[1].weight
    extra = {
        "normuon": {"second_momentum_buffer": 16},
        "htnormuon": {"second_momentum_buffer": 16},
        "adamuon": {"second_momentum_buffer": matrix.numel()},
        "htadamuon": {"second_momentum_buffer": matrix.numel()},
    }.get(name, {})
    assert {key: value.numel() for key, value in optimizer.state[matrix].items()} == {
        "momentum_buffer": matrix.numel(),
        **extra,
    }


@pytest.mark.parametrize("name", htmuon.OPTIMIZERS)
def test_defaults_differ_from_those_of_htmuon_where_the_variant_means_it(name):
    usual, own = (
        {key: p.default for key, p in inspect.signature(kind).parameters.items()}
        for kind in (htmuon.HTMuon, htmuon.OPTIMIZERS[name])
    )
    different = {key for key in {*usual, *own} if usual.get(key) != own.get(key)}
    assert different <= {"lr", "power", "beta2", "sign", "adjust_lr_fn"}
