"""On two devices a step gives the numbers of one."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("jax")
pytest.importorskip("optax")

CODE = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from htmuon.jax import scale_by_spectral_power

assert jax.device_count() == 2
mesh = Mesh(np.array(jax.devices()), ("data",))
optimizer = optax.chain(scale_by_spectral_power(), optax.add_decayed_weights(0.1), optax.scale_by_learning_rate(0.02))
keys = jax.random.split(jax.random.key(0), 5)
shapes = {"rows": (16, 24), "columns": (40, 12), "experts": (4, 8, 20), "whole": (8, 8)}
specs = {"rows": P("data"), "columns": P(None, "data"), "experts": P("data"), "whole": P()}
weights = {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items())}
gradients = {name: jax.random.normal(keys[4], shape) for name, shape in shapes.items()}

def step(weights, state, gradients):
    updates, state = optimizer.update(gradients, state, weights)
    return optax.apply_updates(weights, updates), updates, state

def place(tree):
    return {name: jax.device_put(leaf, NamedSharding(mesh, specs[name])) for name, leaf in tree.items()}

def run(weights, gradients):
    state = jax.jit(optimizer.init)(weights)
    for _ in range(3):
        weights, updates, state = jax.jit(step)(weights, state, gradients)
    return weights, updates

one, sharded = run(weights, gradients), run(place(weights), place(gradients))
assert not sharded[0]["rows"].sharding.is_fully_replicated
for a, b in zip(jax.tree_util.tree_leaves(one[1]), jax.tree_util.tree_leaves(sharded[1])):
    print(float(jnp.linalg.norm(np.asarray(a) - np.asarray(b)) / jnp.linalg.norm(np.asarray(a))))
"""


@pytest.mark.slow
def test_two_devices_give_the_numbers_of_one():
    given = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=os.environ | given, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    differences = list(map(float, done.stdout.split()))
    assert len(differences) == 4
    # Sums over shards are added in another order.
    assert max(differences) < 1e-5
