"""The rooms of other libraries are loaded when they are used, and a missing library is named with the remedy."""

import subprocess
import sys

import pytest

import htmuon


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_they_are_loaded_when_they_are_used():
    code = "import sys, htmuon; assert 'integrations' in dir(htmuon); htmuon.integrations; htmuon.integrations.timm;"
    loaded = set(python(code + "print(*sys.modules)").stdout.split())
    assert "htmuon.integrations.timm" in loaded
    assert not {"htmuon.integrations.transformers", "transformers", "lightning", "accelerate", "timm"} & loaded
    with pytest.raises(AttributeError, match="no attribute 'keras'"):
        _ = htmuon.integrations.keras


def test_a_missing_library_is_named_with_the_remedy():
    uses = {
        "transformers": "import htmuon.integrations.transformers",
        "lightning": "import htmuon.integrations.lightning",
        "timm": "import htmuon; htmuon.integrations.timm.register()",
    }
    code = f"""
import sys
for library, use in {uses}.items():
    sys.modules[library] = None
    try:
        exec(use)
    except ImportError as error:
        print(error)
"""
    said = python(code).stdout.splitlines()
    assert said == [f'this needs {name}, which is not installed: pip install "htmuon[{name}]"' for name in uses]
