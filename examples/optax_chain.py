"""HTMuon in JAX: matrices by a chain of optax, biases and the head by Adam, in one compiled step.

    python examples/optax_chain.py --steps 200

It needs JAX and optax (`pip install ".[jax]"`), and learns from the images inside the package. Kernels are [in, out],
as Flax stores them.
"""

import argparse
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import jax
import jax.numpy as jnp
import optax

from htmuon.data.images.images import read_file, split_images
from htmuon.jax import scale_by_spectral_power

Tree = dict[str, dict[str, jax.Array]]


def network(key: jax.Array, width: int) -> Tree:
    """Three layers, by their names."""
    sizes = {"first": (784, width), "hidden": (width, width), "head": (width, 10)}
    kernels = {
        name: jax.random.normal(part, size) / size[0] ** 0.5
        for part, (name, size) in zip(jax.random.split(key, 3), sizes.items(), strict=True)
    }
    return {name: {"kernel": kernel, "bias": jnp.zeros(kernel.shape[1])} for name, kernel in kernels.items()}


def loss_of(weights: Tree, pixels: jax.Array, classes: jax.Array) -> jax.Array:
    """The mean cross-entropy of a batch."""
    x = pixels
    for name in ("first", "hidden", "head"):
        x = x @ weights[name]["kernel"] + weights[name]["bias"]
        x = x if name == "head" else jax.nn.relu(x)
    return optax.softmax_cross_entropy_with_integer_labels(x, classes).mean()


def main(arguments: Sequence[str] | None = None) -> float:
    """Train, and return the mean loss of the last ten steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--width", type=int, default=64)
    given = parser.parse_args(arguments)

    training = split_images(read_file(""), "").training
    pixels = jnp.asarray(training.pixels.reshape(len(training.pixels), -1).numpy()) / 255 - 0.5
    classes = jnp.asarray(training.labels.numpy())

    weights = network(jax.random.key(0), given.width)
    rate = optax.cosine_decay_schedule(0.02, given.steps)
    matrices = optax.chain(
        scale_by_spectral_power(0.125), optax.add_decayed_weights(0.1), optax.scale_by_learning_rate(rate)
    )
    labels = {layer: {"kernel": "other" if layer == "head" else "matrix", "bias": "other"} for layer in weights}
    optimizer = optax.multi_transform({"matrix": matrices, "other": optax.adam(3e-3)}, labels)

    def step(weights: Tree, state: Any, key: jax.Array) -> tuple[Tree, Any, jax.Array]:
        chosen = jax.random.randint(key, (50,), 0, len(pixels))
        loss, gradients = jax.value_and_grad(loss_of)(weights, pixels[chosen], classes[chosen])
        updates, state = optimizer.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state, loss

    compiled, state, losses = jax.jit(step), optimizer.init(weights), []
    for number, key in enumerate(jax.random.split(jax.random.key(1), given.steps)):
        weights, state, loss = compiled(weights, state, key)
        losses.append(float(loss))
        if (number + 1) % 50 == 0:
            print(f"step {number + 1}  loss {fmean(losses[-10:]):.4f}")
    return fmean(losses[-10:])


if __name__ == "__main__":
    main()
