"""The spectral power in JAX, and as a transformation of optax: the quintic steps, with the coefficients of `linalg`.

| name | what it is |
|---|---|
| `spectral_power` | `U S^p V^T` of arrays `[*batch, m, n]`, under `jit` and on shards |
| `scale_by_spectral_power` | HTMuon's update as an `optax.GradientTransformation` |
| `SpectralPowerState` | what it remembers |

Loaded when it is used. torch makes numbers on the host, where it reads the coefficients; no array goes through it.
"""

from htmuon._extras import require

require("jax", extra="jax")
require("optax", extra="jax")

from htmuon.jax.powers import spectral_power  # noqa: E402 - after the look whether they are there
from htmuon.jax.transform import SpectralPowerState, scale_by_spectral_power  # noqa: E402

__all__ = ["SpectralPowerState", "scale_by_spectral_power", "spectral_power"]
