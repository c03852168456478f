"""The right basis that `method="streaming"` carries from step to step, as part of an optimizer's state."""

import io
import math

import pytest
import torch
from problems import assert_same, network, train, twins
from torch import nn

import htmuon
from htmuon.linalg import streaming


@pytest.mark.parametrize("name", ["htmuon", "htnormuon", "htadamuon"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_dict_continues_to_the_bit(name, dtype):
    (model, optimizer), (other, fresh) = twins(name, dtype, method="streaming")
    train(model, optimizer, 5)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other.load_state_dict(saved["model"])
    fresh.load_state_dict(saved["optimizer"])
    bases = [
        (p, q)
        for p, q in zip(model.parameters(), other.parameters(), strict=True)
        if "right_basis" in optimizer.state[p]
    ]
    assert bases
    for p, q in bases:
        assert optimizer.state[p]["right_basis"].dtype == torch.float32
        assert fresh.state[q]["right_basis"].dtype == torch.float32
        assert torch.equal(optimizer.state[p]["right_basis"], fresh.state[q]["right_basis"])
    train(model, optimizer, 5, first=5)
    train(other, fresh, 5, first=5)
    assert_same(model, other)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("first", [0, 3])
def test_a_gradient_that_is_not_finite_leaves_the_basis_alone(bad, first):
    (model, optimizer), (other, undisturbed) = twins("htmuon", method="streaming")

    def spoil(step, model):
        if step == first:
            model[1].weight.grad.view(-1)[0] = bad

    train(model, optimizer, first + 1, spoil=spoil)
    train(other, undisturbed, first)
    train(model, optimizer, 3, first=first + 1)
    train(other, undisturbed, 3, first=first + 1)
    assert_same(model, other)


def test_a_basis_is_allocated_when_the_method_changes():
    model = network()
    optimizer = htmuon.HTMuon(htmuon.param_groups(model), method="eigh")
    train(model, optimizer, 2)
    assert not any("right_basis" in state for state in optimizer.state.values())
    optimizer.param_groups[0]["method"] = "streaming"
    train(model, optimizer, 2, first=2)
    bases = {p.shape: optimizer.state[p]["right_basis"] for p in optimizer.param_groups[0]["params"]}
    assert {shape: tuple(basis.shape) for shape, basis in bases.items()} == {
        shape: (min(shape), min(shape)) for shape in bases
    }


@pytest.mark.parametrize(
    ("shape", "view", "basis"),
    [
        ((12, 5), None, (5, 5)),
        ((5, 12), None, (5, 5)),
        ((3, 6, 4), "linear", (3, 4, 4)),
        ((8, 3, 2, 2), "conv", (8, 8)),
        ((3, 8, 2, 2), "conv_transpose", (8, 8)),
    ],
    ids=str,
)
def test_every_matrix_of_a_parameter_has_a_basis_of_its_short_side(shape, view, basis):
    weight = nn.Parameter(torch.randn(shape))
    weight.grad = torch.randn(shape)
    optimizer = htmuon.HTNorMuon([{"params": [weight], "matrix_view": view}], method="streaming")
    optimizer.step()
    state = optimizer.state[weight]
    assert set(state) == {"momentum_buffer", "second_momentum_buffer", "right_basis"}
    stored = state["right_basis"]
    assert stored.shape == basis
    torch.testing.assert_close(stored.mT @ stored, torch.eye(basis[-1]).expand(basis), rtol=0, atol=1e-5)


@pytest.mark.parametrize("host_may_look", [True, False])
def test_the_first_step_on_a_gradient_of_rank_one_is_of_unit_norm(monkeypatch, host_may_look):
    # As after a batch of one token: a cold start in which all columns of the gradient are parallel.
    monkeypatch.setattr(streaming, "host_may_look", lambda tensor: host_may_look)
    weight = nn.Parameter(torch.zeros(512, 512))
    settings = {"method": "streaming", "normalization": "spectral", "weight_decay": 0.0}
    optimizer = htmuon.HTMuon([weight], lr=1.0, **settings)
    for scale in (1.0, 1e-3):
        weight.grad = scale * torch.outer(torch.randn(512), torch.randn(512))
        before = weight.detach().clone()
        optimizer.step()
        # Momentum makes the second direction one of rank two.
        norm = torch.linalg.matrix_norm(weight.detach() - before, ord=2).item()
        assert norm == pytest.approx(1, rel=0.02)


@pytest.mark.slow
def test_training_learns_as_with_an_exact_method():
    losses = {}
    for method in ("eigh", "streaming"):
        model = network()
        train(model, htmuon.HTMuon(htmuon.param_groups(model), lr=0.01, method=method, adamw_lr=3e-3), 100)
        tokens = torch.arange(11)
        losses[method] = nn.functional.cross_entropy(model(tokens), (3 * tokens + 1) % 11).item()
    # 11 classes, a loss near log 11 = 2.4 at the start: what is left may differ, by little of what was learnt.
    assert losses["streaming"] < losses["eigh"] + 0.05 * math.log(11)
