"""Sharded parameters on a GPU: one rank of NCCL, whose collectives and streams are those of many."""

import pytest
import torch
import torch.distributed as dist
from kernels.products import needs_gpu
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import htmuon

pytestmark = [pytest.mark.gpu, needs_gpu]
SHAPES = [(64, 32), (32, 32), (32, 32), (320, 512), (2, 24, 40)]


@pytest.fixture(scope="module")
def mesh():
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cuda", (1,))
    dist.destroy_process_group()


def twins(mesh, dim):
    """Equal parameters, the first ones sharded along a dim, and the same gradient for both."""
    generator = torch.Generator("cuda").manual_seed(1)
    whole = [torch.randn(shape, generator=generator, device="cuda") for shape in SHAPES]
    sharded = [nn.Parameter(distribute_tensor(tensor.clone(), mesh, [Shard(dim)])) for tensor in whole]
    return sharded, [nn.Parameter(tensor) for tensor in whole], generator


def draw_gradients(sharded, whole, mesh, generator):
    for one, other in zip(sharded, whole, strict=True):
        other.grad = torch.randn(other.shape, generator=generator, device="cuda")
        one.grad = distribute_tensor(other.grad.clone(), mesh, one.placements)


@pytest.mark.parametrize("settings", [{}, {"method": "eigh"}, {"method": "streaming"}], ids=str)
@pytest.mark.parametrize("name", ["htmuon", "htnormuon", "htadamuon"])
@pytest.mark.parametrize("dim", [0, 1])
def test_a_sharded_step_is_a_plain_one(mesh, dim, name, settings):
    sharded, whole, generator = twins(mesh, dim)
    optimizers = [htmuon.OPTIMIZERS[name](weights, lr=0.02, **settings) for weights in (sharded, whole)]
    for _ in range(5):
        draw_gradients(sharded, whole, mesh, generator)
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(sharded, whole, strict=True):
        # The same kernels on the same numbers: what travels is not rounded.
        torch.testing.assert_close(one.full_tensor(), other, rtol=0, atol=1e-6)


def test_a_sharded_step_does_not_wait(mesh):
    sharded, whole, generator = twins(mesh, 0)
    optimizer = htmuon.HTMuon(sharded, lr=0.02)
    draw_gradients(sharded, whole, mesh, generator)
    optimizer.step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
