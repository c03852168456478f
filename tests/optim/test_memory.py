"""Parameters that lie in memory in unusual ways: the update is that of a dense one, and nothing else is written."""

import copy

import pytest
import torch
from problems import assert_same, train, twins
from torch import nn

import htmuon

NAMES = list(htmuon.OPTIMIZERS)
SIDES = ["matrices", "adamw"]
# Batched and blocked sums may run in another order where a tensor is laid out differently: a few float32 roundings of
# entries of size 1, through three steps.
ROUNDING = {"rtol": 0, "atol": 2e-6}


def imaginary(whole):
    """The imaginary part of a conjugate, which is a view with torch's negative bit."""
    return torch.view_as_complex(whole.view(*whole.shape[:-1], whole.shape[-1] // 2, 2)).conj().imag


# Of a float32 tensor `[8, 12]`: a view that is no dense tensor.
VIEWS = {
    "columns": lambda whole: whole[:, :5],
    "every other column": lambda whole: whole[:, ::2],
    "every other row": lambda whole: whole[1::2],
    "a window": lambda whole: whole[1:6, 3:10],
    "transposed columns": lambda whole: whole[:, :5].mT,
    "transposed, every other": lambda whole: whole[::2, ::3].mT,
    "imaginary part": imaginary,
    "transposed imaginary part": lambda whole: imaginary(whole).mT,
    "a stack with gaps": lambda whole: whole.view(2, 4, 12)[:, :3, 1:6],
    "a stack from within": lambda whole: whole.view(4, 2, 12)[:, :, ::2].transpose(0, 2),
    "a kernel with gaps": lambda whole: whole.view(4, 2, 3, 4)[:, :, ::2, :3],
    "experts, every other": lambda whole: whole.view(4, 4, 6)[::2],
}
VECTORS = {
    "stride 2": lambda whole: whole.view(-1)[::2],
    "a column": lambda whole: whole[:, 3],
    "a scalar inside": lambda whole: whole[3, 4],
    "negative vector": lambda whole: imaginary(whole)[2],
}


def group(parameters, side):
    return [{"params": parameters, "use_muon": side == "matrices"}]


def gradients(shape, steps=3):
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(shape, generator=generator) for _ in range(steps)]


def trained_beside_a_twin(make_view, side, name="htmuon", **settings):
    """The whole tensor before, after, the view, and its dense twin, both trained alike."""
    whole = torch.randn(8, 12)
    before = whole.clone()
    view = nn.Parameter(make_view(whole))
    twin = nn.Parameter(view.detach().clone(memory_format=torch.contiguous_format))
    assert view.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    for parameter in (view, twin):
        optimizer = htmuon.OPTIMIZERS[name](group([parameter], side), lr=0.1, adamw_lr=0.1, **settings)
        for gradient in gradients(parameter.shape):
            parameter.grad = gradient
            optimizer.step()
    return before, whole, view, twin


def assert_trained_alone(make_view, before, whole, view, twin):
    torch.testing.assert_close(view.detach(), twin.detach(), **ROUNDING)
    assert not torch.equal(twin, make_view(before))
    # Writing the old values back into the view must give the old tensor: nothing else was written.
    make_view(whole).copy_(make_view(before))
    assert torch.equal(whole, before)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", VIEWS)
def test_a_view_with_gaps_trains_as_a_dense_twin_and_the_rest_is_untouched(kind, side):
    assert_trained_alone(VIEWS[kind], *trained_beside_a_twin(VIEWS[kind], side))


@pytest.mark.parametrize("kind", VECTORS)
def test_a_vector_with_gaps_trains_as_a_dense_twin_and_the_rest_is_untouched(kind):
    assert_trained_alone(VECTORS[kind], *trained_beside_a_twin(VECTORS[kind], "adamw"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["transposed columns", "imaginary part"])
def test_every_optimizer_trains_views_with_gaps(name, kind):
    assert_trained_alone(VIEWS[kind], *trained_beside_a_twin(VIEWS[kind], "matrices", name))


@pytest.mark.parametrize("method", ["svd", "newton_schulz", "streaming", "polynomial"])
def test_every_method_trains_views_with_gaps(method):
    before, whole, view, twin = trained_beside_a_twin(VIEWS["transposed columns"], "matrices", method=method)
    # Iterated products in float32, or in bfloat16 for newton_schulz, amplify the order of a sum: 1e-3 of a step of 0.1.
    torch.testing.assert_close(view.detach(), twin.detach(), rtol=0, atol=1e-4)
    VIEWS["transposed columns"](whole).copy_(VIEWS["transposed columns"](before))
    assert torch.equal(whole, before)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_views_of_other_dtypes_train_as_their_twins(side, dtype):
    whole = torch.randn(8, 12).to(dtype)
    before = whole.clone()
    view = nn.Parameter(whole[:, :5])
    twin = nn.Parameter(view.detach().clone())
    for parameter in (view, twin):
        optimizer = htmuon.HTMuon(group([parameter], side), lr=0.1, adamw_lr=0.1)
        for gradient in gradients(parameter.shape):
            parameter.grad = gradient.to(dtype)
            optimizer.step()
    # In bfloat16 a rounding may fall to the other side: one spacing, 2^-7 of the value.
    limits = {"rtol": 2**-7, "atol": 2**-8} if dtype == torch.bfloat16 else {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(view.detach(), twin.detach(), **limits)
    assert torch.equal(whole[:, 5:], before[:, 5:])


@pytest.mark.parametrize("side", SIDES)
def test_halves_of_one_tensor_train_as_two_parameters(side):
    whole = torch.randn(6, 8)
    halves = [nn.Parameter(whole[:, :4]), nn.Parameter(whole[:, 4:])]
    twins = [nn.Parameter(half.detach().clone()) for half in halves]
    for parameters in (halves, twins):
        optimizer = htmuon.HTMuon(group(parameters, side), lr=0.1, adamw_lr=0.1)
        for first, second in zip(gradients((6, 4)), gradients((4, 6)), strict=True):
            parameters[0].grad, parameters[1].grad = first, second.mT
            optimizer.step()
    for half, twin in zip(halves, twins, strict=True):
        torch.testing.assert_close(half.detach(), twin.detach(), **ROUNDING)


@pytest.mark.parametrize("side", SIDES)
def test_the_state_of_a_view_with_gaps_continues_in_a_dense_twin_and_back(side):
    whole = torch.randn(8, 12)
    rest = whole[:, 5:].clone()
    view = nn.Parameter(whole[:, :5].mT)
    twin = nn.Parameter(view.detach().clone(memory_format=torch.contiguous_format))
    first, second = (htmuon.HTMuon(group([p], side), lr=0.1, adamw_lr=0.1) for p in (view, twin))
    for step, gradient in enumerate(gradients(view.shape, 6)):
        for parameter, optimizer in ((view, first), (twin, second)):
            parameter.grad = gradient
            optimizer.step()
        if step % 2:
            saved = [copy.deepcopy(optimizer.state_dict()) for optimizer in (first, second)]
            second.load_state_dict(saved[0])
            first.load_state_dict(saved[1])
    torch.testing.assert_close(view.detach(), twin.detach(), **ROUNDING)
    assert torch.equal(whole[:, 5:], rest)


def test_a_masked_step_leaves_views_as_they_are():
    whole = torch.randn(8, 12)
    before = whole.clone()
    view, vector = nn.Parameter(whole[:, :5]), nn.Parameter(whole[::2, 6])
    optimizer = htmuon.HTMuon([*group([view], "matrices"), *group([vector], "adamw")])
    view.grad, vector.grad = torch.full_like(view, torch.nan), torch.ones_like(vector)
    optimizer.step()
    assert torch.equal(whole, before)
    assert optimizer.skipped_steps == 1


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(1, 4).expand(3, 4),
        lambda: torch.ones(3, 1).expand(3, 4),
        lambda: torch.ones(()).expand(3, 4),
        lambda: torch.arange(6.0).as_strided((3, 4), (1, 1)),
        lambda: torch.arange(20.0).as_strided((4, 4), (3, 1)),
        lambda: torch.arange(10.0).unfold(0, 4, 2),
        lambda: torch.ones(2, 1, 3).expand(2, 5, 3),
        lambda: torch.ones(1, 4).expand(3, 4).mT,
    ],
)
def test_a_parameter_that_shares_memory_among_its_elements_is_refused(make, side):
    parameter = nn.Parameter(make())
    groups = [{"params": [("w", parameter)], "use_muon": side == "matrices"}]
    with pytest.raises(ValueError, match=r"must not share memory.*'w' of shape.*Parameter\(tensor\.clone\(\)\)"):
        htmuon.HTMuon(groups)
    # What the message says to do.
    parameter = nn.Parameter(make().clone(memory_format=torch.contiguous_format))
    optimizer = htmuon.HTMuon(group([parameter], side))
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def test_one_row_that_is_expanded_to_one_row_is_no_overlap():
    parameter = nn.Parameter(torch.ones(1, 4).expand(1, 4).expand(1, -1))
    optimizer = htmuon.HTMuon(group([parameter], "matrices"))
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert not torch.equal(parameter, torch.ones(1, 4))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("to", [torch.channels_last, torch.contiguous_format], ids=str)
def test_a_change_of_the_memory_format_in_mid_training_changes_nothing(name, to):
    def run(change):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 6, (2, 3)))
        if to is torch.contiguous_format:
            model.to(memory_format=torch.channels_last)
        weights = [[p for p in layer.parameters() if p.ndim == 4] for layer in (model[0], model[2])]
        biases = [p for p in model.parameters() if p.ndim == 1]
        groups = [*group(weights[0], "adamw"), *group(weights[1], "matrices"), *group(biases, "adamw")]
        optimizer = htmuon.OPTIMIZERS[name](groups, lr=0.05, adamw_lr=0.05)
        for step in range(6):
            if step == 3 and change:
                model.to(memory_format=to)
                assert weights[0][0].is_contiguous(memory_format=to)
            for number, p in enumerate(model.parameters()):
                # The same gradients in both runs, for convolutions themselves round by memory format.
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * step + number))
            optimizer.step()
        return model

    for one, other in zip(run(False).parameters(), run(True).parameters(), strict=True):
        torch.testing.assert_close(one.detach(), other.detach(), **ROUNDING)


def test_a_model_with_channels_last_in_mid_training_trains_on_its_own_gradients():
    def run(change):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 2))
        optimizer = htmuon.HTMuon(htmuon.param_groups(model), lr=0.02, adamw_lr=0.02)
        for step in range(6):
            if step == 3 and change:
                model.to(memory_format=torch.channels_last)
            optimizer.zero_grad()
            model(torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(step))).square().sum().backward()
            optimizer.step()
        return model

    for one, other in zip(run(False).parameters(), run(True).parameters(), strict=True):
        # Convolutions sum in another order: float32 rounding of gradients, which AdamW's and the map's division by
        # small singular values and mean squares amplify; a wrong pairing of elements moves whole steps, 0.02.
        torch.testing.assert_close(one.detach(), other.detach(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_that_is_cast_in_mid_training_goes_on_as_from_a_file(name, dtype):
    (model, optimizer), (other, fresh) = twins(name)
    train(model, optimizer, 2)
    other.load_state_dict(model.state_dict())
    model.to(dtype)
    other.to(dtype)
    fresh.load_state_dict(optimizer.state_dict())
    train(model, optimizer, 2, first=2)
    train(other, fresh, 2, first=2)
    assert_same(model, other)


@pytest.mark.parametrize("kind", ["matrix", "table", "table with gaps", "vector", "vector with gaps"])
def test_an_expanded_gradient_is_the_gradient(kind):
    whole = torch.randn(6, 8)
    start = {"matrix": whole, "table": whole, "table with gaps": whole[:, 1:4].mT, "vector": whole[0]}
    parameters = [nn.Parameter(start.get(kind, whole[:, 2]).clone()) for _ in range(2)]
    if kind.endswith("gaps"):
        parameters[0] = nn.Parameter(start.get(kind, whole[:, 2]))
    side = "matrices" if kind == "matrix" else "adamw"
    for number, parameter in enumerate(parameters):
        optimizer = htmuon.HTMuon(group([parameter], side), lr=0.1, adamw_lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            (3 * parameter).sum().backward()  # its gradient is one number, expanded
            if number == 1:
                parameter.grad = torch.full(parameter.shape, 3.0)
            optimizer.step()
    torch.testing.assert_close(parameters[0].detach(), parameters[1].detach(), **ROUNDING)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    "lay_out",
    [
        lambda gradient: gradient.mT.contiguous().mT,
        lambda gradient: torch.cat([gradient, gradient], 1)[:, : gradient.shape[1]],
        lambda gradient: torch.complex(gradient, -gradient).conj().imag,
    ],
    ids=["transposed", "with gaps", "negative bit"],
)
def test_a_gradient_may_lie_in_memory_as_it_likes(lay_out, side):
    results = []
    for change in (lay_out, torch.clone):
        parameter = nn.Parameter(torch.arange(24.0).view(4, 6) / 24)
        optimizer = htmuon.HTMuon(group([parameter], side), lr=0.1, adamw_lr=0.1)
        for gradient in gradients((4, 6)):
            parameter.grad = change(gradient)
            assert torch.equal(parameter.grad, gradient)
            optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(*results, **ROUNDING)
