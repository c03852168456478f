"""Every recipe of the paper's language models, by name through the command line, on files as the hub has them."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from hub_stub import C4_CARD, hub
from text_streams import write_c4, write_openwebtext, write_tokenizer

from htmuon.cli import main
from htmuon.compare.compare_config import CompareConfig
from htmuon.compare.run_record import RunRecord
from htmuon.compare.tuned_rates import load_tuned
from htmuon.data.text.language_models import GPT2Config
from htmuon.data.text.text_config import TextStreamConfig
from htmuon.recipes import RECIPES

LLAMAS = ["llama-60m", "llama-135m", "llama-350m", "llama-1b"]
NAMES = [*LLAMAS, "gpt2-small"]
FORMS = [name + form for name in NAMES for form in ("", "-paper")]
SMALL = [
    *("--data.vocab-size", "20", "--data.sequence-length", "16"),
    *("--model.hidden-size", "8", "--model.num-layers", "1", "--model.num-heads", "2"),
    *("--steps", "2", "--batch-size", "3", "--accumulation", "2", "--monitor-every", "1", "--device", "cpu"),
]


MUON, INTERVAL = "muon:method=newton_schulz", "htmuon:schedule=interval,power=0.125,every=5"


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """Folders with small text in the formats of the two data sets, and a tokenizer."""
    root = tmp_path_factory.mktemp("sources")
    return {
        "llama": write_c4(root / "c4"),
        "gpt2": write_openwebtext(root / "openwebtext"),
        "tokenizer": write_tokenizer(root / "tokenizer.json"),
    }


@pytest.mark.parametrize("name", FORMS)
def test_every_recipe_trains(tmp_path, sources, name, capsys):
    kind = name.partition("-")[0]
    flags = ["--text", str(sources[kind]), "--data.tokenizer", str(sources["tokenizer"]), *SMALL]
    if kind == "llama":
        flags += ["--model.intermediate-size", "12"]
    assert main(["train", name, *flags, "--out", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    run = RunRecord(tmp_path / "run")
    assert run.config.recipe == name
    assert run.result.steps == 2
    assert run.result.tokens == 2 * 2 * 3 * 16
    assert 0 < run.result.final_loss < 2 * math.log(20)
    assert run.result.unreadable_samples == 0

    network = run.config.model.build_model(vocab_size=20, sequence_length=16, seed=0)
    matrices = [p.numel() for p in network.parameters() if p.ndim >= 2]
    others = [p.numel() for p in network.parameters() if p.ndim < 2]
    if name.endswith("-paper"):
        # One momentum for every matrix, embeddings too; two moments and a step for the rest.
        assert run.result.optimizer_state_bytes == 4 * (sum(matrices) + 2 * sum(others) + len(others))
    else:
        assert run.result.hidden_parameters < sum(matrices)
        assert run.result.optimizer_state_bytes > 4 * (sum(matrices) + 2 * sum(others) + len(others))


def test_recipes_stream_from_the_hub(tmp_path, sources):
    c4 = {f"en/{file.name}": file.read_bytes() for file in sources["llama"].iterdir()}
    openwebtext = {f"plain_text/{file.name}": file.read_bytes() for file in sources["gpt2"].iterdir()}
    tokenizer = {"tokenizer.json": sources["tokenizer"].read_bytes()}
    repositories = {
        "datasets/allenai/c4": {"README.md": C4_CARD, **c4},
        "datasets/Skylion007/openwebtext": openwebtext,
        "models/google-t5/t5-base": tokenizer,
        "models/openai-community/gpt2": tokenizer,
    }
    commands = [
        ["train", "llama-60m-paper", *SMALL, "--model.intermediate-size", "12", "--out", "llama-hub"],
        ["train", "gpt2-small", *SMALL, "--out", "gpt2-hub"],
        ["train", "llama-60m", *SMALL, "--data.subset", "fr", "--out", "none"],
        ["train", "llama-60m", *SMALL, "--data.held-out-split", "test", "--out", "none"],
        ["train", "gpt2-small", *SMALL, "--data.dataset", "nobody/nothing", "--out", "none"],
    ]
    program = f"from htmuon.cli import main\nfor command in {commands}: main(command)"
    # A process of its own, because the address of the hub is read once.
    with hub(repositories) as address:
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
    errors = [line for line in done.stderr.splitlines() if line.startswith("htmuon: error")]
    assert "allenai/c4 (fr) must be files of text on the Hugging Face hub (BuilderConfig 'fr' not found" in errors[0]
    assert "allenai/c4 (en) has the splits train, validation and not 'test'; choose with --data." in errors[1]
    assert "nobody/nothing must be files of text" in errors[2]
    assert "or give local files with --data PATH" in errors[2]

    # The same files on the disk give the same numbers.
    for kind, name in (("llama", "llama-60m-paper"), ("gpt2", "gpt2-small")):
        flags = ["--data", str(sources[kind]), "--data.tokenizer", str(sources["tokenizer"]), *SMALL]
        flags += ["--model.intermediate-size", "12"] if kind == "llama" else []
        assert main(["train", name, *flags, "--out", str(tmp_path / kind)]) == 0
        files = [tmp_path / folder / "model.safetensors" for folder in (kind, f"{kind}-hub")]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    # Of the paper's code, scripts/*/*.sh and configs/*.json: steps, learning rate, millions of parameters.
    ("name", "steps", "lr", "millions"),
    [
        ("llama-60m", 10_000, 0.03, 58.07),
        ("llama-135m", 20_000, 0.03, 134.11),
        ("llama-350m", 60_000, 0.005, 367.97),
        ("llama-1b", 90_000, 0.005, 1339.08),
    ],
)
def test_the_published_protocol(name, steps, lr, millions):
    config = RECIPES[f"{name}-paper"]()
    assert (config.steps, config.optimizer.lr, config.optimizer.adamw_lr) == (steps, lr, 1e-3)
    assert config.batch_size * config.accumulation == 512
    assert config.tokens_per_step == 512 * 256
    assert round(config.warmup_fraction * steps) == steps // 10
    assert (config.final_lr_fraction, config.max_grad_norm, config.optimizer.weight_decay) == (0.1, None, 0.1)
    assert (config.optimizer.matrices, config.data.packing) == ("all", "pad")
    assert (config.data.dataset, config.data.subset, config.data.evaluation_tokens) == ("allenai/c4", "en", 10_000_000)
    with torch.device("meta"):
        network = config.model.build_model(vocab_size=config.data.vocab_size, sequence_length=256, seed=0)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_the_two_forms_differ_in_routing_and_packing_alone(name):
    default, paper = RECIPES[name](), RECIPES[f"{name}-paper"]()
    assert default.optimizer.matrices == "hidden"
    same = dataclasses.replace(
        paper,
        recipe=name,
        optimizer=dataclasses.replace(paper.optimizer, matrices="hidden"),
        data=dataclasses.replace(paper.data, packing="concatenate"),
    )
    assert same == default


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("llama-60m", {"adamw": 1e-3, MUON: 0.01, "htmuon": 0.03, INTERVAL: 0.03}),
        ("llama-135m", {"adamw": 1e-3, MUON: 0.01, "htmuon": 0.03, INTERVAL: 0.03}),
        ("llama-350m", {"adamw": 1e-3, MUON: 5e-3, "htmuon": 5e-3}),
        ("llama-1b", {"adamw": 6e-4, MUON: 5e-3, INTERVAL: 5e-3}),
    ],
)
def test_published_learning_rates_are_stored(tmp_path, name, rates):
    published = load_tuned(Path(str(files("htmuon.compare") / "tuned.json")))[f"{name}-paper"]
    assert published.published
    assert {spec: published.optimizers[spec].lr for spec in rates} == rates
    assert all(found.adamw_lr == 1e-3 for spec, found in published.optimizers.items() if spec != "adamw")
    comparison = CompareConfig(run=RECIPES[f"{name}-paper"](), out=tmp_path, optimizers=tuple(published.optimizers))
    assert published.changed_settings(comparison.tuning_settings()) == []


def test_a_comparison_says_that_its_learning_rates_are_published(tmp_path, sources, capsys):
    flags = ["--data", str(sources["llama"]), "--data.tokenizer", str(sources["tokenizer"]), *SMALL]
    out = tmp_path / "comparison"
    arguments = ["compare", "llama-60m-paper", *flags, "--model.intermediate-size", "12", "--out", str(out)]
    assert main([*arguments, "--optimizers", "adamw", "htmuon", "--seeds", "0"]) == 0, capsys.readouterr().err
    told = " ".join(capsys.readouterr().out.split())
    assert "as published, not tuned here: github.com/TDCSZ327/HTmuon" in told
    assert "The learning rates are published ones, not tuned here: github.com/TDCSZ327/HTmuon" in told
    assert "The learning rates were published with other settings: accumulation was 8, is 2; batch_size" in told
    assert "htmuon: error" not in told
    page = (out / "report.html").read_text()
    assert "They are those that others published" in page
    assert "learning-rate-sensitivity" not in page
    run = RunRecord(next((out / "runs" / "test").glob("htmuon-*")))
    assert (run.config.optimizer.lr, run.config.optimizer.matrices) == (0.03, "all")

    assert main(["compare", "llama-1b-paper", *flags, "--out", str(tmp_path / "other")]) == 2
    assert "a stored learning rate is needed of htmuon for the recipe 'llama-1b-paper'; " in capsys.readouterr().err


def test_settings_of_streams_survive_json():
    for name in FORMS:
        config = RECIPES[name]()
        assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_gpt2_depends_on_its_seed_alone_and_has_no_dropout():
    shape = GPT2Config(hidden_size=8, num_layers=1, num_heads=2)
    first, again, other = (shape.build_model(vocab_size=20, sequence_length=16, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    assert first.lm_head.weight is first.transformer.wte.weight
    tokens = torch.arange(16)[None]
    assert torch.equal(first(input_ids=tokens).logits, first(input_ids=tokens).logits)  # in training mode


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (GPT2Config, {"hidden_size": 10, "num_heads": 4}, "multiple of num_heads"),
        (TextStreamConfig, {"packing": "pat"}, "Did you mean 'pad'"),
        (TextStreamConfig, {"sequence_length": 1}, "at least 2"),
        (TextStreamConfig, {"tokenizer": ""}, "must not be empty"),
    ],
)
def test_bad_settings(kind, settings, words):
    usual = {} if kind is GPT2Config else dataclasses.asdict(RECIPES["llama-60m"]().data)
    with pytest.raises(ValueError, match=words):
        kind(**{**usual, **settings})
