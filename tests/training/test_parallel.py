"""Runs of several processes, started as users start them, against a run of one."""

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule

from htmuon.cli import main
from htmuon.data.images.image_models import ResNetConfig, ViTConfig
from htmuon.data.text.language_models import LlamaConfig
from htmuon.training.fsdp2 import FullySharded
from htmuon.training.parallel import Parallel, forward_seed, share
from htmuon.training.train import train

pytestmark = pytest.mark.slow

_SIZES = "--batch-size 4 --accumulation 2 --model.num-layers 2 --model.hidden-size 64 --model.intermediate-size 96"
_DATA = "--data.vocab-size 300 --data.sequence-length 32"
_TIMES = "--steps 12 --eval-interval 12 --log-interval 4 --checkpoint-interval 3 --monitor-every 6"
# Processes stack other matrices than one does, which bfloat16 products round otherwise.
SMALL = f"llama-tiny {_SIZES} {_DATA} {_TIMES} --device cpu --optimizer.name htmuon:method=exact".split()
# Sums run in another order, and AdamW makes a step of up to its learning rate, 3e-3, of a gradient that is rounding.
TOLERANCE = {"rtol": 0.0, "atol": 3e-4}


def command(text: Path, out: Path, *more: str, processes: int = 1, restarts: int = 0) -> list[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    launch += ["--max-restarts", str(restarts)]
    start = [*launch, "-m", "htmuon"] if processes > 1 else ["-m", "htmuon"]
    return [sys.executable, *start, "train", *SMALL, "--data", str(text), "--out", str(out), *more]


@contextmanager
def one_killed(words: list[str], out: Path) -> Iterator[subprocess.Popen[str]]:
    """The launcher of processes one of which was killed when the run had its first checkpoint."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        patience = time.monotonic() + 200
        while not list(out.glob("checkpoints/step-*/manifest.json")) and time.monotonic() < patience:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.02)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        try:
            yield process
        finally:
            process.terminate()  # where a test gave up waiting: torchrun ends its processes


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300, check=False)


def read(out: Path) -> tuple[float, dict[str, torch.Tensor]]:
    return json.loads((out / "result.json").read_text())["final_loss"], load_file(out / "model.safetensors")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Twelve documents of a few hundred words."""
    path = tmp_path_factory.mktemp("text") / "words.txt"
    words = ["the", "of", "nation", "people", "state", "congress", "year", "war", "peace", "law"]
    draw = torch.Generator().manual_seed(0)
    numbers = torch.randint(len(words), (12, 300), generator=draw).tolist()
    path.write_text("<|endoftext|>".join(" ".join(words[n] for n in document) for document in numbers))
    return path


@pytest.fixture(scope="module")
def alone(tmp_path_factory, text):
    out = tmp_path_factory.mktemp("alone") / "run"
    done = run(command(text, out))
    assert done.returncode == 0, done.stderr
    return read(out)


def assert_alike(found, expected):
    assert found[0] == pytest.approx(expected[0], abs=1e-4)
    for name, weight in expected[1].items():
        torch.testing.assert_close(found[1][name], weight, **TOLERANCE)


def test_two_replicas_train_as_one_process_does(tmp_path, text, alone):
    done = run(command(text, tmp_path / "run", processes=2))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(", perplexity ") == 1
    assert "FutureWarning" not in done.stderr
    assert_alike(read(tmp_path / "run"), alone)
    assert (tmp_path / "run" / "spectra.jsonl").stat().st_size > 0


def test_sharded_processes_compute_in_bfloat16_on_float32_weights(tmp_path, text, alone):
    words = command(text, tmp_path / "run", "--parallel", "fsdp2", "--precision", "bfloat16", processes=2)
    done = run(words)
    assert done.returncode == 0, done.stderr
    loss, weights = read(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["precision"] == "bfloat16"
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert any((weight != weight.bfloat16()).any() for weight in weights.values())
    # Forward and backward pass round to three digits; the optimizer does not.
    assert loss == pytest.approx(alone[0], abs=0.02)


def test_sharded_processes_one_of_which_is_killed_go_on_as_another_number(tmp_path, text, alone):
    out = tmp_path / "run"
    words = command(text, out, "--parallel", "fsdp2", "--steps", "12", processes=2)
    with one_killed(words, out) as process:
        assert process.wait(timeout=100) != 0
    assert not (out / "result.json").exists()
    done = run(command(text, out, "--resume"))
    assert done.returncode == 0, done.stderr
    assert "resumes at step" in done.stdout
    assert_alike(read(out), alone)


def test_a_run_that_torchrun_restarts_goes_on_without_another_flag(tmp_path, text, alone):
    out = tmp_path / "run"
    with one_killed(command(text, out, processes=2, restarts=1), out) as process:
        told, _ = process.communicate(timeout=200)
    assert process.returncode == 0, told
    assert "resumes at step" in told
    assert_alike(read(out), alone)


def test_each_process_draws_masks_of_its_own():
    class Third(Parallel):
        rank, size = 2, 3

    class Second(Parallel):
        rank, size = 1, 3

    seeds = [[forward_seed(seed, parallel) for parallel in (Parallel(), Second(), Third())] for seed in (5, 6)]
    assert [of_pass[0] for of_pass in seeds] == [5, 6]
    assert len({seed for of_pass in seeds for seed in of_pass}) == 6


def test_shares_of_a_batch_are_weighted_by_their_targets():
    class Half(Parallel):
        size = 2

    inputs, targets = torch.zeros(4, 3), torch.tensor([[1, 2, 3], [1, 2, 3], [1, -100, -100], [-100, -100, -100]])
    shares = []
    for rank in range(2):
        half = Half()
        half.rank = rank
        shares.append(share((inputs, targets), half))
    assert [len(batch[0]) for batch, _ in shares] == [2, 2]
    # Six and one of seven targets, each share's mean weighted for a mean over two.
    assert [float(weight) for _, weight in shares] == pytest.approx([2 * 6 / 7, 2 * 1 / 7])
    # With another batch of twelve targets: six and one of nineteen, for a mean over two processes and two batches.
    both = [(inputs, targets), (inputs, torch.ones(4, 3, dtype=torch.long))]
    for rank, count in enumerate((6, 1)):
        half.rank = rank
        assert float(share(both[0], half, both)[1]) == pytest.approx(4 * count / 19)


def test_a_batch_that_processes_cannot_share_is_refused_before_anything_is_written(tmp_path, config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"a multiple of the number of processes, 2, .* got 5"):
        train(dataclasses.replace(config, batch_size=5), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def one_rank():
    """A process group of this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
def test_sharded_training_refuses_what_needs_whole_parameters(tmp_path, text, monkeypatch, capsys):
    trainer = importlib.import_module("htmuon.training.train")
    monkeypatch.setattr(trainer, "opened", lambda _, device: nullcontext(FullySharded(device)))
    words = command(text, tmp_path / "run", "--parallel", "fsdp2", "--optimizer.name", "adamw")
    assert main(words[words.index("train") :]) == 2
    assert "--parallel fsdp2 needs an optimizer that takes sharded parameters" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()


def network(kind):
    """A tiny network and inputs."""
    if kind == "language":
        config = LlamaConfig(hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2)
        return config.build_model(vocab_size=12, sequence_length=6, seed=0), torch.arange(12).view(2, 6)
    shape = ViTConfig(patch_size=4, hidden_size=16, num_layers=2, num_heads=2, drop_path=0.0)
    config = shape if kind == "vit" else ResNetConfig(depth=18, width=8)
    return config.build_model(classes=3, channels=3, height=8, width=8, seed=0), torch.rand(2, 3, 8, 8)


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize(
    ("kind", "block", "count"), [("language", "layers", 2), ("vit", "blocks", 2), ("resnet", "layer", 8)]
)
def test_every_kind_of_network_is_sharded_block_by_block(kind, block, count):
    model, inputs = network(kind)
    whole = model(inputs)
    sharded = FullySharded(torch.device("cpu")).wrap(network(kind)[0], "float32")
    units = [name for name, module in sharded.named_modules() if isinstance(module, FSDPModule)]
    assert len(units) == 1 + count
    assert all(name.partition(block)[1] for name in units[1:])
    found = sharded(inputs)
    if kind == "language":
        whole, found = whole.logits, found.logits
    assert torch.equal(found, whole)
    found.square().sum().backward()
    whole.square().sum().backward()
    for p, q in zip(sharded.parameters(), model.parameters(), strict=True):
        assert torch.equal(p.grad.full_tensor(), q.grad)
