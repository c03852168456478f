"""What modules multiply their weights by: against what comes out of them, in float64."""

import copy
import io

import pytest
import torch
from torch import nn

from htmuon.powers.activations import Activations

CONVOLUTIONS = [
    {"kernel_size": 3},
    {"kernel_size": (3, 1), "padding": (1, 0), "stride": 2},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    {"kernel_size": 4, "padding": 2, "padding_mode": "reflect"},
]


def hooks(model):
    return sum(len(module._forward_pre_hooks) for module in model.modules())


def check(module, weights, inputs, columns):
    """|W A^T|^2 = tr(W A^T A W^T) for what the module computes, with any weights: so A^T A is all of it."""
    heard = Activations(module, {module.weight})
    module(inputs)
    gram = heard.taken()[module.weight].double()
    assert hooks(module) == 0
    assert gram.shape == (columns, columns)
    for seed in range(3):
        with torch.no_grad():
            module.weight.copy_(torch.randn(module.weight.shape, generator=torch.Generator().manual_seed(seed)))
            matrix = weights(module.weight).double()
            out = module(inputs).double()
        # Products and sums of some thousand terms in float32.
        assert (matrix @ gram @ matrix.mT).trace().item() == pytest.approx(out.square().sum().item(), rel=1e-5)


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 5, 6)])
def test_of_a_linear_layer(shape):
    inputs = torch.randn(shape)
    check(nn.Linear(6, 4, bias=False), lambda w: w, inputs, 6)
    layer = nn.Linear(6, 4)
    heard = Activations(layer, {layer.weight})
    layer(inputs)
    rows = inputs.reshape(-1, 6)
    torch.testing.assert_close(heard.taken()[layer.weight], rows.mT @ rows)


def test_of_a_layer_that_stores_its_matrix_transposed():
    conv1d = pytest.importorskip("transformers").pytorch_utils.Conv1D
    check(conv1d(4, 6), lambda w: w.mT, torch.randn(2, 5, 6), 6)


@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("together", [1, 2**22])
def test_of_a_convolution(settings, together, monkeypatch):
    monkeypatch.setattr("htmuon.powers.activations.TOGETHER", together)
    module = nn.Conv2d(3, 4, bias=False, **settings)
    columns = module.weight[0].numel()
    check(module, lambda w: w.flatten(1), torch.randn(5, 3, 9, 8), columns)
    check(module, lambda w: w.flatten(1), torch.randn(3, 9, 8), columns)


def test_passes_add_up_and_those_without_gradients_do_not_count():
    layer, batches = nn.Linear(6, 6), torch.randn(2, 5, 6)
    model = nn.Sequential(layer, layer)  # one weight, called twice
    heard = Activations(model, {layer.weight})
    for batch in batches:
        model(batch)
    with torch.no_grad():
        model(torch.randn(5, 6))
        rows = torch.cat([*batches, layer(batches[0]), layer(batches[1])])
    torch.testing.assert_close(heard.taken()[layer.weight], rows.mT @ rows)


def test_products_stay_float32_under_autocast():
    layer, inputs = nn.Linear(64, 4), torch.randn(100, 64)
    heard = Activations(layer, {layer.weight})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(inputs)
    exact = inputs.double().mT @ inputs.double()
    # Sums of a hundred products in float32; in bfloat16 they would be off by 1e-1.
    torch.testing.assert_close(heard.taken()[layer.weight].double(), exact, rtol=0, atol=1e-4)


def test_copies_of_a_model_and_stored_ones_hear_nothing():
    model = nn.Sequential(nn.Linear(6, 6))
    heard = Activations(model, set(model.parameters()))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        other(torch.randn(5, 6))
        [hook] = other[0]._forward_pre_hooks.values()
        assert hook.func.__self__.taken() == {}
    inputs = torch.randn(5, 6)
    model(inputs)
    torch.testing.assert_close(heard.taken()[model[0].weight], inputs.mT @ inputs)


def test_what_is_not_heard():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, 6)

        def forward(self, inputs):
            return nn.functional.linear(inputs, self.inner.weight)

    normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
    attention = nn.MultiheadAttention(6, 2, batch_first=True)
    grouped, across = nn.Conv2d(4, 4, 3, groups=2), nn.ConvTranspose2d(4, 4, 3)
    unused, frozen = nn.Linear(6, 6), nn.Linear(6, 6)
    model = nn.ModuleList([Functional(), normed, attention, grouped, across, unused, frozen])
    heard = Activations(model, set(model.parameters()) - {frozen.weight})
    inputs = torch.randn(5, 6)
    model[0](inputs), normed(inputs), attention(*[inputs[None]] * 3), frozen(inputs)
    grouped(torch.randn(1, 4, 5, 5)), across(torch.randn(1, 4, 5, 5))
    assert heard.taken() == {}
    assert hooks(model) == hooks(nn.Identity())
