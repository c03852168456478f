"""`htmuon.jax` is loaded when it is used; a missing library is named with the remedy."""

import subprocess
import sys

import pytest


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
def test_it_is_loaded_when_it_is_used():
    assert python("import sys, htmuon; print('jax' in dir(htmuon), 'jax' in sys.modules)") == "True False"


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["jax", "optax"])
def test_a_missing_library_is_named_with_the_remedy(missing):
    if missing == "optax":
        pytest.importorskip("jax")
    code = f"""
import sys, htmuon
sys.modules[{missing!r}] = None
try:
    htmuon.jax
except ImportError as error:
    print(error)
"""
    assert python(code) == f'this needs {missing}, which is not installed: pip install "htmuon[jax]"'
