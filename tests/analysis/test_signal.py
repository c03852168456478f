"""How much of the momentum a gradient repeats: against planted shares, and in a run."""

import json

import pytest
import torch
from matrices import matrix_with

import htmuon
from htmuon.analysis import SpectralMonitor, signal_by_sigma


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (3, 16, 16)], ids=str)
def test_planted_shares_are_found(shape):
    rank = min(shape[-2:])
    sigma = torch.logspace(0, -2, rank, dtype=torch.float64)
    momentum = matrix_with(sigma, shape)
    u, s, vh = torch.linalg.svd(momentum, full_matrices=False)
    shares = torch.linspace(-0.5, 1.0, 8, dtype=torch.float64)
    per_direction = shares.repeat_interleave(rank // 8)
    # What lies across the directions counts for nothing.
    across = torch.randn(*shape[:-2], rank, rank, dtype=torch.float64)
    across = across - torch.diag_embed(across.diagonal(dim1=-2, dim2=-1))
    gradient = u @ (torch.diag_embed(per_direction * s) + across) @ vh
    torch.testing.assert_close(signal_by_sigma(momentum, gradient), shares.expand(*shape[:-2], 8))


def test_scales_and_a_zero_momentum():
    momentum, gradient = torch.randn(9, 12), torch.randn(9, 12)
    shares = signal_by_sigma(momentum, gradient)
    # 1e-5: the scaled ones are rounded to float32 anew, by 1e-7, of sums that cancel.
    torch.testing.assert_close(signal_by_sigma(1e-20 * momentum, 1e-20 * gradient), shares, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(signal_by_sigma(momentum, -2 * gradient), -2 * shares)
    assert signal_by_sigma(torch.zeros(9, 12), gradient).isnan().all()
    assert signal_by_sigma(torch.randn(7, 12), torch.randn(7, 12)).isnan().all()


@pytest.mark.parametrize("momentum_rule", ["average", "sum"])
def test_a_gradient_that_stays_is_all_signal(momentum_rule):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 16))
    optimizer = htmuon.Muon(htmuon.param_groups(model), lr=0.0, momentum=0.5, momentum_rule=momentum_rule)
    monitor = SpectralMonitor(model, optimizer, every=40)
    gradients = [torch.randn(p.shape) for p in model.parameters()]
    for _ in range(40):
        for p, gradient in zip(model.parameters(), gradients, strict=True):
            p.grad = gradient.clone()
        optimizer.step()
    [record] = [r for r in monitor.latest if r["kind"] == "momentum" and r["name"] == "0.weight"]
    assert [record[f"signal_{octile}"] for octile in range(1, 9)] == pytest.approx([1.0] * 8, rel=1e-4)  # float32


def test_the_monitor_records_the_gradient_of_a_step_against_the_momentum_before_it(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 16))
    optimizer = htmuon.HTMuon(htmuon.param_groups(model), lr=0.02)
    monitor = SpectralMonitor(model, optimizer, every=1, path=tmp_path / "log.jsonl")
    for step in range(3):
        optimizer.zero_grad()
        model(torch.randn(64, 16)).square().mean().backward()
        weight = model[0].weight
        before = optimizer.state[weight]["momentum_buffer"].clone() if step else None
        optimizer.step()
        [record] = [r for r in monitor.latest if r["kind"] == "momentum" and r["name"] == "0.weight"]
        found = [record[f"signal_{octile}"] for octile in range(1, 9)]
        if before is None:  # there was no momentum yet
            assert all(share != share for share in found)
        else:
            # Six digits are kept.
            assert found == pytest.approx(signal_by_sigma(before, weight.grad).tolist(), rel=1e-5)
    monitor.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["kind"] == "updates"
    assert not any("signal_1" in line for line in lines if line["kind"] != "momentum")
