"""How far products alone get from `x^p`: the polynomial method and the published recipes, as functions of one number.

    python benchmarks/error_curves.py

writes `benchmarks/results/error_curves.json`, `docs/images/error_curves.svg` and the tables of `docs/polynomial.md`
and `docs/quintic.md`.

A recipe made of products acts on every singular value alone, so that its error in exact arithmetic is that of a
function of x = sigma / sigma_1. All recipes get the exact sigma_1, which is the best case for each: where a recipe
divides by a bound of it, the same curve moves to larger x. Sources are those of coefficients and formulas.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from page_parts import fill, markdown
from torch import Tensor

from htmuon._typing import PRECISIONS, Precision
from htmuon.linalg import quintics
from htmuon.linalg.fit import fit
from htmuon.linalg.levels import LEVELS
from htmuon.linalg.newton_schulz import POLAR_EXPRESS, QUINTIC, QUINTIC_STEPS, SAFETY
from htmuon.linalg.plan import Plan, cheapest
from htmuon.linalg.polynomial import FOLDED_LEVELS, LONGEST_SEGMENT
from htmuon.spectral import Power

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "error_curves.json"
FIGURE = ROOT / "docs" / "images" / "error_curves.svg"
PAGE = ROOT / "docs" / "polynomial.md"
QUINTIC_PAGE = ROOT / "docs" / "quintic.md"
COMMAND = "python benchmarks/error_curves.py"

OUR_LEVELS = (4, 5, 6, 7, 8)
PANELS = {-0.25: "-1/4", 0.0: "0", 0.125: "1/8", 0.5: "1/2"}
RANGES = (1e-2, 1e-3, 1e-4)
# Long side by short side of a square matrix, and of feed-forward matrices of LLaMA and of GPT-2.
ASPECTS = {"1": 1.0, "2.67": 1024 / 384, "4": 4.0}
COMPARED = ("1", "2.67")
SMALLEST = 1e-5

Coefficients = Sequence[tuple[float, float, float]]
ScalarMap = Callable[[Tensor], Tensor]


def grid() -> Tensor:
    """Even in log x, and finer near 1, where compositions oscillate fastest; float64."""
    even = 10 ** torch.linspace(-5, 0, 6001, dtype=torch.float64)
    near_top = 1 - 0.5 * torch.linspace(0, 1, 2001, dtype=torch.float64) ** 2
    return torch.cat([even, near_top]).unique()


@dataclass(frozen=True)
class Recipe:
    """A way of computing `x^power`.

    Attributes:
        name: in tables.
        label: in the figure.
        power: what it is meant for.
        function: what it computes; relative to the largest of its arguments, which is 1.
        plans: the products that it takes, by aspect.
        source: of the formula.
        levels: of the polynomial method; 0 for all others.
        steps: of the quintic method; 0 for all others.
    """

    name: str
    label: str
    power: float
    function: ScalarMap
    plans: dict[str, Plan]
    source: str
    levels: int = 0
    steps: int = 0

    def error(self, x: Tensor) -> Tensor:
        return (self.function(x) / x**self.power - 1).abs()


def products(steps: int, *, symmetric: int, grams: int, rectangular: int) -> dict[str, Plan]:
    """What a published recipe takes, on matrices with the short side first; the same for every aspect."""
    return dict.fromkeys(COMPARED, Plan(steps, (), False, symmetric, grams, rectangular))


# The polynomial method.


def nested(x: Tensor, *, levels: int, power: float) -> Tensor:
    """The weights that the method takes, in exact arithmetic."""
    map_ = Power(power)
    fitted = fit(LEVELS[levels], map_.family)
    parameters, factor = map_.parameters(torch.ones(1), torch.ones(1))
    assert bool(torch.as_tensor(factor).eq(1).all())
    weights = fitted.weights(fitted.table, *parameters).to(torch.float64).flatten()
    return LEVELS[levels].features(x) @ weights


def plan(levels: int, precision: Precision, aspect: str) -> Plan:
    """What the method does where every symmetric product is halved, as is counted for everybody."""
    return cheapest(levels, LONGEST_SEGMENT[precision], ASPECTS[aspect], folded=levels <= FOLDED_LEVELS[precision])


def ours(levels: int, power: float) -> Recipe:
    return Recipe(
        f"{levels} levels",
        str(levels),
        power,
        partial(nested, levels=levels, power=power),
        {aspect: plan(levels, "float32", aspect) for aspect in COMPARED},
        "htmuon/linalg/levels.py",
        levels,
    )


# The quintic method.

QUINTIC_POWERS = (-1.0, -0.5, -0.25, 0.0, 0.125, 0.25, 0.5)


def steps_of(x: Tensor, *, steps: int, power: float) -> Tensor:
    """What the method's steps make of numbers, in exact arithmetic."""
    recipe = quintics.recipes(steps).at(power, torch.device("cpu"))
    *others, top = chain(x, recipe.steps)
    a, b, c = recipe.last
    total = top * (a + b * top**2 + c * top**4)
    return total + sum(w * level for w, level in zip(recipe.weights, others, strict=True))


def quintic(steps: int, power: float) -> Recipe:
    return Recipe(
        f"{steps} quintic steps",
        f"{steps} steps",
        power,
        partial(steps_of, steps=steps, power=power),
        odd_quintics(steps),
        "htmuon/linalg/quintics.json",
        steps=steps,
    )


# What is published.

# varunneal: eight quintics, and a weight for each level. The weights of other powers are not at hand.
VARUNNEAL = (
    (3.059785, -3.569183, 1.466139),
    (2.483037, -2.035164, 0.593904),
    (2.587005, -2.273627, 0.704639),
    (2.532325, -2.285401, 0.721930),
    (2.814393, -2.718119, 0.918760),
    (2.574423, -2.244986, 0.670563),
    (2.420254, -2.053210, 0.632956),
    (3.096905, -3.325603, 1.228698),
)
VARUNNEAL_EIGHTH = (0.2157, 0.047, 0.1264, 0.0623, 0.0632, 0.0472, 0.0515, 0.1995, 0.1974)
# Soft-Muon (nilin): one quintic again and again, and the weights for p = 0.1.
SOFT_QUINTIC = (2.0, -1.5, 0.5)
SOFT_TENTH = (
    *(0.1091613623, 0.07085664498, 0.05210528973, 0.05457295795, 0.05011334061, 0.03334622198),
    *(0.05022104481, 0.1053727358, 0.1187323776, 0.1185061091, 0.1185059576, 0.1185059576),
)
# You Jiacheng's quintics, with which Gram Newton-Schulz and DynMuon compute the polar factor.
YOU = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
# Su Jianlin: (G^T G)^(-s/r) G, by r; each scaled for rounding.
ROOTS = {
    3: (
        (5.05052, -13.5427, 10.2579),
        (2.31728, -1.06581, 0.144441),
        (1.79293, -0.913562, 0.186699),
        (1.56683, -0.786609, 0.220008),
        (14 / 9, -7 / 9, 2 / 9),
    ),
    4: (
        (3.85003, -10.8539, 8.61893),
        (1.80992, -0.587778, 0.0647852),
        (1.50394, -0.594516, 0.121161),
        (45 / 32, -9 / 16, 5 / 32),
    ),
    5: (
        (3.11194, -8.28217, 6.67716),
        (1.5752, -0.393327, 0.0380364),
        (1.3736, -0.44661, 0.0911259),
        (33 / 25, -11 / 25, 3 / 25),
    ),
}
ROOT_SAFETY = 1.001
# Muon^p: the step size for each root.
BIVARIATE = {3: 0.66, 5: 1 / 5, 7: 1 / 7}
BIVARIATE_STEPS = 6
# HTMuon_NS: steps of each coupled square root, and what is added after each.
COUPLED_STEPS = 5
COUPLED_SHIFT = 1e-6


def chain(x: Tensor, coefficients: Coefficients) -> list[Tensor]:
    """`X_0 ... X_K` of odd quintics."""
    found = [x]
    for a, b, c in coefficients:
        found.append(found[-1] * (a + b * found[-1] ** 2 + c * found[-1] ** 4))
    return found


def last(x: Tensor, *, coefficients: Coefficients) -> Tensor:
    return chain(x, coefficients)[-1]


def weighted(x: Tensor, *, coefficients: Coefficients, weights: Sequence[float]) -> Tensor:
    return sum((w * level for w, level in zip(weights, chain(x, coefficients), strict=True)), torch.zeros_like(x))


def safe(coefficients: Coefficients, safety: float) -> Coefficients:
    """Quintics of `x / safety`."""
    return [(a / safety, b / safety**3, c / safety**5) for a, b, c in coefficients]


def corrected(x: Tensor, *, power: float) -> Tensor:
    """DynMuon: the polar factor times the Taylor polynomial of `a^(p / 2)` around a = 1, of second order."""
    half, e = power / 2, x**2 - 1
    return (1 + half * e + half * (half - 1) / 2 * e**2) * last(x, coefficients=YOU)


def bivariate(x: Tensor, *, root: int) -> Tensor:
    """Muon^p: `y <- y - c (y^root - x)` from y = x."""
    y = x
    for _ in range(BIVARIATE_STEPS):
        y = y - BIVARIATE[root] * (y**root - x)
    return y


def inverse_root(x: Tensor, *, r: int, s: int) -> Tensor:
    """Su: with `w = a + b P + c P^2`: `G <- G w^s`, `P <- P w^r`, from P = x^2 and G = x."""
    value, inner = x, x**2
    for a, b, c in ROOTS[r]:
        factor = a / ROOT_SAFETY + b / ROOT_SAFETY ** (r + 1) * inner + c / ROOT_SAFETY ** (2 * r + 1) * inner**2
        value, inner = value * factor**s, inner * factor**r
    return value


def unfinished_roots(x: Tensor, *, roots: int) -> Tensor:
    """HTMuon_NS: Muon's five steps times square roots of square roots of `x^2`, each of five coupled steps."""
    root = x**2 + COUPLED_SHIFT
    for _ in range(roots):
        norm = root.max()
        y, z = root / norm, torch.ones_like(root)
        for _ in range(COUPLED_STEPS):
            factor = (3 - z * y) / 2
            y, z = y * factor, factor * z
        root = norm.sqrt() * y + COUPLED_SHIFT
    return last(x, coefficients=[QUINTIC] * QUINTIC_STEPS) * root


def odd_quintics(steps: int, **more: int) -> dict[str, Plan]:
    """`A = X X^T`, `b A + c A^2`, and its product with X, at every step; and `more` of each."""
    return products(
        steps,
        symmetric=steps + more.get("symmetric", 0),
        grams=steps + more.get("grams", 0),
        rectangular=steps + more.get("rectangular", 0),
    )


def gram_side(steps: int, restart: int) -> dict[str, Plan]:
    """Every step squares; all but the first of each segment extend Q; all but the last take R on, by two products."""
    lengths = [end - first for first, end in pairwise((0, restart, steps))]
    symmetric = sum(length + 3 * (length - 1) for length in lengths)
    return products(steps, symmetric=symmetric, grams=2, rectangular=2)


def powers_of(r: int, s: int) -> tuple[int, int]:
    """How many products make both `w^s` and `P w^r` of w and P; and how many make `w^s` alone."""
    squarings, ones = r.bit_length() - 1, r.bit_count()
    return squarings + ones, s.bit_length() - 1


def root_steps(r: int, s: int) -> dict[str, Plan]:
    """`P^2` and the powers at every step; the last one needs no P."""
    steps, (both, outer) = len(ROOTS[r]), powers_of(r, s)
    return products(steps, symmetric=(steps - 1) * (1 + both) + 1 + outer, grams=1, rectangular=steps)


JORDAN = "https://kellerjordan.github.io/posts/muon/"
AMSEL = "https://arxiv.org/abs/2505.16932"
GRAM = "https://github.com/Dao-AILab/gram-newton-schulz"
SU = "https://kexue.fm/archives/11175"
NEAL = "https://varunneal.github.io/essays/spectral-powers"
SOFT = "https://github.com/KellerJordan/modded-nanogpt/tree/master/records/track_3_optimization"
DYNMUON = "https://arxiv.org/abs/2605.17109"
BIVARIATE_PAPER = "https://arxiv.org/abs/2606.13867"
HTMUON = "https://github.com/TDCSZ327/HTmuon"


def published() -> list[Recipe]:
    """Everything whose formula and coefficients are known, at its own power."""
    express = safe(POLAR_EXPRESS, SAFETY)
    quintic = [QUINTIC] * QUINTIC_STEPS
    found = [
        Recipe("DynMuon's correction", "DynMuon", -0.25, partial(corrected, power=-0.25),
               odd_quintics(len(YOU), symmetric=1, grams=1, rectangular=1), DYNMUON),
        Recipe("Muon, 5 steps", "Muon", 0.0, partial(last, coefficients=quintic),
               odd_quintics(QUINTIC_STEPS), JORDAN),
        Recipe("Gram Newton-Schulz, 5 steps of You", "Gram-NS", 0.0, partial(last, coefficients=YOU),
               gram_side(len(YOU), 2), GRAM),
        Recipe("Polar Express, 5 steps", "Polar Express 5", 0.0, partial(last, coefficients=express[:5]),
               odd_quintics(5), AMSEL),
        Recipe("Polar Express, 8 steps", "Polar Express 8", 0.0,
               partial(last, coefficients=[*express[:-1], POLAR_EXPRESS[-1]]), odd_quintics(8), AMSEL),
        Recipe("Soft-Muon", "Soft-Muon", 0.1,
               partial(weighted, coefficients=[SOFT_QUINTIC] * (len(SOFT_TENTH) - 1), weights=SOFT_TENTH),
               odd_quintics(len(SOFT_TENTH) - 1), SOFT),
        Recipe("spectral powers, 8 levels", "varunneal", 0.125,
               partial(weighted, coefficients=VARUNNEAL, weights=VARUNNEAL_EIGHTH),
               odd_quintics(len(VARUNNEAL)), NEAL),
    ]  # fmt: skip
    for root in (7, 5, 3):
        squares = {3: 0, 5: 1, 7: 2}[root]
        plans = products(
            BIVARIATE_STEPS,
            symmetric=squares * BIVARIATE_STEPS,
            grams=BIVARIATE_STEPS,
            rectangular=BIVARIATE_STEPS,
        )
        found.append(Recipe("Muon^p", "Muon^p", 1 / root, partial(bivariate, root=root), plans, BIVARIATE_PAPER))
    for r, s in ((5, 2), (3, 1), (4, 1)):
        name = f"matrix root, r = {r}, s = {s}"
        found.append(Recipe(name, "Su's root", (r - 2 * s) / r, partial(inverse_root, r=r, s=s), root_steps(r, s), SU))
    for roots in (4, 2):
        plans = odd_quintics(QUINTIC_STEPS, symmetric=3 * COUPLED_STEPS * roots, grams=1, rectangular=1)
        function = partial(unfinished_roots, roots=roots)
        found.append(Recipe("HTMuon_NS", "HTMuon_NS", 0.5 ** (roots - 1), function, plans, HTMUON))
    return sorted(found, key=lambda recipe: recipe.power)


def recipes() -> list[Recipe]:
    """What is published, the polynomial method at the same powers, and the quintic method."""
    others = published()
    powers = sorted({*PANELS, *(recipe.power for recipe in others)})
    steps = [quintic(steps, power) for steps in quintics.STEPS for power in QUINTIC_POWERS]
    return [*(ours(levels, power) for power in powers for levels in OUR_LEVELS), *steps, *others]


# Results, tables and the figure.


def results() -> dict[str, Any]:
    x, rows = grid(), []
    for recipe in recipes():
        error = recipe.error(x)
        rows.append(
            {
                "name": recipe.name,
                "power": recipe.power,
                "levels": recipe.levels,
                "steps": recipe.steps,
                "products": {
                    aspect: {"n x n": plan.symmetric, "Gram": plan.grams, "rectangular": plan.rectangular}
                    for aspect, plan in recipe.plans.items()
                },
                "cost": {aspect: plan.cost(ASPECTS[aspect]) for aspect, plan in recipe.plans.items()},
                "largest error": {
                    f"{low:.0e}": float(f"{error[x >= low * (1 - 1e-9)].max().item():.5g}") for low in RANGES
                },
                "source": recipe.source,
            }
        )
    return {"command": COMMAND, "recipes": rows}


def percent(share: float) -> str:
    """Two digits; less than a thousandth of a percent is rounding."""
    return f"{float(f'{100 * share:.2g}'):g}" if share >= 1e-5 else "< 0.001"


def errors_cell(row: dict[str, Any]) -> str:
    return " / ".join(percent(row["largest error"][f"{low:.0e}"]) for low in RANGES)


def costs_cell(row: dict[str, Any]) -> str:
    return " / ".join(f"{row['cost'][aspect]:.1f}" for aspect in COMPARED)


def products_cell(row: dict[str, Any]) -> str:
    counts = row["products"][COMPARED[0]]
    return f"{counts['n x n']} + {counts['Gram']} + {counts['rectangular']}"


def power_text(power: float) -> str:
    for root in (3, 7):
        if abs(power - 1 / root) < 1e-9:
            return f"1/{root}"
    return PANELS.get(power, f"{power:.3g}")


def levels_table(result: dict[str, Any]) -> str:
    """The errors of the polynomial method, by levels and power."""
    rows = [["levels", "made for", "products", "cost", *(f"p = {text}" for text in PANELS.values())]]
    for levels in OUR_LEVELS:
        found = {row["power"]: row for row in result["recipes"] if row["levels"] == levels}
        one = found[0.0]
        made_for = f"[{LEVELS[levels].smallest:g}, 1]"
        head = [str(levels), made_for, products_cell(one), costs_cell(one)]
        rows.append([*head, *(errors_cell(found[power]) for power in PANELS)])
    return markdown(rows)


def quintic_table(result: dict[str, Any]) -> str:
    """The errors of the quintic method, by steps and power, beside those of published recipes of as many products."""
    rows = [["recipe", "p", "products", "made for", f"error over {', '.join(f'[{low:g}, 1]' for low in RANGES)}"]]
    for row in result["recipes"]:
        if row["steps"]:
            smallest, _ = quintics.recipes(row["steps"]).range_of(row["power"])
            made_for = f"[{smallest:.2g}, 1]"
        elif row["name"] in ("Muon, 5 steps", "Polar Express, 5 steps", "spectral powers, 8 levels"):
            made_for = ""
        else:
            continue
        rows.append([row["name"], power_text(row["power"]), products_cell(row), made_for, errors_cell(row)])
    return markdown(rows)


def published_table(result: dict[str, Any]) -> str:
    """The errors of what is published, each at its own power and beside six levels of the polynomial method."""
    rows = [["recipe", "p", "products", "cost", "error", "error of 6 levels"]]
    six = {row["power"]: row for row in result["recipes"] if row["levels"] == 6}
    for row in result["recipes"]:
        if not row["levels"] and not row["steps"]:
            head = [f"[{row['name']}]({row['source']})", power_text(row["power"]), products_cell(row), costs_cell(row)]
            rows.append([*head, errors_cell(row), errors_cell(six[row["power"]])])
    return markdown(rows)


def plans_table() -> str:
    """Restarts and costs, by precision, levels and aspect."""
    rows = [["precision", "levels", *(f"aspect {aspect}" for aspect in ASPECTS)]]
    for precision in PRECISIONS:
        for levels in OUR_LEVELS:
            cells = []
            for aspect in ASPECTS:
                planned = plan(levels, precision, aspect)
                every = len(planned.restarts) == levels - 1
                where = "all" if every else ", ".join(map(str, planned.restarts)) or "none"
                cells.append(f"{planned.cost(ASPECTS[aspect]):.1f} ({where})")
            rows.append([f"`{precision}`", str(levels), *cells])
    muon = odd_quintics(QUINTIC_STEPS)[COMPARED[0]]
    costs = [f"{muon.cost(aspect):.1f}" for aspect in ASPECTS.values()]
    return markdown([*rows, ["Muon's 5 steps", "", *costs]])


def quintic_filled(text: str) -> str:
    """The page of the quintic method with its table made anew."""
    return fill(text, "steps", "\n" + quintic_table(json.loads(RESULT.read_text())) + "\n")


def filled(text: str) -> str:
    """The page with every table made anew."""
    result = json.loads(RESULT.read_text())
    text = fill(text, "levels", "\n" + levels_table(result) + "\n")
    text = fill(text, "published", "\n" + published_table(result) + "\n")
    return fill(text, "plans", "\n" + plans_table() + "\n")


BLUES = dict(zip(OUR_LEVELS, ("#7db4da", "#559ccf", "#2f7fbc", "#125b9b", "#08306b"), strict=True))
OTHERS = ("#d55e00", "#8c5a00", "#aa3377", "#007a5a")
DASHES = ((0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)), (0, (3, 1.5)))
LOWEST, HIGHEST = 2e-4, 1.6
# Where the labels are: of ours on the flank, at this error; of others at the right, as high as the curve is here.
FLANK, PLATEAU = 0.2, 0.7


def envelope(recipe: Recipe, x: Tensor) -> Tensor:
    """The largest error on [x, 1]."""
    return recipe.error(x).flip(0).cummax(0).values.flip(0)


def apart(heights: list[float], gap: float) -> list[float]:
    """Heights in the same order, moved until each is `gap` from the next."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    moved = list(heights)
    for _ in range(200):
        for below, above in pairwise(order):
            lack = gap - (moved[above] - moved[below])
            if lack > 0:
                moved[below] -= lack / 2
                moved[above] += lack / 2
    return moved


def draw(path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    style = {"svg.hashsalt": "htmuon", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    x, every = grid(), recipes()
    shown = torch.searchsorted(x, 10 ** torch.linspace(-5, 0, 301, dtype=torch.float64)).clamp(max=len(x) - 1)
    with mpl.rc_context(style):
        figure, axes = plt.subplots(2, 2, figsize=(9.6, 7.4), sharex=True, sharey=True, layout="constrained")
        for axis, (power, text) in zip(axes.flat, PANELS.items(), strict=True):
            ends, styles = [], iter(zip(OTHERS, DASHES, strict=True))
            for recipe in (recipe for recipe in every if recipe.power == power and not recipe.steps):
                y = envelope(recipe, x)
                if recipe.levels:
                    color, dash = BLUES[recipe.levels], "-"
                    place = x[int((y > FLANK).sum())].item()
                    axis.text(place, FLANK, recipe.label, color=color, ha="center", va="center", fontweight="bold",
                              bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8}, zorder=3)  # fmt: skip
                else:
                    color, dash = next(styles)
                    ends.append((recipe.label, color, max(LOWEST * 1.2, y[x >= PLATEAU][0].item())))
                axis.plot(x[shown], y[shown].clamp(min=LOWEST / 2), color=color, linestyle=dash, linewidth=1.8)
            places = apart([math.log10(height) for _, _, height in ends], 0.17)
            for (label, color, _), place in zip(ends, places, strict=True):
                axis.annotate(label, (1, 10**place), (6, 0), textcoords="offset points", color=color, va="center",
                              annotation_clip=False)  # fmt: skip
            axis.set_title(f"p = {text}", loc="left", fontweight="bold")
            axis.set(xscale="log", yscale="log", xlim=(SMALLEST, 1), ylim=(LOWEST, HIGHEST))
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
            axis.yaxis.set_major_locator(LogLocator(10))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.yaxis.set_minor_locator(NullLocator())
            axis.grid(color="#dddddd", linewidth=0.6)
        figure.suptitle(
            "Blue, with the number of levels: the polynomial method. Dashed: published recipes.", fontsize=10
        )
        for axis in axes[1]:
            axis.set_xlabel("x = sigma / sigma_1")
        for axis in axes[:, 0]:
            axis.set_ylabel("largest relative error on [x, 1]")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a date, so that equal numbers give equal files; on white, so that dark pages show it as light ones do.
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, facecolor="white", metadata=metadata, dpi=110)
        plt.close(figure)


def main() -> None:
    RESULT.write_text(json.dumps(results(), indent=1) + "\n")
    draw(FIGURE)
    PAGE.write_text(filled(PAGE.read_text()))
    QUINTIC_PAGE.write_text(quintic_filled(QUINTIC_PAGE.read_text()))
    result = json.loads(RESULT.read_text())
    print(f"{levels_table(result)}\n\n{published_table(result)}")


if __name__ == "__main__":
    main()
