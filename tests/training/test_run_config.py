import dataclasses
import itertools
import json
import math
import subprocess
import sys
from typing import ClassVar

import pytest

from htmuon.data.images.image_models import ResNetConfig
from htmuon.data.text.language_models import LlamaConfig
from htmuon.data.text.text_config import TextConfig
from htmuon.recipes import RECIPES
from htmuon.training.resumable import lr_factor
from htmuon.training.run_config import DATA, DataConfig, OptimizerConfig, RunConfig, register_kind
from htmuon.training.run_result import RunResult
from htmuon.training.train import train


def test_json_round_trip(config):
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_complete_and_described(name):
    config = RECIPES[name]()
    assert config.recipe == name
    assert RECIPES[name].__doc__


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("steps", 0, "steps must be a whole number of at least 1; got 0"),
        ("steps", 1.5, "whole number"),
        ("batch_size", True, "whole number"),
        ("seed", -1, "seed"),
        ("seed", 2**63, "at least 0 and at most 9223372036854775807; got 9223372036854775808"),
        ("warmup_fraction", 1.1, "at most 1"),
        ("final_lr_fraction", math.nan, "finite"),
        ("max_grad_norm", 0.0, "greater than 0"),
        ("split", "validaton", "Did you mean 'validation'"),
        ("precision", "float16", "bfloat16"),
    ],
)
def test_bad_run_settings(config, setting, value, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(config, **{setting: value})


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (TextConfig, {"separator": ""}, "must not be empty"),
        (TextConfig, {"vocab_size": 256}, "at least 257"),
        (TextConfig, {"sequence_length": 1}, "at least 2"),
        (LlamaConfig, {"hidden_size": 18, "num_heads": 2}, "multiple of 2"),
        (OptimizerConfig, {"lr": 0.0}, "greater than 0"),
        (OptimizerConfig, {"adamw_lr": math.inf}, "finite"),
        (OptimizerConfig, {"weight_decay": -0.1}, "at least 0"),
    ],
)
def test_bad_part_settings(kind, settings, words):
    with pytest.raises(ValueError, match=words):
        kind(**settings)


def test_unknown_and_missing_settings_are_named(config):
    values = config.to_dict()
    with pytest.raises(ValueError, match=r"got 'stpes'. Did you mean 'steps'"):
        RunConfig.from_dict({**values, "stpes": 3})
    del values["steps"]
    with pytest.raises(ValueError, match="needs steps"):
        RunConfig.from_dict(values)


def test_settings_of_earlier_versions_get_one_sentence(config):
    values = config.to_dict()
    del values["data"]["kind"]
    with pytest.raises(ValueError, match=r"^data\.kind must be given;.*before 0\.1\.0.*in another folder\.$"):
        RunConfig.from_dict(values)


def test_an_unknown_kind_is_named(config):
    values = config.to_dict()
    values["model"]["kind"] = "lama"
    with pytest.raises(ValueError, match=r"model\.kind must be one of .*Did you mean 'llama'"):
        RunConfig.from_dict(values)


def test_a_new_kind_of_data_needs_no_other_edit(config, monkeypatch):
    monkeypatch.setattr(DATA, "_parts", dict(DATA.items()))

    @register_kind(DATA)
    @dataclasses.dataclass(frozen=True)
    class Digits(DataConfig):
        kind: ClassVar[str] = "digits"
        task: ClassVar[str] = "images"
        path: str = ""

        def open(self, run):
            raise ValueError(f"no digits for {run.recipe}")

    changed = dataclasses.replace(config, data=Digits("here"), model=ResNetConfig())
    assert RunConfig.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed
    assert changed.tokens_per_step == config.batch_size
    with pytest.raises(ValueError, match="no digits for test"):
        train(changed, "nowhere")
    with pytest.raises(ValueError, match="Digits goes with ResNetConfig or ViTConfig"):
        dataclasses.replace(config, data=Digits())


def test_schedule_against_its_formula():
    factors = [lr_factor(t, steps=100, warmup_fraction=0.1, final_fraction=0.1) for t in range(100)]
    assert factors[:10] == [(t + 1) / 10 for t in range(10)]
    assert max(factors) == factors[9] == 1.0
    assert all(later < earlier for earlier, later in itertools.pairwise(factors[9:]))
    assert factors[54] == pytest.approx(0.1 + 0.9 * 0.5)  # halfway through the cosine: (54 + 1 - 10) / 90 = 1/2
    assert factors[99] == pytest.approx(0.1)


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_schedule_at_its_limits(warmup):
    factors = [lr_factor(t, steps=4, warmup_fraction=warmup, final_fraction=0.5) for t in range(4)]
    assert factors[-1] == pytest.approx(1.0 if warmup else 0.5)


@pytest.mark.slow
def test_recipes_import_without_the_train_extra():
    program = (
        "import sys\n"
        "for name in ('transformers', 'tokenizers', 'safetensors'): sys.modules[name] = None\n"
        "import htmuon.recipes\n"
        "from htmuon._extras import require\n"
        "try: require('tokenizers')\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 'pip install "htmuon[train]"' in done.stdout


def test_result_round_trip_keeps_a_loss_that_is_not_finite():
    values = {field.name: 1 for field in dataclasses.fields(RunResult)}
    result = RunResult(**{**values, "final_loss": math.log(50.0), "seconds_per_step": 4.0})
    assert result.perplexity == pytest.approx(50.0)
    assert result.optimizer_share == 0.25
    assert RunResult.from_dict(result.to_dict()) == result
    assert math.isnan(RunResult.from_dict({**result.to_dict(), "final_loss": None}).perplexity)
