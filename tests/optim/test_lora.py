"""The factors of a low-rank adapter, `W + B A`, are hidden matrices with spectra of their own."""

import torch
from torch import Tensor, nn

import htmuon

RANK, LR, DECAY, MOMENTUM, POWER = 4, 0.02, 0.1, 0.95, 0.125


class Adapted(nn.Module):
    """A frozen linear layer beside two factors, with the names and initial values that peft gives them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base_layer = nn.Linear(inputs, outputs).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(inputs, RANK, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(RANK, outputs, bias=False)})
        nn.init.zeros_(self.lora_B["default"].weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


def model() -> nn.Module:
    embedding = nn.Embedding(11, 12).requires_grad_(False)
    return nn.Sequential(embedding, Adapted(12, 20), nn.Tanh(), Adapted(20, 12))


def powered(matrix: Tensor) -> Tensor:
    """U S^p V^T without the directions that are rounding; a zero matrix is none but such."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u * torch.where(s > 1e-12, s**POWER, 0) @ vh


def test_factors_train_as_matrices_of_their_own():
    adapted = model()
    routing = htmuon.route(adapted)
    assert {route.name: route.view for route in routing.routes} == {
        f"{layer}.lora_{factor}.default.weight": "linear" for layer in (1, 3) for factor in "AB"
    }
    optimizer = htmuon.HTMuon(
        routing.groups(), lr=LR, weight_decay=DECAY, momentum=MOMENTUM, power=POWER, method="exact"
    )
    frozen = adapted[1].base_layer.weight.clone()
    factors = [route.parameter for route in routing.routes]
    expected = [p.detach().double() for p in factors]
    buffers = [torch.zeros_like(p) for p in expected]

    x = torch.arange(11)
    target = torch.randn(11, 12)
    losses = []
    for _ in range(30):
        loss = nn.functional.mse_loss(adapted(x), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for p, weight, buffer in zip(factors, expected, buffers, strict=True):
            gradient = p.grad.double()
            if not gradient.any():  # that of A in the first step: it rests
                continue
            buffer.lerp_(gradient, 1 - MOMENTUM)
            outputs, inputs = weight.shape
            update = powered(gradient.lerp(buffer, MOMENTUM)) * max(1, outputs / inputs) ** 0.5
            weight.mul_(1 - LR * DECAY).sub_(update, alpha=LR)
    for p, weight in zip(factors, expected, strict=True):
        # float32 against float64 over 30 steps, each of at most lr times the update scale.
        torch.testing.assert_close(p.detach().double(), weight, rtol=0, atol=1e-5)
    assert torch.equal(adapted[1].base_layer.weight, frozen)
    assert losses[-1] < losses[0]


def test_a_factor_without_a_gradient_is_left_as_it_was():
    """B is zero at first, and so is the gradient of A: a zero matrix maps to zero."""
    adapted = model()
    optimizer = htmuon.HTMuon(htmuon.param_groups(adapted), weight_decay=0.0)
    before = [layer.lora_A["default"].weight.detach().clone() for layer in (adapted[1], adapted[3])]
    nn.functional.mse_loss(adapted(torch.arange(11)), torch.randn(11, 12)).backward()
    optimizer.step()
    for layer, weight in zip((adapted[1], adapted[3]), before, strict=True):
        assert torch.equal(layer.lora_A["default"].weight, weight)
        assert layer.lora_B["default"].weight.abs().max() > 0
