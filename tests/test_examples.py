"""The scripts of examples/ run, with few steps, and do what they say."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL = ["--layers", "1", "--width", "32", "--heads", "2", "--context", "32", "--batch", "4", "--checkpoint-every", "3"]


def main_of(name):
    return runpy.run_path(str(EXAMPLES / name))["main"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_the_head_of_a_script_says_how_to_run_it(path):
    assert f"examples/{path.name}" in path.read_text().split('"""')[1]


@pytest.mark.slow
def test_the_drop_in_loop_learns():
    main = main_of("drop_in.py")
    assert main(["--steps", "60"]) < main(["--steps", "1"]) - 0.3


def test_a_resumed_gpt_ends_as_one_that_was_never_stopped(tmp_path):
    main = main_of("nano_gpt.py")
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    loss = main([*SMALL, "--steps", "6", "--out", str(whole)])
    main([*SMALL, "--steps", "6", "--out", str(halves), "--stop-after", "4"])
    assert main([*SMALL, "--steps", "6", "--out", str(halves), "--resume"]) == loss < 5.6
    one, other = (torch.load(folder / "checkpoint.pt", weights_only=True)["model"] for folder in (whole, halves))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_each_step_of_the_gpt_has_a_batch_of_its_own(tmp_path, monkeypatch):
    seen, drawn = [], torch.randint
    monkeypatch.setattr(torch, "randint", lambda *a, **k: seen.append(drawn(*a, **k)) or seen[-1])
    main_of("nano_gpt.py")([*SMALL, "--steps", "3", "--out", str(tmp_path)])
    assert len({tuple(starts.tolist()) for starts in seen}) == 3


def test_the_gpt_reads_a_text_of_the_users(tmp_path):
    text = tmp_path / "mine.txt"
    text.write_text("<|endoftext|>".join(f"Document {n}. " + "All work and no play. " * 20 for n in range(6)))
    main = main_of("nano_gpt.py")
    assert main([*SMALL, "--text", str(text), "--steps", "2", "--out", str(tmp_path / "run")]) < 6


def test_the_monitor_draws_its_picture(tmp_path):
    picture = main_of("monitor.py")(["--steps", "4", "--every", "2", "--out", str(tmp_path)])
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_fsdp2_trains_two_ranks():
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = [str(EXAMPLES / "fsdp2.py"), "--steps", "8", "--width", "32"]
    done = subprocess.run([*words, *script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", done.stdout)]
    assert len(losses) == 8
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_a_resumed_trainer_ends_as_one_that_was_never_stopped(tmp_path):
    pytest.importorskip("accelerate")
    main, words = main_of("transformers_trainer.py"), ["--steps", "20", "--save-every", "10"]
    whole = main([*words, "--out", str(tmp_path)])
    records = (tmp_path / "spectra.jsonl").read_text()
    shutil.rmtree(tmp_path / "checkpoint-20")
    resumed = main([*words, "--out", str(tmp_path), "--resume"])
    first, last = ([row["loss"] for row in logs if "loss" in row] for logs in (whole, resumed))
    assert first == last
    assert first[1] < first[0] - 0.5
    assert (tmp_path / "spectra.jsonl").read_text() == records


@pytest.mark.slow
def test_a_loop_of_accelerate_learns(tmp_path):
    pytest.importorskip("accelerate")
    # accelerate keeps its settings for a whole process.
    script = [sys.executable, str(EXAMPLES / "accelerate_loop.py"), "--steps", "64", "--out", str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", done.stdout)]
    assert losses[-1] < losses[0] - 0.2
    assert (tmp_path / "optimizer.bin").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec", "ignore:The 'train_dataloader' does not have")
def test_the_trainer_of_lightning_learns(tmp_path):
    pytest.importorskip("lightning")
    assert main_of("lightning_trainer.py")(["--epochs", "1", "--search-steps", "20", "--out", str(tmp_path)]) < 1
    assert next(tmp_path.rglob("metrics.csv")).read_text().count("lr-HTMuon/pg") == 3


@pytest.mark.slow
def test_a_transformer_of_timm_learns():
    pytest.importorskip("timm")
    main = main_of("timm_layer_decay.py")
    assert main(["--images", "500", "--epochs", "3"]) < main(["--images", "500", "--epochs", "1"]) - 0.2


@pytest.mark.slow
def test_a_chain_of_optax_learns():
    pytest.importorskip("jax")
    pytest.importorskip("optax")
    main = main_of("optax_chain.py")
    assert main(["--steps", "60"]) < main(["--steps", "1"]) - 0.3
