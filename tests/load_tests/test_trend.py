"""Growth is told from noise."""

import numpy as np

from load_tests.trend import Trend

AT_S = np.arange(100.0).tolist()
NOISE = np.random.default_rng(0).normal(0, 1, 100)


def test_a_line_is_found_under_noise_and_a_few_outliers() -> None:
    values = 500 + 0.5 * np.arange(100) + NOISE
    values[[3, 50]] = 5_000
    trend = Trend.of(AT_S, values.tolist())
    assert trend.least < 0.5 < trend.most
    assert trend.grows(0.01)


def test_noise_is_no_growth_and_neither_is_less_than_what_matters() -> None:
    assert not Trend.of(AT_S, (500 + NOISE).tolist()).grows(0.0)
    assert not Trend.of(AT_S, (500 + 0.01 * np.arange(100)).tolist()).grows(0.01)
    assert not Trend.of(AT_S, [7.0] * 100).grows(0.0)
    assert not Trend.of(AT_S, (500 - np.arange(100)).tolist()).grows(0.0)


def test_it_says_by_the_hour_which_growth_is_excluded() -> None:
    assert Trend.of([0.0, 1.0, 2.0], [10.0, 11.0, 12.0]).says("MB") == "11 MB, +3 600 to +3 600 MB an hour"
