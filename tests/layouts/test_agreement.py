"""Ranks that do not train the same thing are told so, all of them and soon."""

import layout_problem
import pytest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("setting", "rank 0 has momentum=0.95 in group 0, rank 1 has momentum=0.9 in group 0"),
        ("shape", "rank 0 has parameter single of group 0: (9, 9) torch.float32, rank 1 has"),
        ("missing", "rank 0 has parameter short of group 0"),
    ],
)
def test_a_rank_that_differs(world, change, words):
    for seconds, error in world(2).run(layout_problem.told_apart, change, rank=1):
        assert words in error
        assert seconds < 10
