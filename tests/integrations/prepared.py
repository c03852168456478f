"""What accelerate makes of a model and an optimizer, alone and on two ranks."""

import accelerate
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, GradientState, PartialState
from problems import network
from torch import nn
from torch.distributed.tensor import DTensor

import htmuon
from htmuon.analysis import SpectralMonitor

# A decomposition: the products of half precision that `auto` takes round otherwise where the matrices of a stack have
# different owners.
SETTINGS = {"lr": 0.02, "adamw_lr": 0.003, "method": "eigh"}


def batches(count):
    drawn = torch.randint(0, 11, (count, 24), generator=torch.Generator().manual_seed(3))
    return [(tokens, (3 * tokens + 1) % 11) for tokens in drawn]


def prepared(sharding=None, **settings):
    """An accelerator, model, optimizer and scheduler; the optimizer is made of the model before it is prepared."""
    for shared in (AcceleratorState, GradientState, PartialState):
        shared._reset_state()
    accelerator = accelerate.Accelerator(cpu=True, **settings)
    if sharding is not None:  # which accelerate leaves out on CPUs, without a word
        for state in (accelerator.state, PartialState()):
            state.distributed_type = accelerate.DistributedType.FSDP
        accelerator.state.fsdp_plugin = sharding
    model = network()
    optimizer = htmuon.HTMuon.for_model(model, **SETTINGS)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 20)
    return accelerator, *accelerator.prepare(model, optimizer, scheduler)


def train(accelerator, model, optimizer, scheduler, data):
    """The losses; of several ranks each takes its share of every batch."""
    losses = []
    for tokens, targets in data:
        with accelerator.accumulate(model):
            mine = slice(accelerator.process_index, None, accelerator.num_processes)
            loss = nn.functional.cross_entropy(model(tokens[mine]), targets[mine])
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def weights(model):
    return [(p.full_tensor() if isinstance(p, DTensor) else p).detach().clone() for p in model.parameters()]


def resumed_on_a_rank(sharded, folder):
    """The weights after six steps, and after the last three of them were taken again from a checkpoint."""
    sharding = accelerate.FullyShardedDataParallelPlugin(fsdp_version=2) if sharded else None
    settings = {"sharding": sharding, "step_scheduler_with_optimizer": False}
    accelerator, *parts = prepared(**settings)
    assert dist.get_world_size() == accelerator.num_processes == 2
    assert any(isinstance(p, DTensor) for p in parts[0].parameters()) == sharded
    monitor = None if sharded else SpectralMonitor(*parts[:2], every=1)
    train(accelerator, *parts, batches(6)[:3])
    accelerator.save_state(folder)
    train(accelerator, *parts, batches(6)[3:])
    reached = weights(parts[0])
    assert monitor is None or monitor.step == 6
    accelerator, *parts = prepared(**settings)
    accelerator.load_state(folder)
    train(accelerator, *parts, batches(6)[3:])
    return reached, weights(parts[0])
