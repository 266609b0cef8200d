"""A canary that is worse is found, whatever is worse about it; one that is no worse is left alone at every look."""

from __future__ import annotations

import dataclasses
import math
from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from causeway.drift.statistics import psi
from causeway.figures import Counts, Figures
from causeway.judge import Limits, Z, compare, is_surely_more, psi_by_chance
from causeway.monitoring.metrics import SCORE_BUCKETS, VARIANT_BUCKETS_S

N_PAIRS = 2000
LIMITS = Limits()
FIELDS = ("errors", "refusals", "not_finite", "p99_ratio", "psi")
"""The limits in the order of the comparisons."""
ERRS_WITH = scipy.stats.norm.sf(Z)
"""Probability with which one comparison without a difference errs."""

histograms = arrays(np.float64, len(SCORE_BUCKETS) + 1, elements=st.integers(0, 1000).map(float))


def bucketed(values: np.ndarray, bounds: tuple[float, ...]) -> Counts:
    return np.bincount(np.searchsorted(bounds, values), minlength=len(bounds) + 1).astype(float)


def simulated(
    rng: np.random.Generator,
    n: int,
    *,
    failing: float = 0.002,
    refused: float = 0.005,
    nan: float = 0.0,
    slow: float = 0.0,
    shift: float = 0.0,
) -> Figures:
    """What a version's `n` requests leave behind: shares of them fail, are refused, NaN, or take 50 ms longer."""
    failed, refusals, answered = (int(count) for count in rng.multinomial(n, [failing, refused, 1 - failing - refused]))
    took_s = rng.lognormal(math.log(0.002), 0.7, answered) + 0.05 * (rng.random(answered) < slow)
    not_finite = int(rng.binomial(answered, nan))
    return Figures(
        {200: answered, 500: failed - failed // 2, 504: failed // 2, 503: refusals},
        bucketed(took_s, VARIANT_BUCKETS_S),
        bucketed(rng.beta(0.6 + shift, 6, answered - not_finite), SCORE_BUCKETS),
        not_finite,
    )


def sum_of(one: Figures, other: Figures) -> Figures:
    statuses = one.by_status.keys() | other.by_status.keys()
    return Figures(
        {status: one.by_status.get(status, 0) + other.by_status.get(status, 0) for status in statuses},
        one.latencies + other.latencies,
        one.scores + other.scores,
        one.not_finite + other.not_finite,
    )


observed = st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
"""How many, and of how many."""


@given(observed, observed, st.floats(0, 0.1), st.floats(0, 0.1))
def test_a_share_within_the_limit_is_never_surely_more(
    champion: tuple[int, int], canary: tuple[int, int], more: float, least: float
) -> None:
    reference, share = (part / whole for part, whole in (champion, canary))
    if share <= max(reference + more, least):
        assert not is_surely_more(champion, canary, more, least)


@given(observed, observed, st.floats(0, 0.1))
def test_what_is_surely_more_is_so_with_more_of_it_and_with_a_lower_limit(
    champion: tuple[int, int], canary: tuple[int, int], more: float
) -> None:
    if is_surely_more(champion, canary, more):
        assert is_surely_more(champion, (10 * canary[0], 10 * canary[1]), more)
        assert is_surely_more(champion, canary, more / 2)


@given(st.integers(5, 300), st.integers(5, 300), st.integers(5, 300), st.integers(5, 300))
def test_without_a_limit_it_is_the_g_test_of_a_two_by_two_table(a: int, b: int, c: int, d: int) -> None:
    g = scipy.stats.chi2_contingency([[a, b], [c, d]], correction=False, lambda_="log-likelihood").statistic
    is_more = c / (c + d) > a / (a + b)
    assert is_surely_more((a, a + b), (c, c + d)) == (is_more and g > Z * Z)


@pytest.mark.parametrize(
    ("n", "m", "share"), [(30, 30, 0.02), (30, 30, 0.3), (40, 10, 0.05), (10, 40, 0.05), (100_000, 10, 0.0005)]
)
def test_of_two_equal_shares_one_is_hardly_ever_surely_more(n: int, m: int, share: float) -> None:
    deviation = math.sqrt(n * share * (1 - share))
    likely = range(max(0, int(n * share - 6 * deviation)), min(n, int(n * share + 6 * deviation)) + 1)
    errs_with = sum(
        scipy.stats.binom.pmf(j, n, share) * scipy.stats.binom.pmf(k, m, share)
        for j, k in product(likely, range(m + 1))
        if is_surely_more((j, n), (k, m))
    )
    assert errs_with < 5 * ERRS_WITH


@pytest.mark.parametrize(
    ("champion", "canary", "is_more"),
    [
        ((0, 0), (0, 0), False),
        ((0, 100), (0, 0), False),
        ((0, 0), (1, 10), False),
        ((0, 0), (5, 10), True),
        ((200, 100_000), (1, 10), False),
        ((0, 100), (10, 100), False),
        ((0, 100), (30, 100), True),
        ((100, 100), (100, 100), False),
        ((50, 100), (100, 100), True),
        ((0, 1), (51, 52), False),
        ((0, 4), (190, 190), True),
    ],
)
def test_few_observations_prove_little_and_none_nothing(
    champion: tuple[int, int], canary: tuple[int, int], is_more: bool
) -> None:
    assert is_surely_more(champion, canary, 0.001) == is_more


@given(histograms)
def test_against_nothing_chance_gives_nothing(counts: Counts) -> None:
    nothing = np.zeros_like(counts)
    assert psi_by_chance(counts, nothing) == psi_by_chance(nothing, counts) == 0


@given(st.integers(2, 18), st.integers(50, 10**6), st.integers(50, 10**6))
def test_what_chance_gives_is_a_quantile_of_chi_squared(bins: int, n: int, m: int) -> None:
    reference, current = np.full(bins, n / bins), np.full(bins, m / bins)
    quantile = scipy.stats.chi2.isf(ERRS_WITH, bins - 1)
    assert psi_by_chance(reference, current) == pytest.approx((1 / n + 1 / m) * quantile, rel=0.1)


@pytest.mark.parametrize("shape", [(0.6, 6.0), (0.1, 2.0), (1.0, 1.0)], ids=str)
@pytest.mark.parametrize(("n", "m"), [(10_000, 100), (500, 500), (100, 10_000)])
def test_samples_of_one_distribution_hardly_ever_exceed_what_chance_gives(
    shape: tuple[float, float], n: int, m: int
) -> None:
    rng = np.random.default_rng(0)
    pairs = [[bucketed(rng.beta(*shape, size), SCORE_BUCKETS) for size in (n, m)] for _ in range(N_PAIRS)]
    exceeded = [psi(*pair) > psi_by_chance(*pair) for pair in pairs]
    assert np.mean(exceeded) <= 0.005


def alarms(champion: Figures, canary: Figures, limits: Limits = LIMITS) -> list[str]:
    return [comparison.name for comparison in compare(champion, canary, limits) if comparison.is_worse]


@pytest.mark.parametrize(("champion", "canary"), [(10, 1000), (100, 100), (1000, 30), (5000, 500), (500, 5000)])
def test_where_there_is_no_difference_there_is_hardly_ever_an_alarm(champion: int, canary: int) -> None:
    rng = np.random.default_rng(0)
    found = [alarms(simulated(rng, champion), simulated(rng, canary)) for _ in range(N_PAIRS)]
    assert sum(map(len, found)) <= 1, found


def test_a_rollout_without_a_difference_goes_back_rarely_however_often_it_is_looked_at() -> None:
    """Nor do the first failures among few answers end it, where the champion's many are known to the last digit."""
    rng = np.random.default_rng(0)
    n_rollouts, went_back = 100, 0
    for _ in range(n_rollouts):
        champion, canary = simulated(rng, 100_000, nan=0.001), Figures()
        for _ in range(100):
            canary = sum_of(canary, simulated(rng, 5, nan=0.001))
            if alarms(champion, canary):
                went_back += 1
                break
    assert went_back <= 0.01 * n_rollouts


@pytest.mark.parametrize(
    ("degradation", "name"),
    [
        ({"failing": 0.03}, "error rate"),
        ({"refused": 0.08}, "refusals"),
        ({"nan": 0.02}, "share of NaN"),
        ({"slow": 0.06}, "p99 latency, s"),
        ({"shift": 0.8}, "PSI of the scores"),
    ],
    ids=str,
)
def test_a_version_that_is_worse_is_found_by_what_is_worse(degradation: dict[str, float], name: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        assert alarms(simulated(rng, 20_000), simulated(rng, 2000, **degradation)) == [name]


@pytest.mark.parametrize("name", FIELDS)
def test_a_limit_without_end_holds_nothing_against_a_version(name: str) -> None:
    rng = np.random.default_rng(0)
    worse = {"failing": 0.1, "refused": 0.2, "nan": 0.1, "slow": 0.2, "shift": 1.0}
    champion, canary = simulated(rng, 20_000), simulated(rng, 2000, **worse)
    everything = alarms(champion, canary)
    assert len(everything) == 5
    left = alarms(champion, canary, dataclasses.replace(LIMITS, **{name: math.inf}))
    assert [each for each in everything if each not in left] == [everything[FIELDS.index(name)]]


def test_a_version_that_is_better_is_not_worse() -> None:
    rng = np.random.default_rng(0)
    bad, good = simulated(rng, 20_000, failing=0.1, refused=0.2, nan=0.1, slow=0.2), simulated(rng, 2000)
    assert alarms(bad, good) == []


@pytest.mark.parametrize(("champion", "canary"), list(product([0, 5000], repeat=2)))
def test_where_one_of_them_answered_nothing_the_other_is_not_condemned(champion: int, canary: int) -> None:
    rng = np.random.default_rng(0)
    one, other = (simulated(rng, n, failing=0.0, refused=0.0) for n in (champion, canary))
    assert alarms(one, other) == []


def test_a_comparison_says_its_name_and_its_figures() -> None:
    champion, canary = Figures({200: 998.0, 500: 2.0}), Figures({200: 90.0, 500: 10.0})
    worse = [str(comparison) for comparison in compare(champion, canary, LIMITS) if comparison.is_worse]
    assert worse == ["error rate 0.1 (champion 0.002, allowed 0.003)"]


def test_one_row_that_is_asked_often_is_no_shift_until_there_are_enough_of_them() -> None:
    def one_row(bucket: int, n: int) -> Figures:
        return Figures({200: float(n)}, scores=np.bincount([bucket], minlength=len(Figures().scores)) * float(n))

    for n, is_worse in ((99, False), (100, True)):
        shift = next(c for c in compare(one_row(4, 1000), one_row(5, n), Limits()) if c.name.startswith("PSI"))
        assert shift.is_worse == is_worse
