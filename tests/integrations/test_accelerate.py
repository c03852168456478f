"""accelerate needs nothing of this library: an optimizer made before `prepare` trains, is stored and resumes."""

import pytest
import torch
from ranks import Ranks
from torch import nn

pytest.importorskip("accelerate")

from integrations.prepared import SETTINGS, batches, prepared, resumed_on_a_rank, train, weights
from problems import network

import htmuon
from htmuon.analysis import SpectralMonitor


def trained_by_a_loop(count):
    model = network()
    optimizer = htmuon.HTMuon.for_model(model, **SETTINGS)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 20)
    losses = []
    for tokens, targets in batches(count):
        loss = nn.functional.cross_entropy(model(tokens), targets)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return losses, weights(model)


def equal(ours, theirs):
    return all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


def test_it_takes_the_steps_of_a_loop():
    accelerator, *parts = prepared()
    losses, reached = trained_by_a_loop(6)
    assert train(accelerator, *parts, batches(6)) == losses
    assert equal(weights(parts[0]), reached)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_stored_run_resumes_to_the_bit(accumulated, tmp_path):
    data = batches(8)
    accelerator, *whole = prepared(gradient_accumulation_steps=accumulated)
    train(accelerator, *whole, data[:4])
    accelerator.save_state(tmp_path)
    train(accelerator, *whole, data[4:])
    accelerator, *resumed = prepared(gradient_accumulation_steps=accumulated)
    accelerator.load_state(tmp_path)
    train(accelerator, *resumed, data[4:])
    assert equal(weights(whole[0]), weights(resumed[0]))
    ours, theirs = (part[1].optimizer.param_groups for part in (whole, resumed))
    assert [group["lr"] for group in ours] == [group["lr"] for group in theirs]
    assert int(ours[0]["steps_taken"]) == int(theirs[0]["steps_taken"]) == 8 // accumulated


def test_the_monitor_follows_what_was_prepared():
    accelerator, model, optimizer, scheduler = prepared(gradient_accumulation_steps=2)
    with SpectralMonitor(model, optimizer, every=2) as monitor:
        train(accelerator, model, optimizer, scheduler, batches(8))
        assert monitor.step == 4
        assert {record["kind"] for record in monitor.latest} == {"weights", "momentum", "updates"}


@pytest.fixture(scope="module")
def two():
    ranks = Ranks(2)
    yield ranks
    ranks.close()


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp2"])
def test_two_processes_train_as_one_and_resume_to_the_bit(two, sharded, tmp_path):
    _, alone = trained_by_a_loop(6)
    for reached, resumed in two.run(resumed_on_a_rank, sharded, str(tmp_path)):
        assert equal(reached, resumed)
        for ours, theirs in zip(reached, alone, strict=True):
            # The gradient is a mean of two means. Rounding, 1e-7, turns its weakest directions, 1e-4, by 1e-3; these
            # are a third of the update at p = 1/8, whose entries are 0.005; in six steps.
            torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-5)
