"""Matrices of checkpoints on disk: what is listed, what is read, and what is refused."""

import json
import pickle
import struct
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from stored_models import heavy, write, write_shards

from htmuon.checkpoints.reading import Checkpoint, CheckpointError


def shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    return {matrix.name: matrix.shape for matrix in checkpoint.matrices}


@pytest.mark.parametrize(
    ("name", "shape", "matrices"),
    [
        ("fc.weight", (6, 4), {"fc.weight": (6, 4)}),
        ("conv.weight", (8, 3, 5, 5), {"conv.weight": (8, 75)}),
        ("video.weight", (8, 3, 2, 5, 5), {"video.weight": (8, 150)}),
        ("encoder.conv1.weight", (6, 4, 3), {"encoder.conv1.weight": (6, 12)}),
        ("mixer.weight", (6, 4, 3), {"mixer.weight": (6, 12)}),
        ("moe.experts.gate_up", (3, 4, 5), {f"moe.experts.gate_up[{i}]": (4, 5) for i in range(3)}),
        ("stacked", (2, 20, 30), {"stacked[0]": (20, 30), "stacked[1]": (20, 30)}),
        ("pos_embed", (1, 20, 30), {"pos_embed": (20, 30)}),
        ("cls_token", (1, 1, 30), {"cls_token": (1, 30)}),
        ("bias", (7,), {}),
        ("scale", (), {}),
        ("nothing", (0, 5), {}),
    ],
)
def test_a_tensor_is_one_matrix_or_several_or_none(tmp_path, name, shape, matrices):
    tensor = torch.randn(shape)
    checkpoint = Checkpoint([write(tmp_path / "x.safetensors", {name: tensor})])
    assert shapes(checkpoint) == matrices
    assert checkpoint.skipped == (not matrices)
    read = torch.cat([checkpoint.read(matrix).flatten() for matrix in checkpoint.matrices] or [torch.empty(0)])
    assert torch.equal(read, tensor.flatten() if matrices else torch.empty(0))


def test_numbers_in_names_are_sorted_by_value(tmp_path):
    names = ["layers.10.w", "layers.2.w", "layers.2.experts[10]", "a.w"]
    checkpoint = Checkpoint([write(tmp_path / "x.safetensors", {name: torch.ones(2, 2) for name in names})])
    assert list(shapes(checkpoint)) == ["a.w", "layers.2.experts[10]", "layers.2.w", "layers.10.w"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_matrix_is_read_in_its_own_dtype_and_with_memory_of_its_own(tmp_path, dtype):
    stack = torch.randn(3, 20, 30).to(dtype)
    checkpoint = Checkpoint([write(tmp_path / "x.safetensors", {"experts": stack})])
    second = checkpoint.read(checkpoint.matrices[1])
    assert second.dtype == dtype
    assert torch.equal(second, stack[1])
    assert second.untyped_storage().nbytes() == second.nbytes


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn, torch.bool])
def test_numbers_that_are_no_weights_are_listed_as_such(tmp_path, dtype):
    checkpoint = Checkpoint([write(tmp_path / "x.safetensors", {"q": torch.zeros(4, 4, dtype=dtype)})])
    assert [matrix.floating for matrix in checkpoint.matrices] == [False]


def test_an_integer_table_of_one_row_is_no_matrix(tmp_path):
    tensors = {"position_ids": torch.arange(9)[None], "w": torch.ones(2, 2)}
    checkpoint = Checkpoint([write(tmp_path / "x.safetensors", tensors)])
    assert list(shapes(checkpoint)) == ["w"]


def test_files_with_the_same_tensor_are_not_one_checkpoint(tmp_path):
    files = [write(tmp_path / f"{name}.safetensors", {"w": torch.ones(2, 2)}) for name in "ab"]
    with pytest.raises(CheckpointError, match=r"w is in a\.safetensors and in b\.safetensors"):
        Checkpoint(files)


def whole() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (whole()[:-10], "damaged or cut short"),
        (whole()[:30], "damaged or cut short"),
        (whole() + b"more", "damaged or cut short"),
        (b"", "damaged or cut short"),
        (b"<html>not found</html>", "damaged or cut short"),
        (struct.pack("<Q", 4) + b"{}}}", "damaged or cut short"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
    ],
)
def test_a_damaged_safetensors_file_is_one_error(tmp_path, content, message):
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint([file])


def test_the_damage_above_is_damage(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(whole())
    assert shapes(Checkpoint([file])) == {"w": (4, 4)}


@pytest.mark.parametrize(
    "content",
    [
        {"w": heavy(12, 10), "b": torch.ones(3)},
        OrderedDict(w=heavy(12, 10)),
        {"state_dict": {"w": heavy(12, 10)}, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(9, 9)}}}},
        {"model": {"w": heavy(12, 10)}, "epoch": 3},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_torch_gives_its_weights(tmp_path, content, zipped):
    file = tmp_path / "x.pt"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    checkpoint = Checkpoint([file], allow_pickle=True)
    assert shapes(checkpoint) == {"w": (12, 10)}
    assert torch.equal(checkpoint.read(checkpoint.matrices[0]), heavy(12, 10))


def test_nested_tensors_have_dotted_names(tmp_path):
    torch.save({"net": [{"w": torch.ones(2, 2)}, torch.ones(3, 2)]}, tmp_path / "x.pth")
    assert shapes(Checkpoint([tmp_path / "x.pth"], allow_pickle=True)) == {"net.0.w": (2, 2), "net.1": (3, 2)}


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("code in the pickle was run",))


@pytest.mark.parametrize("allow", [True, False])
def test_no_code_in_a_pickle_is_ever_run(tmp_path, allow):
    file = tmp_path / "x.pt"
    file.write_bytes(pickle.dumps({"w": Trap()}))
    with pytest.raises(CheckpointError, match="weights_only=True" if allow else "--allow-pickle"):
        Checkpoint([file], allow_pickle=allow)


@pytest.mark.parametrize("size", [0, 100, 700])
def test_a_damaged_pickle_is_one_error(tmp_path, size):
    file = tmp_path / "x.bin"
    torch.save({"w": heavy(12, 10)}, file)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="must be a whole pickle of torch"):
        Checkpoint([file], allow_pickle=True)


def test_a_module_is_not_unpickled(tmp_path):
    torch.save(torch.nn.Linear(3, 3), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="state_dict"):
        Checkpoint([tmp_path / "x.pt"], allow_pickle=True)


def test_a_sparse_tensor_is_no_weight(tmp_path):
    torch.save({"w": torch.eye(20).to_sparse()}, tmp_path / "x.pt")
    (matrix,) = Checkpoint([tmp_path / "x.pt"], allow_pickle=True).matrices
    assert (matrix.dtype, matrix.floating) == ("sparse_coo", False)


def test_a_container_that_contains_itself_ends(tmp_path):
    content = {"w": torch.ones(2, 2)}
    content["self"] = content
    torch.save(content, tmp_path / "x.pt")
    assert "w" in shapes(Checkpoint([tmp_path / "x.pt"], allow_pickle=True))


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"ends in \.safetensors, .*; got x\.gguf"):
        Checkpoint([tmp_path / "x.gguf"])


PEAK = """
import resource, sys
from pathlib import Path
from htmuon.checkpoints import AnalyzeConfig, analyze
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
first, all_of_it = map(Path, sys.argv[1:])
analyze(AnalyzeConfig(path=first))
before = peak()
analyze(AnalyzeConfig(path=all_of_it))
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_checkpoint(tmp_path):
    """40 matrices of 3 MB need no more memory than one of the stacks in which they are measured."""
    tensors = {f"w.{i}": torch.randn(6000, 128).float() for i in range(40)}
    write_shards(tmp_path / "all", tensors, count=4)
    one = write(tmp_path / "one.safetensors", dict(list(tensors.items())[:10]))
    words = [sys.executable, "-c", PEAK, str(one), str(tmp_path / "all")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 40e6
