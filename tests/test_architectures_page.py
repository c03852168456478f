"""The page of architectures: its tables are those of the committed results, and it says what it leaves out."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return runpy.run_path(str(ROOT / "benchmarks" / "architectures.py"))


def test_the_tables_are_those_of_the_committed_results(script):
    text = script["PAGE"].read_text()
    assert script["filled"](text) == text, "run `python benchmarks/architectures.py --page`"


def test_every_row_is_in_a_table_or_left_out_with_a_reason(script):
    text = script["PAGE"].read_text()
    rows = json.loads(script["RESULT"].read_text())["rows"]
    assert {row["library"] for row in rows} == set(script["LIBRARIES"])
    for row in rows:
        if "parameters" in row:
            assert f"\n| {row['name']} | " in text
        elif "a part of others" not in row["not_built"]:
            assert f"`{row['name']}`" in text


def test_a_stored_row_is_what_is_measured(script):
    rows = {(row["library"], row["name"]): row for row in json.loads(script["RESULT"].read_text())["rows"]}
    for library, name in (("transformers", "gpt_oss"), ("torchvision", "resnet50")):
        stored, made = rows[library, name], script["measured"]((library, name, 60))
        for key in ("class", "parameters", "spectral", "largest_other", "reason", "fused"):
            assert stored[key] == made[key], "run `python benchmarks/architectures.py` anew"
    assert rows["transformers", "gpt_oss"]["fused"] == ["experts.gate_up_proj: 2880 x (1 + 1)"]


def test_a_model_that_takes_too_long_is_stopped(script, monkeypatch):
    def forever():
        while True:
            try:
                pass
            except Exception:
                continue

    slow = lambda library, name: script["architecture"].__globals__["Architecture"](library, name, forever)  # noqa: E731
    monkeypatch.setitem(script["measured"].__globals__, "architecture", slow)
    row = script["measured"](("timm", "test_vit", 1))
    assert row == {"library": "timm", "name": "test_vit", "not_built": "TooLongError: not built within 1 s"}


def test_names_and_parts_in_short(script):
    from htmuon import Interleaved

    assert script["common"]("layers.0.mlp.experts.12.w1") == "layers.*.mlp.experts.*.w1"
    assert [script["parts"](split) for split in (3, (8, 4, 4), Interleaved(16, (2, 2)))] == [
        "3 parts",
        "8 + 4 + 4",
        "16 x (2 + 2)",
    ]
