"""`htmuon route`: the listing of an architecture that is built without weights."""

import csv
import importlib.util
import json

import pytest
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForSequenceClassification

import htmuon
from htmuon.cli import architectures, main


def listed(capsys, *arguments):
    """The lines that the command prints."""
    assert main(["route", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def refused(capsys, *arguments):
    assert main(["route", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("htmuon: error: ")
    assert said.count("\n") == 1
    return said


SMALL = {
    "bos_token_id": 0,
    "eos_token_id": 0,
    "n_embd": 8,
    "n_layer": 3,
    "n_head": 2,
    "vocab_size": 50,
    "n_positions": 16,
}


@pytest.fixture
def folder(tmp_path):
    """A model folder that has settings and no weights."""
    GPT2Config(**SMALL, architectures=["GPT2LMHeadModel"]).save_pretrained(tmp_path)
    return str(tmp_path)


def test_a_folder_is_listed_as_its_model_is_routed(capsys, folder, tmp_path):
    words = ["--csv", str(tmp_path / "new" / "routes.csv"), "--json", str(tmp_path / "routes.json")]
    lines = listed(capsys, folder, *words)
    routing = htmuon.route(GPT2LMHeadModel(GPT2Config(**SMALL)))
    rows = list(csv.DictReader((tmp_path / "new" / "routes.csv").read_text().splitlines()))
    assert [(row["parameter"], row["view"] or None, row["reason"]) for row in rows] == [
        (route.name, route.view, route.reason) for route in routing.routes
    ]
    everything = json.loads((tmp_path / "routes.json").read_text())
    assert [tuple(row["shape"]) for row in everything["routes"]] == [tuple(r.parameter.shape) for r in routing.routes]
    assert lines[0] == "GPT2LMHeadModel of transformers"
    assert lines[1].split() == ["parameter", "count", "shape", "optimizer", "matrix", "[out,", "in]", "kind", "reason"]
    counts = {line.split()[0]: int(line.split()[1]) for line in lines[2:-4]}
    assert counts["transformer.h.*.mlp.c_fc.weight"] == 3
    assert counts["transformer.wte.weight"] == 1
    assert sum(counts.values()) == len(routing.routes)
    matrices = 3 * (8 * 24 + 8 * 8 + 2 * 8 * 32)
    total = sum(route.parameter.numel() for route in routing.routes)
    assert lines[-4].startswith(f"{matrices:,} of {total:,} parameters ({100 * matrices / total:.1f} %) are matrices")
    assert lines[-3] == (
        f"The largest parameter that is not: transformer.wte.weight, 400 ({40000 / total:.1f} %): embedding (tied)."
    )


def test_each_parameter_can_have_its_own_line(capsys, folder):
    lines = listed(capsys, folder, "--every")
    assert [line.split()[0] for line in lines[2:-2]] == [
        r.name for r in htmuon.route(architectures.find(folder).build()).routes
    ]


def test_patterns_and_parts_are_those_of_route(capsys, folder, tmp_path):
    file = tmp_path / "routes.json"
    words = ["--adamw", "*.mlp.*", "--spectral", "*.wpe.weight", "--split", "*.0.attn.c_attn.weight=16,8"]
    words += ["*.1.attn.c_attn.weight=2x4,4,4", "*.2.attn.c_attn.weight=none", "*.c_proj.weight=2"]
    listed(capsys, folder, *words, "--json", str(file))
    rows = {row["parameter"]: row for row in json.loads(file.read_text())["routes"]}
    assert [rows[f"transformer.h.{i}.attn.c_attn.weight"]["split"] for i in range(3)] == [
        [16, 8],
        {"heads": 2, "sizes": [4, 4, 4]},
        None,
    ]
    assert rows["transformer.h.0.attn.c_proj.weight"]["split"] == 2
    assert rows["transformer.h.0.mlp.c_fc.weight"]["optimizer"] == "AdamW"
    assert rows["transformer.wpe.weight"]["view"] == "linear"


@pytest.mark.filterwarnings("ignore:lr_scale='kinds' is a part of its table:UserWarning")
def test_kinds_and_the_factors_of_their_rates_are_those_of_the_groups(capsys, folder, tmp_path):
    file = tmp_path / "routes.json"
    for words, rules in (
        (["kinds"], "kinds"),
        (["qkv=2", "*.0.mlp.c_proj.*=0.5"], {"qkv": 2, "*.0.mlp.c_proj.*": 0.5}),
    ):
        lines = listed(capsys, folder, "--every", "--lr-scale", *words, "--json", str(file))
        assert lines[1].split()[-4:] == ["kind", "lr", "factor", "reason"]
        rows = {row["parameter"]: row for row in json.loads(file.read_text())["routes"]}
        groups = htmuon.param_groups(GPT2LMHeadModel(GPT2Config(**SMALL)), lr=1.0, lr_scale=rules)
        expected = {name: group.get("lr") for group in groups if group["use_muon"] for name, _ in group["params"]}
        assert {name: row["lr_factor"] for name, row in rows.items() if row["optimizer"] == "spectral"} == expected
        assert {row["lr_factor"] for row in rows.values() if row["optimizer"] == "AdamW"} == {None}
        kinds = {"attn.c_attn": "qkv", "attn.c_proj": "output", "mlp.c_fc": "up", "mlp.c_proj": "down"}
        of_first = {name: rows[f"transformer.h.0.{name}.weight"]["kind"] for name in kinds}
        assert of_first == kinds
        (line,) = [line for line in lines if line.startswith("transformer.h.0.mlp.c_proj.weight")]
        assert line.split()[4:6] == ["down", "0.35" if rules == "kinds" else "0.5"]


def test_without_factors_there_are_kinds_alone(capsys, folder, tmp_path):
    listed(capsys, folder, "--json", str(tmp_path / "routes.json"), "--csv", str(tmp_path / "routes.csv"))
    rows = json.loads((tmp_path / "routes.json").read_text())["routes"]
    assert {row["kind"] for row in rows} == {"qkv", "output", "up", "down", None}
    assert not any("lr_factor" in row for row in rows)
    assert (tmp_path / "routes.csv").read_text().splitlines()[0] == "parameter,shape,optimizer,view,split,kind,reason"


@pytest.mark.parametrize(("split", "parts"), [("auto", 3), ("none", None)])
def test_fused_weights_are_taken_apart_or_left_whole(capsys, folder, tmp_path, split, parts):
    listed(capsys, folder, "--split", split, "--json", str(tmp_path / "routes.json"))
    rows = json.loads((tmp_path / "routes.json").read_text())["routes"]
    assert {row["split"] for row in rows if row["parameter"].endswith("c_attn.weight")} == {parts}


def test_views_can_be_named(capsys, folder, tmp_path):
    listed(capsys, folder, "--spectral", "*.wpe.weight=transposed", "--json", str(tmp_path / "routes.json"))
    rows = {row["parameter"]: row for row in json.loads((tmp_path / "routes.json").read_text())["routes"]}
    assert rows["transformer.wpe.weight"]["view"] == "transposed"


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("gpt2", "GPT2LMHeadModel of transformers"),
        ("LlamaForSequenceClassification", "LlamaForSequenceClassification of transformers"),
        ("align", "AlignModel of transformers"),  # states a list of channels
        ("test_vit", "VisionTransformer of timm"),
        ("timm:resnet10t", "ResNet of timm"),
        ("fcn_resnet50", "FCN of torchvision"),
    ],
)
def test_names_of_three_libraries(capsys, name, title):
    lines = listed(capsys, name)
    assert lines[0] == title
    assert "parameters (" in lines[-2]


def test_the_class_of_a_folder_is_the_one_that_it_names(capsys, tmp_path):
    sizes = {"vocab_size": 50, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
    LlamaConfig(**sizes, num_attention_heads=2, architectures=["LlamaForSequenceClassification"]).save_pretrained(
        tmp_path
    )
    assert (
        listed(capsys, str(tmp_path / "config.json"))[0] == f"{LlamaForSequenceClassification.__name__} of transformers"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lama"], "Did you mean 'llama'"),
        (["nolibrary:llama"], "the library must be one of transformers, timm, torchvision; got 'nolibrary'"),
        (["meta-llama/Llama-3-8B"], "Nothing is downloaded: of a model on the Hub fetch config.json first"),
        (["gpt2", "--split", "qkv"], "PATTERN=PARTS with parts such as 3"),
        (["gpt2", "--lr-scale", "kind"], "lr_scale must be kinds, KIND=FACTOR or PATTERN=FACTOR; got 'kind'"),
        (["gpt2", "--lr-scale", "query=fast"], "got 'query=fast'. Write query=2, say"),
        (
            ["gpt2", "--lr-scale", "query=2"],
            "lr_scale of 'query' matches no matrix of the spectral side; there are qkv",
        ),
        (["gpt2", "--adamw", "mlpp"], "adamw pattern 'mlpp' matches no trainable parameter"),
        (["gpt2", "--spectral", "*.wpe.*=linear", "*.wte.*"], "'*.wte.*' has none. Write =linear"),
        (["clipseg_vision_model"], "got model type 'clipseg_vision_model', a part of others"),
        ([], "Missing from htmuon route: STR what to build"),
    ],
)
def test_user_errors_are_one_line(capsys, words, message):
    assert message in refused(capsys, *words)


def test_a_folder_without_settings_is_refused(capsys, tmp_path):
    assert "must hold a config.json" in refused(capsys, str(tmp_path))


def test_a_pattern_for_another_model_is_a_warning(capsys, folder):
    assert main(["route", folder, "--adamw", "*.mlp.*", "*.experts.*"]) == 0
    assert capsys.readouterr().err.startswith("htmuon: warning: adamw pattern '*.experts.*' matches no")


def test_a_missing_library_is_named_with_its_extra(capsys, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "timm" else there(name))
    assert 'Not installed: timm; pip install "htmuon[vision]"' in refused(capsys, "vit_base_patch16_224")
