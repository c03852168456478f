"""What a rank computes and sends, counted while it does."""

import layout_problem
import pytest

ELEMENTS = 12 * 16 * 8 + 8 * 8 * 24
PRODUCTS = ELEMENTS * 8


@pytest.mark.parametrize(("count", "layout"), [(2, "fsdp"), (4, "fsdp"), (4, "hsdp")])
def test_each_matrix_is_computed_once_and_travels_to_its_owner_and_back(world, count, layout):
    sent, done = zip(*world(count).run(layout_problem.counted, layout), strict=True)
    assert sum(done) == PRODUCTS
    assert max(done) <= 1.15 * PRODUCTS / count
    slices = count // 2 if layout == "hsdp" else count
    # All but the owner's own slice, twice.
    assert sum(sent) == 2 * ELEMENTS * (slices - 1) / slices


def test_replicas_divide_the_work(world):
    _, done = zip(*world(4).run(layout_problem.counted, "ddp"), strict=True)
    assert sum(done) == PRODUCTS
    assert max(done) <= 1.15 * PRODUCTS / 4
