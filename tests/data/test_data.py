"""Importing `htmuon.data` makes all kinds of data and models known, and loads none of the libraries that they need."""

import json
import re
import subprocess
import sys
from pathlib import Path

import htmuon.data

LIGHT = """
import json, sys
import htmuon.data
from htmuon.training.run_config import DATA, MODELS
heavy = {"transformers", "tokenizers", "timm", "torchvision", "datasets", "PIL", "numpy", "pandas", "pyarrow"}
print(json.dumps([list(DATA), list(MODELS), sorted(heavy & (set(sys.modules) - torch_brings))]))
"""


def test_all_kinds_are_known_and_nothing_heavy_is_loaded():
    code = "import sys, torch; torch_brings = set(sys.modules)\n" + LIGHT
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    data, models, heavy = json.loads(done.stdout)
    assert {"text", "text-stream", "images", "image-stream"} <= set(data)
    assert {"llama", "gpt2", "resnet", "vit"} <= set(models)
    assert heavy == []
    sources = "".join(path.read_text() for path in Path(htmuon.data.__file__).parent.rglob("*.py"))
    for registry, names in (("DATA", data), ("MODELS", models)):
        assert len(re.findall(rf"^@register_kind\({registry}\)$", sources, re.MULTILINE)) == len(names)


def test_public_names_are_documented():
    for name in htmuon.data.__all__:
        assert getattr(htmuon.data, name).__doc__, name
