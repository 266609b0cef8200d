"""How often an experiment that is looked at all the time errs, and how long it takes to find a difference.

`python -m load_tests.studies.experiments` prints tables and writes results/experiments.json. Simulated: every unit has
a score (a beta distribution) and a label that is 1 with that probability. Beside the sequences that `causeway
experiment` shows: a z-test with the same looks, the rows that it takes with one look, and other sequences that hold at
every look.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln

from causeway.experiments import sequence
from causeway.experiments.measure import ALPHA, RATIO_ALPHA
from causeway.experiments.sequence import Flags, Floats
from load_tests.circumstances import circumstances

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "load_tests/results/experiments.json"
SEED = 0
EXPERIMENTS = 2_000
ROWS = 20_000
EVERY = 100
"""Rows between two looks."""

DIFFERENT = 100
"""Experiments with a difference, of each kind."""

LIFT = 1.2
"""What the variant's mean is then, over the champion's."""

POWER = 0.8
AT_ONCE = 2_000_000
"""Rows that are simulated together."""


@dataclass(frozen=True)
class Kind:
    """Experiments with the same shares and means."""

    rate: float
    """The champion's mean score, which is its conversion rate."""
    share: float
    """The variant's, of the rows."""
    patience: int
    """Rows after which a difference is given up."""

    def __str__(self) -> str:
        return f"{self.rate:.1%} conversions, {self.share:.0%} variant"


KINDS = (Kind(0.008, 0.5, 400_000), Kind(0.05, 0.5, 150_000), Kind(0.05, 0.1, 300_000))


@dataclass(frozen=True)
class Simulated:
    """Experiments side by side: each (n_experiments, n_rows)."""

    is_variant: Flags
    scores: Floats
    labels: Floats


def main() -> None:
    """Measures everything once, prints it and keeps it."""
    begun = time.perf_counter()
    result = {
        **circumstances(SEED),
        "experiments": EXPERIMENTS,
        "rows": ROWS,
        "rows_between_looks": EVERY,
        "alpha": ALPHA,
        "without_difference": [without_difference(kind) for kind in KINDS],
        "lift": LIFT,
        "experiments_with_difference": DIFFERENT,
        "with_difference": [with_difference(kind) for kind in KINDS],
        "seconds": time.perf_counter() - begun,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(markdown(result))


def without_difference(kind: Kind) -> dict[str, Any]:
    """The share of experiments that were ever called different, although the two are the same."""
    looks = np.arange(EVERY, ROWS + 1, EVERY)
    wrong: list[Flags] = []
    for simulated in simulations(kind, lift=1.0, n=EXPERIMENTS, n_rows=ROWS):
        labels = finds(simulated.labels, simulated.is_variant, kind.share, looks)
        scores = finds(simulated.scores, simulated.is_variant, kind.share, looks)
        ratio = ratio_is_off(simulated.is_variant, kind.share, looks)
        z_test = z_test_finds(simulated.labels, simulated.is_variant, looks)
        wrong.append(np.stack([labels, scores, labels | scores, ratio, z_test], -1).max(1))
    names = ("labels", "scores", "verdict", "sample_ratio", "z_test_with_peeking")
    return asdict(kind) | dict(zip(names, np.concatenate(wrong).mean(0).tolist(), strict=True))


def with_difference(kind: Kind) -> dict[str, Any]:
    """Median rows until a difference is found (None: later than was waited), and how often intervals miss the truth."""
    looks = np.arange(EVERY, kind.patience + 1, EVERY)
    found: dict[str, list[Floats]] = {"labels": [], "scores": [], "beta_mixtures": [], "separate_intervals": []}
    misses: list[Flags] = []
    for simulated in simulations(kind, lift=LIFT, n=DIFFERENT, n_rows=kind.patience):
        y, is_variant = simulated.labels, simulated.is_variant
        truth = kind.rate * (LIFT - 1)
        misses.append(finds(y, is_variant, kind.share, looks, truth).max(1))
        found["labels"].append(first(finds(y, is_variant, kind.share, looks), looks))
        found["scores"].append(first(finds(simulated.scores, is_variant, kind.share, looks), looks))
        found["beta_mixtures"].append(first(beta_mixtures_find(y, is_variant, looks), looks))
        found["separate_intervals"].append(first(separate_intervals_find(y, is_variant, looks), looks))
    median = {name: float(np.median(np.concatenate(rows))) for name, rows in found.items()}
    return (
        asdict(kind)
        | {name: None if math.isinf(rows) else rows for name, rows in median.items()}
        | {"z_test_with_one_look": z_test_rows(kind), "misses": float(np.concatenate(misses).mean())}
    )


def simulations(kind: Kind, *, lift: float, n: int, n_rows: int) -> Iterator[Simulated]:
    """`n` experiments, some at a time."""
    generator = np.random.default_rng(SEED)
    at_once = max(1, AT_ONCE // n_rows)
    for done in range(0, n, at_once):
        shape = min(at_once, n - done), n_rows
        is_variant = generator.random(shape) < kind.share
        means = np.where(is_variant, kind.rate * lift, kind.rate)
        scores = generator.beta(means, 1 - means)
        yield Simulated(is_variant, scores, (generator.random(shape) < scores).astype(np.float64))


def finds(y: Floats, is_variant: Flags, share: float, looks: NDArray[np.int_], expected: float = 0.0) -> Flags:
    """At each look, whether the interval that `causeway experiment` shows is without the `expected` difference."""
    total, squares, weight = (part[:, looks - 1] for part in sequence.difference_sums(y, is_variant, share))
    return sequence.evidence(total - expected * weight, squares) >= -math.log(ALPHA / 2)


def ratio_is_off(is_variant: Flags, share: float, looks: NDArray[np.int_]) -> Flags:
    """At each look, whether the sample ratio is called off."""
    n_variant = np.cumsum(is_variant, 1)[:, looks - 1].astype(np.float64)
    return sequence.ratio_evidence(looks - n_variant, n_variant, share) >= -math.log(RATIO_ALPHA)


def z_test_finds(y: Floats, is_variant: Flags, looks: NDArray[np.int_]) -> Flags:
    """At each look, whether the test for two proportions says p < ALPHA: it is made for one look."""
    (n_a, sum_a), (n_b, sum_b) = arms(y, is_variant, looks)
    pooled = (sum_a + sum_b) / looks
    error = np.sqrt(pooled * (1 - pooled) * (1 / np.maximum(n_a, 1) + 1 / np.maximum(n_b, 1)))
    difference = np.abs(sum_b / np.maximum(n_b, 1) - sum_a / np.maximum(n_a, 1))
    return (difference > NormalDist().inv_cdf(1 - ALPHA / 2) * error) & (error > 0)


def z_test_rows(kind: Kind) -> float:
    """Rows with which that test finds the difference in labels with probability POWER, at its only look."""
    a, b = kind.rate, kind.rate * LIFT
    variance = a * (1 - a) / (1 - kind.share) + b * (1 - b) / kind.share
    return math.ceil((NormalDist().inv_cdf(1 - ALPHA / 2) + NormalDist().inv_cdf(POWER)) ** 2 * variance / (b - a) ** 2)


def beta_mixtures_find(y: Floats, is_variant: Flags, looks: NDArray[np.int_]) -> Flags:
    """At each look, whether no common rate is plausible, by a Jeffreys mixture for each arm."""
    counted = arms(y, is_variant, looks)
    n, total = (sum(parts) for parts in zip(*counted, strict=True))
    common = np.clip(total / n, 1e-12, 1 - 1e-12)
    e = sum(betaln(0.5 + k, 0.5 + of - k) - betaln(0.5, 0.5) for of, k in counted)
    return np.asarray(e - total * np.log(common) - (n - total) * np.log1p(-common) >= -math.log(ALPHA / 2))


def separate_intervals_find(y: Floats, is_variant: Flags, looks: NDArray[np.int_]) -> Flags:
    """At each look, whether the two arms' empirical-Bernstein sequences, each with half the error, are apart.

    Predictable plug-in: Waudby-Smith and Ramdas (JRSS-B 86, 2024), theorem 2, with lambda <= 1/2.
    """
    centres, radii = zip(*(_plug_in(y, arm, ALPHA / 4, looks) for arm in (~is_variant, is_variant)), strict=True)
    return np.asarray(np.abs(centres[1] - centres[0]) > radii[0] + radii[1])


def _plug_in(y: Floats, arm: Flags, alpha: float, looks: NDArray[np.int_]) -> tuple[Floats, Floats]:
    n = np.cumsum(arm, 1)
    before = np.maximum(n - 1, 0)
    mean = (0.5 + np.cumsum(y * arm, 1)) / (n + 1)
    mean_before = (0.5 + np.cumsum(y * arm, 1) - y * arm) / (before + 1)
    squares = (y - mean) ** 2 * arm
    variance_before = (0.25 + np.cumsum(squares, 1) - squares) / (before + 1)
    t = np.maximum(n, 1)
    rate = arm * np.minimum(np.sqrt(2 * math.log(2 / alpha) / (variance_before * t * np.log1p(t))), 0.5)
    spread = (y - mean_before) ** 2 * (-np.log1p(-rate) - rate)
    rates, total, spreads = (np.cumsum(part, 1)[:, looks - 1] for part in (rate, rate * y, spread))
    rates = np.maximum(rates, 1e-12)
    return total / rates, (math.log(2 / alpha) + spreads) / rates


def arms(y: Floats, is_variant: Flags, looks: NDArray[np.int_]) -> list[tuple[Floats, Floats]]:
    """Rows and the sum of their outcomes at each look: the champion's, then the variant's."""
    return [
        (np.cumsum(arm, 1)[:, looks - 1].astype(np.float64), np.cumsum(y * arm, 1)[:, looks - 1])
        for arm in (~is_variant, is_variant)
    ]


def first(is_found: Flags, looks: NDArray[np.int_]) -> Floats:
    """Rows at the first look that found something; infinity where none did."""
    return np.where(is_found.any(1), looks[is_found.argmax(1)], np.inf)


def markdown(result: dict[str, Any]) -> str:
    """The README's tables."""
    lines = [
        "| no difference | verdict | labels | scores | sample ratio | z-test, the same looks |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    columns = ("verdict", "labels", "scores", "sample_ratio", "z_test_with_peeking")
    lines += [
        f"| {_kind(row)} | " + " | ".join(f"{row[name]:.1%}" for name in columns) + " |"
        for row in result["without_difference"]
    ]
    lines += [
        "",
        f"| rows to find {result['lift'] - 1:.0%} more | labels | scores | z-test, one look | beta mixtures "
        "| separate intervals | truth missed |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    columns = ("labels", "scores", "z_test_with_one_look", "beta_mixtures", "separate_intervals")
    for row in result["with_difference"]:
        numbers = [f"over {row['patience']:,}" if row[name] is None else f"{row[name]:,.0f}" for name in columns]
        lines.append(f"| {_kind(row)} | " + " | ".join(numbers) + f" | {row['misses']:.1%} |")
    return "\n".join([*lines, ""])


def _kind(row: dict[str, Any]) -> str:
    return str(Kind(row["rate"], row["share"], row["patience"]))


if __name__ == "__main__":
    main()
