"""What a rank computes and sends, counted while it does."""

import layout_problem
import pytest

pytestmark = pytest.mark.slow

ELEMENTS = 12 * 16 * 8 + 8 * 8 * 24
PRODUCTS = ELEMENTS * 8


@pytest.mark.parametrize(
    ("count", "layout", "travels"),
    [
        # All but the owner's own slice, to the owner and back.
        (2, "fsdp", 2 * 1 / 2),
        (4, "fsdp", 2 * 3 / 4),
        # The same among two, and every update to the other replica.
        (4, "hsdp", 2 * 1 / 2 + 1),
        # Every update to three others.
        (4, "ddp", 3),
    ],
)
def test_each_matrix_is_computed_once_and_travels_no_more_than_it_must(world, count, layout, travels):
    sent, done = zip(*world(count).run(layout_problem.counted, layout), strict=True)
    assert sum(done) == PRODUCTS
    assert max(done) <= 1.15 * PRODUCTS / count
    assert sum(sent) == travels * ELEMENTS
