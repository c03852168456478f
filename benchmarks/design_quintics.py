"""Design the coefficients of the quintic method, and write them to htmuon/linalg/quintics.json.

    python benchmarks/design_quintics.py                # every number of steps; half an hour on one core
    python benchmarks/design_quintics.py --steps 5      # this one alone, in minutes; the others stay as they are

With `X_0 = x` and `a_k = X_k^2`, the products of L steps of Muon's iteration leave this much freedom:

    X_{k+1} = X_k (A_k + B_k a_k + C_k a_k^2)  for k < L - 1,
    Y = sum_{k<L-1} w_k X_k + X_{L-1} (u + v a_{L-1} + w a_{L-1}^2).

It is used in two ways, both for the smallest largest relative error on [smallest, 1.01]:

- *powers*: x^p with steps of its own for every p, on a grid of p between which a cubic polynomial through four
  neighbours interpolates everything. A negative power has a larger smallest value.
- *chain*: the same steps for every function, of which only the L + 2 weights are fitted.

How a fit is done is in quintic_fits.py. Starts are random chains of minimax quintics towards random powers; for seven
steps and more also the table of one step less, with one of its steps before the first. The best of them at a few powers
are followed over all powers, in small steps; the best of these paths is then improved as a whole, between the points of
its grid as well as at them, so that interpolation costs nothing. The table is smooth also because what does not matter,
the scale of every X_k, is fixed in one way for all powers.

The seconds of a run are those of one core; with several threads the last digits, and so the optimum found, may differ.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from quintic_fits import (
    TOP,
    Array,
    Common,
    Interpolated,
    Problem,
    Separate,
    descend,
    fitted,
    grid,
    minimax,
    normalized,
    rescaled,
    result,
    run,
    split,
)

TABLE = Path(__file__).parents[1] / "htmuon" / "linalg" / "quintics.json"
# The smallest value for p >= 0, and how fast its logarithm grows with -p: where no power errs by much more than 5 %.
SMALLEST = {4: (1e-2, 1.5), 5: (3e-3, 1.8), 6: (9e-4, 2.1), 7: (3e-4, 2.4), 8: (1e-4, 2.7)}
BEND = 0.05
INTERVALS = 32
NEIGHBOURS = 4
BETWEEN = 4
# Powers whose starts are followed over all others.
SEEDS = (-0.5, -0.125, 0.5)
# Starts at every power, how many of them are followed, and how many paths are improved: minutes for each L.
EFFORT = {4: (128, 12, 2), 5: (128, 12, 3), 6: (96, 8, 2), 7: (32, 4, 1), 8: (24, 4, 1)}
# From this number of steps on, the table of one step less gives starts, too.
GROWN = 7
# What the common chain has to follow, by the relative error that counts as one: powers, and soft signs x / (x + t).
CHAIN_POWERS = {-0.25: 4.0, -0.125: 2.0, 0.0: 1.0, 0.0625: 1.0, 0.125: 1.0, 0.25: 1.0, 0.375: 1.0, 0.5: 1.0, 0.75: 1.0}
CHAIN_SOFT_SIGNS = {0.01: 1.6, 0.05: 1.6, 0.2: 1.6}


def smallest_value(steps: int, power: Array | float) -> Array:
    """A smooth bend at p = 0: constant above, exponential below."""
    base, growth = SMALLEST[steps]
    return base * np.exp(growth * (np.hypot(power, BEND) - power) / 2) / np.exp(growth * (np.hypot(1, BEND) - 1) / 2)


def starts(steps: int, smallest: float, count: int, random: np.random.Generator) -> Array:
    """Chains of minimax quintics, each towards a random power of x, on a part of the range: `[count, L - 1, 3]`."""
    found: list[Array] = []
    x = grid(np.array([smallest]), 120)[0]
    while len(found) < count:
        last = random.choice([0, 0, 0.05, 0.1, 0.2, 0.3]) * random.uniform(0.5, 1.5)
        powers = np.sort(random.uniform(last, 1, steps - 1))[::-1]
        if random.random() < 0.4:
            powers = np.linspace(1, last, steps)[1:]
        powers[-1] = last
        above = x >= smallest * np.exp(random.uniform(0, np.log(min(60, 0.3 / smallest))))
        level, chain = x, []
        for power in powers:
            features = np.stack([level, level**3, level**5], 1)
            step = minimax(features[above], x[above] ** power)
            step *= np.exp(0.05 * random.standard_normal(3) * (random.random() < 0.5))
            after = features @ step
            if not (after / level).min() > 0.01 * after.max():
                break
            step, level = step / after.max(), after / after.max()
            chain.append(step)
        else:
            found.append(np.array(chain))
    return np.array(found)


def power_problem(steps: int, powers: Array, points: int) -> Problem:
    return Problem(lambda x: x ** powers[:, None], smallest_value(steps, powers), points, np.ones(len(powers)))


def seeds(steps: int, power: float, points: int, size: int, keep: int, extra: Array) -> Array:
    """The best of many starts at one power, `[keep, F]`."""
    found = starts(steps, float(smallest_value(steps, power)), 6 * size, np.random.default_rng(0))
    found = np.concatenate([found, extra])
    problem = power_problem(steps, np.full(len(found), power), points)
    x = grid(problem.smallest, points)
    rows = fitted(found, x, problem.target(x), rounds=25)
    error = np.abs(result(rows, x) / problem.target(x) - 1).max(1)
    error = np.where(np.isfinite(problem.scores(rows)), error, np.inf)
    error[len(found) - len(extra) :] = 0
    for norms, left in (
        ((), size + len(extra)),
        ((2, 4), size // 4 + len(extra) // 2),
        ((6, 12, 24, 48, 48, 48), keep),
    ):
        problem = power_problem(steps, np.full(len(rows), power), points)
        for norm in norms:
            rows = descend(normalized(rows), Separate(), problem, norm, 25)
        if norms:
            error = problem.scores(rows)
        rows = rows[np.argsort(error, kind="stable")[:left]]
    return rows


def longer(steps: int, power: float, shorter: Array | None) -> Array:
    """Starts from a table of one step less, around a power: each of its own steps once more before the first."""
    if shorter is None:
        return np.zeros((0, steps - 1, 3))
    place = round((power + 1) * INTERVALS / 2)
    around = shorter[max(0, place - 1) : place + 2].tolist()
    found = np.array([[first, *chain] for chain in around for first in chain])
    x = np.broadcast_to(np.linspace(0, TOP, 1000), (len(found), 1000))
    largest = np.max([level.max(1) for level in run(found, x).levels], 0)
    return found[largest < 2]


def followed(rows: Array, steps: int, powers: Array, points: int) -> tuple[Array, Array]:
    """Rows and errors at each power, each from those at the power before: `[powers, rows, F]`, `[powers, rows]`."""
    found, errors = [], []
    for power in powers:
        problem = power_problem(steps, np.full(len(rows), power), points)
        x = grid(problem.smallest, points)
        rows = fitted(split(rows)[0], x, problem.target(x))
        for norm in (12, 48, 48):
            rows = descend(normalized(rows), Separate(), problem, norm, 10)
        found.append(normalized(rows))
        errors.append(problem.scores(rows))
    return np.stack(found), np.stack(errors)


def lagrange(powers: Array, count: int) -> Array:
    """`[powers, count + 1]`: the shares of the points of a table over [-1, 1]."""
    place = (powers + 1) * count / 2
    first = np.clip(np.floor(place) - (NEIGHBOURS // 2 - 1), 0, count + 1 - NEIGHBOURS).astype(int)
    shares = np.zeros((len(powers), count + 1))
    for i in range(NEIGHBOURS):
        others = [j for j in range(NEIGHBOURS) if j != i]
        shares[np.arange(len(powers)), first + i] = np.prod([(place - first - j) / (i - j) for j in others], axis=0)
    shares[np.abs(shares) < 1e-12] = 0
    return shares


def between(count: int, parts: int) -> Array:
    return np.linspace(-1, 1, count * parts + 1)


def improved(table: Array, steps: int, points: int) -> Array:
    """A path of parameters, improved as a whole: `[points, F]`."""
    count = len(table) - 1
    nodes, dense = between(count, 1), between(count, BETWEEN)
    scale = np.ones(table.shape)
    scale[:, 3 * (steps - 1) :] = smallest_value(steps, nodes)[:, None] ** np.maximum(-nodes, 0)[:, None]
    table = table.copy()
    table[-1, 3 * (steps - 1) :] = np.eye(steps + 2)[0]
    problem = power_problem(steps, dense, points)
    for norm, smooth, rounds in ((8, 1e-3, 24), (16, 1e-4, 30), (32, 1e-5, 42), (48, 1e-6, 60)):
        coupling = Interpolated(lagrange(dense, count), scale, smooth)
        table = descend(table.reshape(1, -1), coupling, problem, norm, rounds).reshape(table.shape)
    return table


def bounded(rows: Array, shares: Array) -> Array:
    """Scaled, by the same numbers for all powers, so that no level of any power passes one."""
    x = np.concatenate([np.geomspace(1e-5, 0.1, 300), np.linspace(0.1, TOP, 3000)])
    steps, weights = (part.copy() for part in split(rows))
    levels = run(split(shares @ rows)[0], np.broadcast_to(x, (len(shares), len(x)))).levels
    return rescaled(steps, weights, [np.full(len(rows), 1 / level.max()) for level in levels[1:]])


def rank_weights(steps: Array, smallest: Array) -> tuple[Array, Array]:
    """What the traces of A, A^2, A^3 of the last step count towards the rank, and the error of one direction (rms)."""
    x = grid(smallest, 400)
    square = run(steps, x).levels[-1] ** 2
    features = np.stack([square, square**2, square**3], -1)
    share = np.gradient(np.log(x), axis=1)
    weighted = features * (share / share.sum(1, keepdims=True))[..., None]
    weights = np.linalg.solve(weighted.transpose(0, 2, 1) @ features, weighted.sum(1)[..., None])
    error = (features @ weights)[..., 0] - 1
    return weights[..., 0], np.sqrt((error**2 * share).sum(1) / share.sum(1))


def design_powers(steps: int, size: int, keep: int, paths: int, shorter: Array | None) -> dict[str, Any]:
    """The table of all powers, as it is written."""
    points, began = 50 + 12 * steps, time.monotonic()
    fine = between(INTERVALS, 2)[:-1]
    tables, errors = [], []
    for power in SEEDS:
        rows = seeds(steps, power, points, size, keep, longer(steps, power, shorter))
        place = int(np.abs(fine - power).argmin())
        down, down_errors = followed(rows, steps, fine[: place + 1][::-1], points)
        up, up_errors = followed(rows, steps, fine[place:], points)
        tables.append(np.concatenate([down[:0:-1], up]))
        errors.append(np.concatenate([down_errors[:0:-1], up_errors]))
        best = np.array2string(100 * np.sort(errors[-1][place])[:4], precision=2)
        print(f"{steps} steps, starts at p = {power}: {best} %, {time.monotonic() - began:.0f} s", flush=True)
    table, error = np.concatenate(tables, 1), np.concatenate(errors, 1)
    lost = (error / np.maximum(error.min(1, keepdims=True), 0.01)).clip(0, 10).mean(0)
    best_table, best_error = np.zeros(0), np.inf
    shares = lagrange(between(INTERVALS, 2 * BETWEEN), INTERVALS)
    problem = power_problem(steps, between(INTERVALS, 2 * BETWEEN), points)
    tried: list[int] = []
    for path in np.argsort(lost, kind="stable"):
        if len(tried) == paths or any(np.allclose(lost[path], lost[other], rtol=1e-3) for other in tried):
            continue
        tried.append(int(path))
        start = table[::2, path]
        whole = improved(np.concatenate([start, 2 * start[-1:] - start[-2:-1]]), steps, points)
        reached = problem.scores(shares @ whole)
        mean = float(np.log(np.maximum(reached, 1e-3)).mean())
        print(
            f"{steps} steps, path {path}: largest error {100 * reached.max():.2f} %, mean {100 * np.exp(mean):.2f} %, "
            f"{time.monotonic() - began:.0f} s",
            flush=True,
        )
        if mean < best_error:
            best_table, best_error = whole, mean
    best_table = bounded(best_table, shares)
    nodes = between(INTERVALS, 1)
    coefficients, weights = split(best_table)
    rank, spread = rank_weights(coefficients, smallest_value(steps, nodes))
    reached = problem.errors(shares @ best_table)
    for row in range(len(nodes)):
        inside = reached[max(0, (row - 1) * 2 * BETWEEN) : (row + 1) * 2 * BETWEEN + 1].max()
        print(
            f"  p = {nodes[row]:7.4f} from {smallest_value(steps, nodes[row]):.2e}: "
            f"{100 * reached[row * 2 * BETWEEN]:.2f} %, between its neighbours {100 * inside:.2f} %, "
            f"rank {100 * spread[row]:.1f} %",
            flush=True,
        )
    return {
        "powers": nodes.tolist(),
        "smallest": rounded(smallest_value(steps, nodes), 6),
        "steps": rounded(coefficients, 8),
        "weights": rounded(weights, 8),
        "rank": rounded(rank, 5),
        "errors": rounded(reached[:: 2 * BETWEEN], 3),
    }


def design_chain(steps: int, size: int, extra: Array) -> dict[str, Any]:
    """The steps that every function shares, as they are written; `extra` are more starts, `[count, L - 1, 3]`."""
    points, began, group = 50 + 12 * steps, time.monotonic(), len(CHAIN_POWERS) + len(CHAIN_SOFT_SIGNS)
    smallest = float(smallest_value(steps, 1.0))
    goal = np.array([*CHAIN_POWERS.values(), *CHAIN_SOFT_SIGNS.values()])
    powers, soft = np.array(list(CHAIN_POWERS))[:, None], np.array(list(CHAIN_SOFT_SIGNS))[:, None]

    def target(x: Array) -> Array:
        grouped = x.reshape(-1, group, x.shape[1])
        soft_signs = grouped[:, len(powers) :]
        return np.concatenate([grouped[:, : len(powers)] ** powers, soft_signs / (soft_signs + soft)], 1).reshape(
            x.shape
        )

    def problem(count: int) -> Problem:
        return Problem(target, np.full(count * group, smallest), points, np.tile(goal, count), group)

    coupling = Common(steps, group)
    chains = np.concatenate([starts(steps, smallest, 8 * size, np.random.default_rng(0)), extra])
    x = grid(np.full(len(chains) * group, smallest), points)
    rows = fitted(chains.repeat(group, 0), x, target(x), rounds=8)
    worst = (np.abs(result(rows, x) / target(x) - 1).max(1).reshape(-1, group) / goal).max(1)
    worst[len(chains) - len(extra) :] = 0
    for norms, left in (((), size), ((2, 6), size // 4), ((12, 24, 48, 48), 8), ((48, 48, 48), 1)):
        for norm in norms:
            rows = coupling.expand(
                descend(coupling.collect(normalized(rows)), coupling, problem(len(rows) // group), norm, 20)
            )
        if norms:
            worst = (problem(len(rows) // group).scores(rows).reshape(-1, group) / goal).max(1)
        best = np.argsort(worst, kind="stable")[:left]
        rows = rows.reshape(-1, group, rows.shape[1])[best].reshape(-1, rows.shape[1])
    rows = bounded(rows, np.eye(group))
    errors = problem(1).errors(rows)
    names = [*(f"x^{p:g}" for p in CHAIN_POWERS), *(f"x/(x+{t:g})" for t in CHAIN_SOFT_SIGNS)]
    found = {name: float(f"{error:.3g}") for name, error in zip(names, errors, strict=True)}
    print(f"{steps} steps, one chain from {smallest:.2e}: {found}, {time.monotonic() - began:.0f} s", flush=True)
    coefficients = split(rows)[0][:1]
    rank, _ = rank_weights(coefficients, np.array([smallest]))
    return {
        "smallest": rounded(smallest, 6),
        "steps": rounded(coefficients[0], 8),
        "rank": rounded(rank[0], 5),
        "errors": found,
    }


def rounded(values: Any, digits: int) -> Any:
    if np.ndim(values):
        return [rounded(value, digits) for value in values]
    return float(f"{values:.{digits}g}") if abs(values) > 1e-10 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=list(SMALLEST), help="numbers of steps (default all)")
    parser.add_argument(
        "--only", choices=["powers", "chain"], help="design one of the two, and leave the other as it is"
    )
    parser.add_argument("--starts", type=int, help="at every power (default by the number of steps)")
    parser.add_argument("--out", type=Path, default=TABLE, help="the file (default the library's own)")
    arguments = parser.parse_args()
    np.seterr(over="ignore", invalid="ignore")  # some starts run away; their scores are infinite
    for steps in arguments.steps:
        found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
        entry = found.get(str(steps), {})
        size, keep, paths = EFFORT[steps]
        size = arguments.starts or size
        if arguments.only != "chain":
            # Random starts are hopeless where there are many steps.
            shorter = np.array(found[str(steps - 1)]["steps"]) if steps >= GROWN else None
            entry |= design_powers(steps, size, keep, paths, shorter)
        if arguments.only != "powers":
            # More starts: the steps of the powers from 0 to 1, where they are there.
            extra = np.array(entry["steps"])[INTERVALS // 2 :: 2] if "steps" in entry else np.zeros((0, steps - 1, 3))
            entry["chain"] = design_chain(steps, size // 2, extra)
        found[str(steps)] = entry
        arguments.out.write_text(json.dumps(dict(sorted(found.items())), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
