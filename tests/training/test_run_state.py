import pytest
import torch

from htmuon._files import MANIFEST
from htmuon.training.run_state import RunState, load_checkpoint, save_checkpoint

CPU = torch.device("cpu")


def make_checkpoint(step, model=None):
    model = model or {"w": torch.full((2, 3), float(step))}
    optimizer = {"state": {0: {"m": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    return RunState(step=step, model=model, optimizer=optimizer, progress={"losses": [0.1 + 0.2]})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_everything_in_a_state_dict_survives_with_its_type(tmp_path):
    shared = torch.arange(6.0)
    optimizer = {
        "state": {0: {"m": torch.randn(3, 2).bfloat16(), "step": torch.tensor(3)}, 7: {"scalar": 1}},
        "param_groups": [
            {
                "lr": 0.1 + 0.2,
                "betas": (0.9, 0.95),
                "fused": None,
                "nesterov": True,
                "name": "matrices",
                "schedule": {"name": "interval", "every": 5},
                "count": torch.tensor(2**40),
                "params": [0, 7],
                "nested": ([1, (2,)], float("inf")),
            }
        ],
    }
    model = {"a": shared[:4].view(2, 2).T, "b": shared, "c": torch.randn(2)}
    save_checkpoint(tmp_path / "c", RunState(step=4, model=model, optimizer=optimizer, progress={"x": [1.5]}))
    loaded = load_checkpoint(tmp_path / "c", CPU, pytest.fail)
    assert (loaded.step, loaded.progress) == (4, {"x": [1.5]})

    def same(a, b):
        assert type(a) is type(b)
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)
        elif isinstance(a, dict):
            assert list(a) == list(b)
            for key in a:
                same(a[key], b[key])
        elif isinstance(a, list | tuple):
            assert len(a) == len(b)
            for x, y in zip(a, b, strict=True):
                same(x, y)
        else:
            assert a == b

    same(loaded.optimizer, optimizer)
    same(dict(sorted(loaded.model.items())), model)


def test_the_last_two_are_kept(tmp_path):
    for step in (5, 10, 15, 20):
        save_checkpoint(tmp_path / "c", make_checkpoint(step))
    assert names(tmp_path / "c") == ["step-00000015", "step-00000020"]
    assert load_checkpoint(tmp_path / "c", CPU, pytest.fail).step == 20


def truncate(folder):
    path = folder / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def flip_a_bit(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


DAMAGES = [
    truncate,
    flip_a_bit,
    lambda folder: (folder / "state.json").write_text("{"),
    lambda folder: (folder / "state.json").unlink(),
    lambda folder: (folder / MANIFEST).unlink(),
    lambda folder: (folder / MANIFEST).write_text("[]"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(tmp_path, damage):
    folder, messages = tmp_path / "c", []
    for step in (5, 10):
        save_checkpoint(folder, make_checkpoint(step))
    damage(folder / "step-00000010")
    loaded = load_checkpoint(folder, CPU, messages.append)
    assert loaded.step == 5
    assert torch.equal(loaded.model["w"], torch.full((2, 3), 5.0))
    assert len(messages) == 1
    assert "step-00000010" in messages[0]
    save_checkpoint(folder, make_checkpoint(10))  # the damaged one is not in the way
    assert load_checkpoint(folder, CPU, pytest.fail).step == 10


def test_no_good_checkpoint_is_a_start_from_the_beginning(tmp_path):
    assert load_checkpoint(tmp_path / "none", CPU, pytest.fail) is None
    messages = []
    save_checkpoint(tmp_path / "c", make_checkpoint(5))
    truncate(tmp_path / "c" / "step-00000005")
    assert load_checkpoint(tmp_path / "c", CPU, messages.append) is None
    assert len(messages) == 1


def test_remains_of_a_killed_write_are_removed(tmp_path):
    save_checkpoint(tmp_path / "c", make_checkpoint(5))
    (tmp_path / "c" / ".step-00000010.abc").mkdir()
    (tmp_path / "c" / ".step-00000010.abc" / "model.safetensors").write_bytes(b"half")
    assert load_checkpoint(tmp_path / "c", CPU, pytest.fail).step == 5
    assert names(tmp_path / "c") == ["step-00000005"]


def test_a_write_that_fails_leaves_the_checkpoints_as_they_were(tmp_path):
    save_checkpoint(tmp_path / "c", make_checkpoint(5))
    with pytest.raises(AssertionError, match="a state_dict with a set"):
        save_checkpoint(tmp_path / "c", RunState(step=10, model={}, optimizer={"bad": set()}, progress={}))
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_checkpoint(tmp_path / "c", RunState(step=10, model={}, optimizer={}, progress={"bad": set()}))
    assert names(tmp_path / "c") == ["step-00000005"]
