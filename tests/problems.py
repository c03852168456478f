"""Small problems and independent statements of published updates."""

import copy

import torch
from torch import nn

import htmuon


def network(dtype=torch.float32):
    """Matrices that are square, tall and wide, convolutions, an embedding and a head."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Embedding(11, 6),
        nn.Linear(6, 16),
        nn.Tanh(),
        nn.Linear(16, 16, bias=False),
        nn.Tanh(),
        nn.Linear(16, 16, bias=False),
        nn.LayerNorm(16),
        nn.Linear(16, 5, bias=False),
        nn.Linear(5, 11),
    ).to(dtype)


def train(model, optimizer, steps, first=0, spoil=None):
    """`steps` steps on batches that are functions of the step; `spoil(step, model)` may change gradients."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        tokens = torch.randint(0, 11, (24,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens).to(torch.float32), (3 * tokens + 1) % 11).backward()
        if spoil is not None:
            spoil(step, model)
        optimizer.step()


def twins(name, dtype=torch.float32, **settings):
    """Two equal models with an optimizer each."""
    model = network(dtype)
    other = copy.deepcopy(model)
    make = htmuon.OPTIMIZERS[name]
    return [(m, make(htmuon.param_groups(m), **settings)) for m in (model, other)]


def assert_same(model, other):
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), name
