"""A fused weight is updated as its parts would be, each by itself."""

import io

import pytest
import torch

import htmuon
from htmuon import Interleaved

SPLITS = {"qkv": 3, "gqa": (16, 8, 8), "odd": (5, 7, 20)}


def step_both(name, split, sizes, *, steps=3, transposed=False, **settings):
    """A fused weight and separate ones after the same steps, as rows `[out, in]`."""
    draw = torch.Generator().manual_seed(0)
    whole = torch.randn(sum(sizes), 12, generator=draw)
    fused = torch.nn.Parameter(whole.T.clone() if transposed else whole.clone())
    parts = [torch.nn.Parameter(part.clone()) for part in whole.split(sizes)]
    group = {"params": [fused], "use_muon": True, "split": split}
    if transposed:
        group["matrix_view"] = "transposed"
    optimizers = [htmuon.OPTIMIZERS[name]([group], **settings), htmuon.OPTIMIZERS[name](parts, **settings)]
    for _ in range(steps):
        gradient = torch.randn(whole.shape, generator=draw)
        fused.grad = gradient.T.clone() if transposed else gradient.clone()
        for part, piece in zip(parts, gradient.split(sizes), strict=True):
            part.grad = piece.clone()
        for optimizer in optimizers:
            optimizer.step()
    return (fused.T if transposed else fused).detach(), torch.cat([part.detach() for part in parts]), optimizers


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("name", htmuon.OPTIMIZERS)
def test_every_optimizer_updates_parts_as_matrices_of_their_own(name, split):
    sizes = (10,) * 3 if split == 3 else split
    fused, separate, _ = step_both(name, split, sizes, method="eigh")
    # Batches of another size are decomposed one by one all the same; sums run in another order.
    torch.testing.assert_close(fused, separate, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["svd", "streaming", "polynomial"])
def test_every_method_takes_parts(method):
    fused, separate, _ = step_both("htnormuon", (16, 8, 8), (16, 8, 8), method=method)
    # Streaming and products are float32 in batches of other sizes.
    torch.testing.assert_close(fused, separate, rtol=1e-3, atol=1e-5)


def test_rows_are_outputs_whatever_the_module_stores():
    fused, separate, _ = step_both("htmuon", (16, 8, 8), (16, 8, 8), transposed=True)
    torch.testing.assert_close(fused, separate, rtol=1e-5, atol=1e-6)


def test_parts_survive_a_checkpoint():
    fused, _, (optimizer, _) = step_both("htnormuon", (16, 8, 8), (16, 8, 8), method="streaming")
    state = optimizer.state_dict()
    assert sorted(state["state"][0]) == [
        "momentum_buffer",
        "right_basis.0",
        "right_basis.1",
        "second_momentum_buffer.0",
        "second_momentum_buffer.1",
    ]
    again = torch.nn.Parameter(fused.clone())
    other = htmuon.HTNorMuon([{"params": [again], "use_muon": True, "split": (16, 8, 8)}], method="streaming")
    other.load_state_dict(state)
    twin = optimizer.param_groups[0]["params"][0]
    for p, o in ((twin, optimizer), (again, other)):
        p.grad = torch.ones_like(p)
        o.step()
    assert torch.equal(twin, again)


# Rows that belong together and do not stand together


INTERLEAVED = {
    "qkv by head": Interleaved(4, (3, 3, 3)),
    "keys and values by head": Interleaved(3, (4, 2)),
    "q, k, v and gate of unequal size": Interleaved(3, (4, 2, 2, 1)),
    "gate and up by row": Interleaved(9, (1, 1)),
    "one head": Interleaved(1, (6, 4, 4)),
}


def rows_of(split):
    """Which rows of the matrix are those of each part, counted one by one."""
    rows = [[] for _ in split.sizes]
    number = 0
    for _ in range(split.heads):
        for part, size in enumerate(split.sizes):
            rows[part] += range(number, number + size)
            number += size
    return rows


# How a matrix [out, in], of which `in` is 12 = 3 x 2 x 2, is stored, and back.
STORED = {
    "linear": (lambda m: m, lambda w: w),
    "transposed": (lambda m: m.T.contiguous(), lambda w: w.T),
    "conv": (lambda m: m.reshape(-1, 3, 2, 2), lambda w: w.reshape(-1, 12)),
    "conv_transpose": (
        lambda m: m.reshape(-1, 3, 2, 2).transpose(0, 1).contiguous(),
        lambda w: w.transpose(0, 1).reshape(-1, 12),
    ),
}


def step_interleaved(name, split, *, view="linear", dtype=torch.float32, resting=None, given=None, **settings):
    """A weight of interleaved parts and its parts as separate ones after three steps, as rows `[out, in]`.

    Args:
        resting: a part that gets no gradient in the second step.
        given: the split that the optimizer of the whole gets in place of `split`.
    """
    draw = torch.Generator().manual_seed(0)
    store, rows = STORED[view]
    whole = torch.randn(split.heads * sum(split.sizes), 12, generator=draw).to(dtype)
    places = rows_of(split)
    fused = torch.nn.Parameter(store(whole.clone()))
    parts = [torch.nn.Parameter(whole[at].clone()) for at in places]
    make = htmuon.OPTIMIZERS[name]
    optimizer = make([{"params": [fused], "matrix_view": view, "split": given or split}], lr=0.05, **settings)
    alone = make(parts, lr=0.05, **settings)
    for step in range(3):
        gradient = torch.randn(whole.shape, generator=draw).to(dtype)
        for number, at in enumerate(places):
            rests = number == resting and step == 1
            gradient[at] *= 0.0 if rests else 10.0**number
            parts[number].grad = None if rests else gradient[at].clone()
        fused.grad = store(gradient)
        optimizer.step()
        alone.step()
    expected = torch.empty_like(whole)
    for at, part in zip(places, parts, strict=True):
        expected[at] = part.detach()
    return rows(fused.detach()), expected, optimizer


@pytest.mark.parametrize("split", INTERLEAVED.values(), ids=INTERLEAVED)
@pytest.mark.parametrize("name", htmuon.OPTIMIZERS)
def test_every_optimizer_gathers_the_rows_of_a_part(name, split):
    fused, separate, _ = step_interleaved(name, split, method="eigh")
    # Batches of another size are decomposed one by one all the same; sums run in another order.
    torch.testing.assert_close(fused, separate, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("view", STORED)
@pytest.mark.parametrize("name", ["muon", "htnormuon", "htadamuon"])
def test_rows_are_gathered_whatever_the_module_stores(name, view):
    fused, separate, _ = step_interleaved(name, Interleaved(3, (4, 2, 2, 1)), view=view, method="eigh")
    torch.testing.assert_close(fused, separate, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["svd", "streaming", "polynomial"])
def test_every_method_takes_interleaved_parts(method):
    fused, separate, _ = step_interleaved("htnormuon", Interleaved(3, (4, 2, 2, 1)), method=method)
    # Streaming and products are float32 in batches of other sizes.
    torch.testing.assert_close(fused, separate, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("resting", range(4))
@pytest.mark.parametrize("name", ["muon", "htnormuon", "htadamuon"])
def test_an_interleaved_part_rests_like_a_parameter_without_a_gradient(name, resting):
    fused, separate, _ = step_interleaved(name, Interleaved(3, (4, 2, 2, 1)), resting=resting, method="eigh")
    torch.testing.assert_close(fused, separate, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["htmuon", "htnormuon"])
def test_interleaved_parts_of_bfloat16(name):
    fused, separate, _ = step_interleaved(name, Interleaved(3, (4, 2, 2, 1)), dtype=torch.bfloat16, method="eigh")
    # What float32 rounds otherwise can end on the other side of a rounding to bfloat16, of weights below 4.
    torch.testing.assert_close(fused, separate, rtol=0, atol=2**-6)


def test_stacked_matrices_of_interleaved_parts():
    split = Interleaved(5, (1, 1))
    draw = torch.Generator().manual_seed(0)
    start, gradient = torch.randn(2, 3, 10, 6, generator=draw)
    experts = torch.nn.Parameter(start.clone())
    parts = [[torch.nn.Parameter(start[e, first::2].clone()) for first in (0, 1)] for e in range(3)]
    optimizer = htmuon.HTNorMuon([{"params": [experts], "split": split}], method="eigh")
    alone = htmuon.HTNorMuon([part for pair in parts for part in pair], method="eigh")
    for _ in range(3):
        experts.grad = gradient.clone()
        for e, pair in enumerate(parts):
            for first, part in enumerate(pair):
                part.grad = gradient[e, first::2].clone()
        optimizer.step()
        alone.step()
    for e, pair in enumerate(parts):
        for first, part in enumerate(pair):
            torch.testing.assert_close(experts[e, first::2], part, rtol=1e-5, atol=1e-6)


def test_equal_parts_of_interleaved_rows_are_other_matrices():
    # A split in three thirds mixes q, k and v of different heads: the mistake that interleaved parts are for.
    split = Interleaved(4, (3, 3, 3))
    mixed, separate, _ = step_interleaved("htmuon", split, given=3, method="eigh")
    right, *_ = step_interleaved("htmuon", split, method="eigh")
    assert (mixed - separate).norm() > 1000 * (right - separate).norm()


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("method", ["eigh", "streaming"])
def test_interleaved_parts_survive_a_checkpoint(method):
    split = Interleaved(3, (4, 2, 2, 1))
    fused, _, optimizer = step_interleaved("htnormuon", split, method=method)
    saved = through_a_file(optimizer.state_dict())
    assert saved["param_groups"][0]["split"] == {"heads": 3, "sizes": [4, 2, 2, 1]}
    assert [saved["state"][0][f"second_momentum_buffer.{run}"].shape[-3:-1] for run in range(3)] == [
        (1, 12),
        (2, 6),
        (1, 3),
    ]
    again = torch.nn.Parameter(fused.clone())
    other = htmuon.HTNorMuon([{"params": [again], "split": split}], method=method)
    other.load_state_dict(saved)
    twin = optimizer.param_groups[0]["params"][0]
    for p, o in ((twin, optimizer), (again, other)):
        p.grad = torch.arange(p.numel(), dtype=p.dtype).view_as(p).cos()
        o.step()
    assert torch.equal(twin, again)
    assert f"split: {saved['param_groups'][0]['split']}" in repr(other)


def test_interleaved_parts_may_be_given_as_they_are_stored():
    stored = {"heads": torch.tensor(3), "sizes": [4, 2, 2, torch.tensor(1)]}
    fused, separate, optimizer = step_interleaved("htmuon", Interleaved(3, (4, 2, 2, 1)), given=stored, method="eigh")
    torch.testing.assert_close(fused, separate, rtol=1e-5, atol=1e-6)
    assert optimizer.param_groups[0]["split"] == {"heads": 3, "sizes": [4, 2, 2, 1]}


def test_an_edit_inside_of_a_stored_split_is_checked():
    _, _, optimizer = step_interleaved("htmuon", Interleaved(3, (4, 2, 2, 1)))
    optimizer.param_groups[0]["split"]["heads"] = 4
    with pytest.raises(
        ValueError, match=r"a parameter of shape \(27, 12\): split must have as many rows as the matrix"
    ):
        optimizer.step()


def test_interleaved_parts_by_pattern():
    model = torch.nn.ModuleDict({"qkv": torch.nn.Linear(8, 24), "up": torch.nn.Linear(8, 8)})
    for given in (Interleaved(4, (4, 1, 1)), {"heads": 4, "sizes": [4, 1, 1]}):
        routing = htmuon.route(model, split={"qkv.weight": given})
        assert [route.split for route in routing.routes if route.name == "qkv.weight"] == [Interleaved(4, (4, 1, 1))]
        assert "1x16x8 + 2x4x8" in str(routing)
        [group, *_] = htmuon.HTMuon(htmuon.param_groups(model, split={"qkv.weight": given})).param_groups
        assert group["split"] == {"heads": 4, "sizes": [4, 1, 1]}


@pytest.mark.parametrize(
    ("heads", "sizes", "error", "words"),
    [
        (0, (4, 4), ValueError, "interleaved parts must have 1 or more heads.*got heads=0"),
        (2, (4, 0), ValueError, "1 or more rows in each; got heads=2"),
        (2.0, (4, 4), TypeError, "interleaved parts must have a whole number of heads.*got heads=2.0"),
        (True, (4, 4), TypeError, "whole number of heads"),
        (2, 4, TypeError, "a tuple of sizes; got heads=2, sizes=4"),
        (2, (), TypeError, r"a tuple of sizes; got heads=2, sizes=\(\)"),
        (2, (4, 4.0), TypeError, "a tuple of sizes"),
    ],
)
def test_interleaved_parts_that_are_none(heads, sizes, error, words):
    with pytest.raises(error, match=words):
        Interleaved(heads, sizes)
    stored = {"heads": heads, "sizes": sizes}
    with pytest.raises(error, match=words):
        htmuon.HTMuon([{"params": [torch.zeros(8, 4, requires_grad=True)], "split": stored}])


@pytest.mark.parametrize(
    ("split", "error", "words"),
    [
        (Interleaved(2, (4, 4)), ValueError, r"the matrix, which has 24; got Interleaved\(.* is 16\. Give the rows"),
        (Interleaved(4, (4, 4)), ValueError, "sizes is 32"),
        ({"heads": 2}, TypeError, "split must be None.*got {'heads': 2}"),
        ({"heads": 2, "sizes": [4, 4], "dim": 0}, TypeError, "split must be None"),
    ],
)
def test_interleaved_parts_of_another_matrix(split, error, words):
    with pytest.raises(error, match=words):
        htmuon.HTMuon([{"params": [torch.zeros(24, 4, requires_grad=True)], "split": split}])
    with pytest.raises(error, match=words):
        htmuon.route(torch.nn.ModuleDict({"qkv": torch.nn.Linear(4, 24)}), split={"qkv.weight": split})


def test_rules_by_pattern():
    model = torch.nn.ModuleDict(
        {"qkv": torch.nn.Linear(8, 24), "up": torch.nn.Linear(8, 8), "head": torch.nn.Linear(8, 3)}
    )
    groups = htmuon.param_groups(model, split={"qkv.weight": 3})
    assert [([name for name, _ in g["params"]], g.get("split")) for g in groups if g["use_muon"]] == [
        (["qkv.weight"], 3),
        (["up.weight"], None),
    ]
    assert "3x8x8" in str(htmuon.route(model, split={"qkv.weight": 3}))
    assert "1x16x8 + 2x4x8" in str(htmuon.route(model, split={"qkv.weight": [16, 4, 4]}))


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"qkv.weight": 5}, "split pattern 'qkv.weight', parameter 'qkv.weight': split must be a number that divides"),
        ({"qkv.weight": (8, 8)}, "whose sum they are; got"),
        ({"head.*": 3}, "takes AdamW .output head.*Leave it out"),
        ({"qkv.weight": 0}, "split must be a number that divides"),
        ({"qkv.weight": 3, "q*.weight": 3}, "matches 2 split patterns"),
    ],
)
def test_bad_rules(split, words):
    model = torch.nn.ModuleDict({"qkv": torch.nn.Linear(8, 24), "head": torch.nn.Linear(8, 3)})
    with pytest.raises(ValueError, match=words):
        htmuon.param_groups(model, split=split)


@pytest.mark.parametrize("split", ["qkv.weight", {"qkv.weight": 3.0}, {"qkv.weight": "3"}])
def test_rules_of_a_wrong_type(split):
    with pytest.raises(TypeError, match=r"split must map patterns|parts must be a number of equal ones"):
        htmuon.param_groups(torch.nn.ModuleDict({"qkv": torch.nn.Linear(8, 24)}), split=split)


def test_parts_of_a_group_are_checked():
    with pytest.raises(ValueError, match=r"a parameter of shape \(6, 4\): split must be"):
        htmuon.HTMuon([{"params": [torch.zeros(6, 4, requires_grad=True)], "split": 4}])
    with pytest.raises(TypeError, match="split must be None, a number of equal parts or a list of sizes"):
        htmuon.HTMuon([{"params": [torch.zeros(6, 4, requires_grad=True)], "split": "three"}])
