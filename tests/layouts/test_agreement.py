"""Ranks that do not train the same thing are told so, all of them and soon."""

import layout_problem
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("setting", "rank 0 has momentum=0.95 in group 0, rank 1 has momentum=0.9 in group 0"),
        ("shape", "rank 0 has parameter single of group 0: (9, 9) torch.float32, rank 1 has"),
        ("missing", "rank 0 has parameter short of group 0"),
        (
            "gradient",
            "rank 1 has no gradient for parameter short of group 0. Let each rank use every parameter, or set",
        ),
        ("no gradients", "rank 0 has a gradient for parameter tall_0 of group 0, rank 1 has no gradient for"),
    ],
)
def test_a_rank_that_differs(world, change, words):
    for seconds, error in world(2).run(layout_problem.told_apart, change, rank=1):
        assert words in error
        assert seconds < 10


def test_gradients_that_are_missing_on_one_rank_later(world):
    for seconds, error in world(2).run(layout_problem.gradient_missing_later):
        assert "every rank must have gradients for the same parameters" in error
        assert seconds < 10


def test_the_rank_that_lacks_a_gradient_says_so_where_looking_means_waiting(world):
    told = world(2).run(layout_problem.gradient_missing_where_nobody_looks)
    assert [bool(words) for words in told] == [False, True]
    assert "every rank must have gradients for the same parameters" in told[1]


@pytest.mark.parametrize("layout", layout_problem.LAYOUTS)
def test_a_gradient_that_is_not_finite_on_one_rank_masks_the_step_on_all(world, layout):
    for moved, step, skipped in world(4).run(layout_problem.poisoned, layout):
        assert (moved, step, skipped) == (0.0, 0, 1)


def test_a_copy_has_the_ranks_and_what_was_stored_has_none(world):
    assert world(2).run(layout_problem.copies) == [(True, True)] * 2


def test_an_optimizer_that_was_made_too_early_warns_once(world):
    ranks = world(2)
    for told in ranks.run(layout_problem.told_without_gradients, late=True):
        assert len(told) == 1
        assert "Make the optimizer after fully_shard or parallelize_module" in told[0]
    assert ranks.run(layout_problem.told_without_gradients, late=False) == [[], []]


def test_a_rank_that_is_not_in_the_group_is_told_so(world):
    inside, outside = world(2).run(layout_problem.left_out)
    assert inside == ""
    assert outside.startswith("this rank must be a member of process_group; got GroupMember.NON_GROUP_MEMBER")


def test_sharded_parameters_without_values_are_refused(world):
    for told in world(2).run(layout_problem.without_values):
        assert "got parameter '0.weight' of shape (4, 5) on the meta device. Call model.to_empty" in told
