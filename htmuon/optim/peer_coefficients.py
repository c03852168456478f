"""Published coefficients of Newton-Schulz steps by other names than ours: what `htmuon.like` makes of them.

Facts with their source; `(a, b, c)` of `X <- a X + (b A + c A^2) X`, `A = X X^T`, a row a step.
"""

from collections.abc import Sequence

from htmuon.linalg.newton_schulz import POLAR_EXPRESS, QUINTIC, QUINTIC_STEPS

Row = tuple[float, float, float]

# You Jiacheng's (https://leloykun.github.io/ponder/muon-opt-coeffs/), the default of timm, heavyball and dion.
YOU: tuple[Row, ...] = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
# Polar Express (arXiv 2505.16932) made anew with a margin of 1 %, by the name polar_express in timm.
POLAR_EXPRESS_1: tuple[Row, ...] = (
    (8.237312490495555, -23.157747414558198, 16.680568411445915),
    (4.082441999064835, -2.893047735332586, 0.5252849256975648),
    (3.9263479922546582, -2.8547468034765298, 0.5318022422894988),
    (3.2982187133085143, -2.424541981026706, 0.48632008358844075),
    (2.2970369434552573, -1.63662558125903, 0.4002628455953627),
    (1.8763805351440397, -1.2347896577722228, 0.35891887501668385),
    (1.8564423485617974, -1.2132449880935525, 0.3568003487825883),
    (1.8749994008682747, -1.2499988017229169, 0.3749994008546422),
)
# The same with a margin of 2 %, by the name polar_express_safer in timm.
POLAR_EXPRESS_2: tuple[Row, ...] = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.0429299351667245, -2.808917465908704, 0.5000178451051299),
    (3.8916678022926563, -2.7724841532176825, 0.5060648178503389),
    (3.285753657755658, -2.3681294933425394, 0.46449024233003117),
    (2.3005307116270983, -1.6111665557258408, 0.3833374427545273),
    (1.8631210546382593, -1.2042160621002727, 0.3421879560523383),
    (1.8382572152247512, -1.1779263289537742, 0.3396513038637379),
    (1.8749999923301852, -1.2499999836060613, 0.374999991275876),
)
# The same for five steps, as nanochat, muonium and optimuon have it; these divide by 1.02 norm_F(M).
POLAR_EXPRESS_OF_FIVE: tuple[Row, ...] = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
# As Emerging-Optimizers rounds Polar Express with a margin of 1 %.
POLAR_EXPRESS_ROUNDED: tuple[Row, ...] = (
    (8.2051, -22.9019, 16.4607),
    (4.0664, -2.8612, 0.5184),
    (3.9096, -2.8234, 0.5250),
    (3.2856, -2.4153, 0.4853),
    (2.2779, -1.6198, 0.3985),
    (1.8726, -1.2307, 0.3585),
    (1.8564, -1.2132, 0.3568),
    (1.8750, -1.2500, 0.3750),
)


def scaled(rows: Sequence[Row], divisor: float) -> tuple[Row, ...]:
    """The rows of steps that take `X / divisor` for X.

    Example:
        >>> scaled([(2.0, 8.0, 64.0)], 2.0)
        ((1.0, 1.0, 2.0),)
    """
    return tuple((a / divisor, b / divisor**3, c / divisor**5) for a, b, c in rows)


# What gram-newton-schulz takes by default: the paper's rows with a margin of 5 % in each.
POLAR_EXPRESS_5 = scaled(POLAR_EXPRESS[:5], 1.05)
OF_MUON: tuple[Row, ...] = (QUINTIC,) * QUINTIC_STEPS
