"""A run on several ranks ends where the run on one device does."""

import layout_problem
import pytest

import htmuon

LAYOUTS = [(2, name) for name in ("ddp", "fsdp", "tensor_parallel")] + [(4, name) for name in layout_problem.LAYOUTS]


@pytest.mark.parametrize(("count", "layout"), LAYOUTS)
@pytest.mark.parametrize("optimizer", htmuon.OPTIMIZERS)
def test_every_optimizer_in_every_layout(world, count, layout, optimizer):
    errors = world(count).run(layout_problem.trained_alike, layout, optimizer, method="eigh")
    # The matrices are assembled to the bit; stacks of other sizes and fused kernels on slices round otherwise.
    assert max(errors) <= 1e-6


@pytest.mark.parametrize(("count", "layout"), LAYOUTS)
@pytest.mark.parametrize("method", ["svd", "streaming", "polynomial"])
def test_every_method_in_every_layout(world, count, layout, method):
    errors = world(count).run(layout_problem.trained_alike, layout, "htmuon", method=method)
    # Products of float32 are summed in another order in another stack.
    assert max(errors) <= (1e-4 if method == "polynomial" else 1e-6)
