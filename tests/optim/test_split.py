"""A fused weight is updated as its parts would be, each by itself."""

import pytest
import torch

import htmuon

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
