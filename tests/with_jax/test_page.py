"""The lines of docs/jax.md run, and its paths are those of the kernels that it names."""

import re
from pathlib import Path

import pytest

pytest.importorskip("jax")
pytest.importorskip("optax")

import jax.numpy as jnp

PAGE = Path(__file__).parents[2] / "docs" / "jax.md"
BLOCKS = re.findall(r"```py\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def run(block):
    names = {}
    exec(compile(block, str(PAGE), "exec"), names)
    return names


def test_the_chain_moves_what_it_is_given():
    names = run(BLOCKS[0])
    assert (names["weights"]["dense"]["bias"] != 0).all()
    assert names["polar"].shape == (8, 16)


def test_axes_by_name_are_taken():
    [_, block] = BLOCKS
    shapes = {"query": (8, 2, 4), "out": (2, 4, 8), "dense": (8, 8)}
    leaves = {name: {"kernel": jnp.ones(shape)} for name, shape in shapes.items()}
    optimizer = run(block)["transformation"]
    updates, _ = optimizer.update(leaves, optimizer.init(leaves))
    # Each is one matrix 8 x 8 of rank one, and Nesterov's first direction 1 - 0.95^2 of it: sigma^(1/8), to 3 %.
    for name, leaf in updates.items():
        assert float(jnp.linalg.norm(leaf["kernel"].ravel())) == pytest.approx((8 * 0.0975) ** 0.125, rel=0.03), name
