"""Examples in docstrings are run where the library that they are about is installed."""

from importlib.util import find_spec

collect_ignore = [
    f"htmuon/integrations/{name}.py" for name in ("lightning", "timm", "transformers") if find_spec(name) is None
]
if find_spec("jax") is None or find_spec("optax") is None:
    collect_ignore.append("htmuon/jax")
