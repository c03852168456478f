"""Does alpha lie within two of its own standard errors as often as it says?

Two standard errors of a normal law hold 95.4 % of it. Out of 200 samples 91 to 99 % are three standard deviations
(1.5 % each) of that count to either side.
"""

import pytest
import torch
from analysis.samples import pareto_with_body

from htmuon.analysis import fit_power_law, fit_power_laws
from htmuon.analysis.bootstrap import goodness_of_fit


@pytest.mark.parametrize("alpha", [1.5, 2.5, 4.0])
def test_known_xmin(alpha: float) -> None:
    """The median estimator: on samples of the pure law its xmin is known to lie in the law."""
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(200, 500, generator=generator, dtype=torch.float64)
    fits = fit_power_laws((1 - uniform) ** (-1 / (alpha - 1)), "hill")
    covered = sum(abs(fit.alpha - alpha) <= 2 * fit.standard_error for fit in fits)
    assert 182 <= covered <= 198


@pytest.mark.slow
@pytest.mark.parametrize("share", [1.0, 0.5, 0.25])
def test_chosen_xmin(share: float) -> None:
    """The KS estimator: the bootstrap's standard error covers, the plain one, which takes xmin as given, less often.

    Logarithms of these samples scale with 1 / (alpha - 1), so one alpha stands for all. Measured on 200 samples
    with 60 synthetic spectra each: 97, 97.5 and 99.5 % for the three shares; 86.5, 91 and 91 % with the plain one.
    """
    generator = torch.Generator().manual_seed(1)
    samples = [pareto_with_body(300, 2.5, share, generator) for _ in range(100)]
    plain = bootstrapped = 0
    for values in samples:
        fit = fit_power_law(values)
        assert fit.ok
        plain += abs(fit.alpha - 2.5) <= 2 * fit.standard_error
        bootstrapped += abs(fit.alpha - 2.5) <= 2 * goodness_of_fit(values, fit, samples=30).standard_error
    assert bootstrapped >= 91
    assert plain < bootstrapped
