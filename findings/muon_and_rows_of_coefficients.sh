#!/usr/bin/env bash
# optax 0.2.8: muon refuses more rows of coefficients than ns_steps as "not enough", and runs fewer steps with fewer.
#
# The check in scale_by_muon stands the wrong way round. The docstring says that ns_steps is ignored for a tuple of tuples;
# yet a schedule of 8 rows stops beside the default ns_steps=5 ("Not enough coeffs to perform 5 steps"), and of 3 rows 3
# steps are made where 5 or 8 were asked for, without a word. What lies after the check, the choice of the last ns_steps
# rows, is never reached with anything to choose.
#
# Seen, what becomes of the singular values 1, 0.1, 0.01, 0.001, up to scale:
#     one row, ns_steps=3: 0.715 0.710 0.398 0.041; ns_steps=5: 0.702 0.709 0.697 0.468
#     3 rows, ns_steps=3, 5 or 8: 0.715 0.710 0.398 0.041
#     8 rows, ns_steps=5: Not enough coeffs to perform 5 steps
#
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check optax==0.2.8 jax==0.10.2 numpy==2.3.5
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W error - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy
import optax

print("optax", optax.__version__, "jax", jax.__version__)
row = (3.4445, -4.7750, 2.0315)
gradient = {"weight": jnp.diag(jnp.array([1.0, 0.1, 0.01, 0.001]))}


def values(**options):
    """What one step makes of the gradient's singular values, or what it says."""
    optimizer = optax.contrib.muon(1.0, **options)
    try:
        state = optimizer.init(gradient)
    except ValueError as error:
        return str(error)
    update = numpy.diag(-optimizer.update(gradient, state, gradient)[0]["weight"])
    return " ".join(f"{value:.3f}" for value in update)


single = {steps: values(ns_coeffs=row, ns_steps=steps) for steps in (3, 5, 8)}
print("one row for all steps:", single)
found = {}
for rows in (3, 5, 8):
    for steps in (3, 5, 8):
        found[rows, steps] = values(ns_coeffs=(row,) * rows, ns_steps=steps)
        print(f"{rows} times that row, ns_steps={steps}: {found[rows, steps]}")
        if rows > steps:
            assert found[rows, steps] == f"Not enough coeffs to perform {steps} steps"
        else:
            assert found[rows, steps] == single[rows], "as many steps as rows"
assert float(single[3].split()[3]) < 0.05 < 0.4 < float(single[5].split()[3]), "steps matter"
PYTHON
