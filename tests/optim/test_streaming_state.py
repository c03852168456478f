"""The right basis that `method="streaming"` carries from step to step, as part of an optimizer's state."""

import io
import math

import pytest
import torch
from problems import assert_same, network, train, twins

import htmuon


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
