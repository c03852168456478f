"""A run on several ranks ends where the run on one device does."""

import layout_problem
import pytest
import torch

import htmuon
from htmuon.linalg import METHODS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("layout", layout_problem.LAYOUTS)
@pytest.mark.parametrize("optimizer", htmuon.OPTIMIZERS)
def test_every_optimizer_in_every_layout(world, layout, optimizer):
    errors = world(4).run(layout_problem.trained_alike, layout, optimizer, method="eigh")
    # The matrices are assembled to the bit; stacks of other sizes and fused kernels on slices round otherwise.
    assert max(errors) <= 1e-6


@pytest.mark.parametrize("layout", layout_problem.LAYOUTS)
def test_rates_that_matrices_find_in_every_layout(world, layout):
    rule = htmuon.optim.Alignment(speed=1.0, averaging=0.5)
    errors = world(4).run(layout_problem.trained_alike, layout, "htmuon", method="eigh", rate_rule=rule)
    # As above, and sums of squares are added up in another order: 1e-6 of a factor, times all steps.
    assert max(errors) <= 5e-6


@pytest.mark.parametrize("weight_update", ["decoupled", "hyperball"])
def test_slices_of_unequal_length_take_the_same_sums_on_every_rank(world, weight_update):
    # Of 13 x 5, two ranks hold 35 and 30 elements: what is worked on one by one, and so sends more often, must not
    # depend on which.
    rule = htmuon.optim.Alignment(speed=1.0, averaging=0.5)
    counts = []
    for small in (30, 32, 33, 35, 36):
        settings = {"rate_rule": rule, "weight_update": weight_update}
        results = world(2).run(layout_problem.sums_over_ranks, "fsdp", small, **settings)
        assert max(error for error, _ in results) <= 5e-6, small  # as above
        [count] = {calls for _, calls in results}
        counts.append(count)
    # Norms are sums over the ranks: one for each piece.
    assert (counts[0] > counts[-1]) == (weight_update == "hyperball")


@pytest.mark.parametrize("layout", layout_problem.LAYOUTS)
def test_powers_that_matrices_find_in_every_layout(world, layout):
    settings = {"rate_rule": htmuon.optim.Alignment(speed=1.0, averaging=0.5), "normalization": "rms"}
    rule = htmuon.optim.PowerAlignment(speed=1.0, averaging=0.5)
    errors = world(4).run(layout_problem.trained_alike, layout, "htmuon", method="eigh", power_rule=rule, **settings)
    # As above.
    assert max(errors) <= 5e-6


@pytest.mark.parametrize("layout", layout_problem.LAYOUTS)
def test_powers_that_are_held_in_every_layout(world, layout):
    # As above.
    assert max(world(4).run(layout_problem.trained_with_held_powers, layout)) <= 5e-6


@pytest.mark.parametrize("layout", layout_problem.LAYOUTS)
def test_momentum_of_two_averages_and_weights_that_keep_their_norm_in_every_layout(world, layout):
    settings = {"method": "eigh", "momentum_rule": "two_averages", "weight_update": "hyperball"}
    errors = world(4).run(layout_problem.trained_alike, layout, "htmuon", **settings)
    # Norms are added up in another order, here and in every step.
    assert max(errors) <= 5e-6


@pytest.mark.parametrize("layout", ["ddp", "fsdp", "tensor_parallel"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_two_ranks(world, layout, method):
    errors = world(2).run(layout_problem.trained_alike, layout, "htmuon", method=method)
    # Products are summed in another order in another stack: of float32, and of bfloat16 times a learning rate of 0.02.
    assert max(errors) <= {"polynomial": 1e-4, "quintic": 2e-3}.get(method, 1e-6)


def test_slices_of_unequal_length_along_two_axes(world):
    ranks = world(6)
    for layout in layout_problem.UNEVEN:
        errors = ranks.run(layout_problem.trained_alike, layout, "htnormuon", steps=4, method="eigh")
        assert max(errors) <= 1e-6, layout


@pytest.mark.parametrize("layout", ["ddp", "fsdp", "tensor_parallel"])
def test_bfloat16_parameters(world, layout):
    errors = world(2).run(
        layout_problem.trained_alike, layout, "htnormuon", steps=5, dtype=torch.bfloat16, method="eigh"
    )
    # What float32 rounds otherwise can end on the other side of a rounding to bfloat16, of weights below 1.
    assert max(errors) <= 2**-8


@pytest.mark.parametrize("layout", ["fsdp", "tensor_parallel"])
def test_parameters_that_take_the_place_of_others_in_a_group(world, layout):
    assert max(world(2).run(layout_problem.wrapped_late, layout)) <= 1e-6


@pytest.mark.parametrize("layout", ["ddp", "fsdp"])
def test_brackets_compile_where_their_owners_are(world, layout):
    for error, forms in world(2).run(layout_problem.compiled_alike, layout):
        # Of float32, as on one device: fused sums run in another order.
        assert error <= 2e-5
        assert forms == 1
