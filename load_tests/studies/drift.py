"""Whether drift is found, and how often it is cried without cause.

`python -m load_tests.studies.drift` takes about two minutes.

On the fraud model's simulated transactions, beside SciPy's two-sample Kolmogorov-Smirnov test of every column, which
keeps all reference values and has its level divided by the number of columns. Both compare the same windows with the
same held-out rows. Prints the README's tables and writes results/drift.json.

Windows of the reference are drawn from the held-out rows, each row independently; shifts are made in one feature of
such windows, and found where that feature alarms. Windows in time are rows in a row: of later weeks of the same
simulated customers, and of other worlds (other seeds, so other customers and terminals); the same model scores them.

Thresholds are tried as they are saved, for traffic in time, and as they would be without times, for independent rows.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from causeway.contract import Array, Feature
from causeway.drift.calibration import RATE, Samples, calibrate
from causeway.drift.comparison import compare
from causeway.drift.reference import Reference
from causeway.training.dataset import Dataset, Trained, split
from load_tests.circumstances import circumstances
from models import gradient_boosting
from models.simulator import Simulation, simulate
from models.transactions import CONTRACT, EVALUATED_DAYS, LABEL, TIME, default_data, from_table
from models.windows import add_features

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "load_tests/results/drift.json"
SEED = 0
ROWS, MANY_ROWS = 1_000, 16_000
"""Of a window."""
WINDOWS = 1_000
SHIFTED_WINDOWS, FEW_WINDOWS = 200, 50
"""Of `ROWS`, and of `MANY_ROWS`."""
LATER_WEEKS = 5
WORLDS = (1, 2, 3, 4, 5)
"""Seeds."""
FEATURES = {
    "TX_AMOUNT": "amount",
    "CUSTOMER_ID_NB_TX_7DAY_WINDOW": "count",
    "TERMINAL_ID_RISK_30DAY_WINDOW": "risk",
    "TX_DURING_NIGHT": "yes or no",
}
MEAN_BY, SCALE_BY, CONSTANT_SHARE = 0.25, 1.25, 0.05
KINDS = {
    "drawn": "drawn from the reference",
    "later_weeks": "in time, later weeks",
    "other_worlds": "in time, other customers",
}
COLUMNS = (*CONTRACT.names, CONTRACT.output.name)

Rows = tuple[Array, Array]
"""X (n, n_features) and scores (n,)."""
Watch = Callable[[Rows, Sequence[str]], set[str]]
"""The columns of a window, among those named, that alarm."""
Shift = Callable[[Array, Array, Feature, np.random.Generator], Array]
"""Values (n,), as they come after a change; by those of the held-out rows, and what the feature may be."""


def main() -> None:
    """Measures everything once, prints it and keeps it."""
    begun = time.perf_counter()
    head = circumstances(SEED)
    result = {
        **head,
        "versions": {**head["versions"], "scipy": version("scipy")},
        "settings": {
            "rows": ROWS,
            "many_rows": MANY_ROWS,
            "windows": WINDOWS,
            "shifted_windows": SHIFTED_WINDOWS,
            "few_windows": FEW_WINDOWS,
            "later_weeks": LATER_WEEKS,
            "worlds": list(WORLDS),
            "stated_rate": RATE,
        },
        **Trial.prepared().result(),
    }
    result["took_s"] = time.perf_counter() - begun
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    print(markdown(result))


@dataclass(frozen=True)
class Trial:
    """A trained model and the rows that its reference is made of."""

    model: Trained
    training: Dataset
    held_out: Dataset

    @classmethod
    def prepared(cls) -> Trial:
        """The reference model, trained as `make train` does."""
        parts = split(default_data(SEED), seed=SEED)
        model = gradient_boosting.train(parts.train, gradient_boosting.Params(), SEED)
        return cls(model, parts.train, parts.test)

    def result(self) -> dict[str, Any]:
        """All figures."""
        return {
            "reference_rows": len(self.held_out),
            "calibration_s": seconds(lambda: self.reference(is_in_time=True)),
            "counting_ns_a_value": {str(n): self.counting_ns(n) for n in (1, 100, 1_000, 10_000)},
            "false_alarms": {
                "drawn": alarm_shares(self.watches, self.drawn(WINDOWS, ROWS)),
                "later_weeks": alarm_shares(self.watches, self.in_time(later_weeks())),
                "other_worlds": alarm_shares(self.watches, self.in_time(other_worlds())),
            },
            "shifts": [
                {
                    "feature": name,
                    "shift": shift,
                    "by": self.found(name, SHIFTS[shift], SHIFTED_WINDOWS, ROWS),
                    "by_many_rows": self.found(name, SHIFTS[shift], FEW_WINDOWS, MANY_ROWS),
                }
                for name in FEATURES
                for shift in SHIFTS
            ],
        }

    @cached_property
    def watches(self) -> dict[str, Watch]:
        """What is compared: two calibrations of ours, and SciPy's test."""
        return {
            "causeway": ours(self.reference(is_in_time=True)),
            "causeway, independent rows": ours(self.reference(is_in_time=False)),
            "scipy ks_2samp": scipys(self.reference_rows),
        }

    def reference(self, *, is_in_time: bool) -> Reference:
        """As it is saved, or as it would be for rows without times."""
        held_out, scores = self.reference_rows
        return calibrate(
            COLUMNS, Samples(self.training.X, held_out, scores, self.held_out.time if is_in_time else None), SEED
        )

    @cached_property
    def reference_rows(self) -> Rows:
        """The held-out rows with their scores."""
        return self.scored(self.held_out.X)

    def scored(self, X: Array) -> Rows:
        """Rows with their scores."""
        return X, self.model.predict(X).astype(np.float32)

    def drawn(self, n_windows: int, n_rows: int) -> Iterator[Rows]:
        """Windows of rows drawn from the held-out ones; the same ones in every call."""
        rng = np.random.default_rng(SEED)
        X, scores = self.reference_rows
        for _ in range(n_windows):
            rows = rng.integers(len(X), size=n_rows)
            yield X[rows], scores[rows]

    def in_time(self, weeks: Iterable[Dataset]) -> Iterator[Rows]:
        """Windows of rows in a row, within each week."""
        for week in weeks:
            assert week.time is not None
            X, scores = self.scored(week.X[np.argsort(week.time, kind="stable")])
            for start in range(0, len(X) - ROWS + 1, ROWS):
                yield X[start : start + ROWS], scores[start : start + ROWS]

    def found(self, name: str, shift: Shift, n_windows: int, n_rows: int) -> dict[str, Any]:
        """By watch, the share of shifted windows in which the feature alarms, and the delay in rows until it does."""
        place = CONTRACT.names.index(name)
        rng = np.random.default_rng(SEED)
        alarms: dict[str, list[bool]] = {watch: [] for watch in self.watches}
        for X, scores in self.drawn(n_windows, n_rows):
            shifted = X.copy()
            shifted[:, place] = shift(X[:, place], self.held_out.X[:, place], CONTRACT.features[place], rng)
            for watch, alarming in self.watches.items():
                alarms[watch].append(name in alarming((shifted, scores), [name]))
        return {watch: detection(seen, n_rows) for watch, seen in alarms.items()}

    def counting_ns(self, n: int) -> float:
        """Nanoseconds a value that `Reference.count` takes for n rows at once."""
        reference = self.reference(is_in_time=False)
        X, scores = (values[:n] for values in self.reference_rows)
        took = min(seconds(lambda: reference.count(X, scores)) for _ in range(20))
        return 1e9 * took / n / len(COLUMNS)


def later_weeks() -> Iterator[Dataset]:
    """Held-out weeks of the world that the model was trained in, after its own; their days are drawn anew."""
    days = Simulation().n_days
    transactions = add_features(simulate(Simulation(n_days=days + 7 * LATER_WEEKS), SEED))
    day = (transactions[TIME] - transactions[TIME].min().normalize()).dt.days
    for end in range(days + 7, days + 7 * LATER_WEEKS + 1, 7):
        recent = transactions[(day >= end - EVALUATED_DAYS) & (day < end)]
        yield split(from_table(recent, LABEL, "later weeks"), seed=SEED).test


def other_worlds() -> Iterator[Dataset]:
    """Held-out weeks of worlds with other customers and terminals."""
    for seed in WORLDS:
        yield split(default_data(seed), seed=seed).test


def ours(reference: Reference) -> Watch:
    """Alarms of `compare`."""

    def alarming(rows: Rows, names: Sequence[str]) -> set[str]:
        return set(compare(reference, reference.count(*rows)).drifted) & set(names)

    return alarming


def scipys(reference: Rows) -> Watch:
    """Columns whose p-value is below the stated rate over the number of columns."""
    before = dict(zip(COLUMNS, [*reference[0].T, reference[1]], strict=True))

    def alarming(rows: Rows, names: Sequence[str]) -> set[str]:
        now = dict(zip(COLUMNS, [*rows[0].T, rows[1]], strict=True))
        tests = {name: ks_2samp(before[name], now[name], method="asymp") for name in names}
        return {name for name, test in tests.items() if test.pvalue < RATE / len(COLUMNS)}

    return alarming


def mean_shifted(values: Array, before: Array, feature: Feature, rng: np.random.Generator) -> Array:
    """A quarter of a standard deviation more; of a yes or no, so many more yes that the mean is that much more."""
    by = MEAN_BY * float(before.std())
    if is_yes_or_no(feature):
        return np.maximum(values, rng.random(len(values)) < by / (1 - float(before.mean()))).astype(np.float32)
    return within(values + by, feature)


def scaled(values: Array, before: Array, feature: Feature, rng: np.random.Generator) -> Array:
    """A quarter more spread about the mean, as far as the contract allows; a yes or no has no other values."""
    return within(before.mean() + SCALE_BY * (values - before.mean()), feature)


def turned_constant(values: Array, before: Array, feature: Feature, rng: np.random.Generator) -> Array:
    """5 % of the values, drawn at random, turned to the contract's minimum."""
    return np.where(rng.random(len(values)) < CONSTANT_SHARE, feature.minimum, values).astype(np.float32)


SHIFTS: dict[str, Shift] = {
    "mean by 0.25 sd": mean_shifted,
    "scale by 1.25": scaled,
    "5 % turned to the minimum": turned_constant,
}


def is_yes_or_no(feature: Feature) -> bool:
    return feature.dtype == "integer" and (feature.minimum, feature.maximum) == (0, 1)


def within(values: NDArray[np.floating[Any]], feature: Feature) -> Array:
    """The nearest values that the contract takes."""
    whole = np.rint(values) if feature.dtype == "integer" else values
    taken: Array = np.clip(whole, feature.minimum, feature.maximum).astype(np.float32)
    return taken


def alarm_shares(watches: dict[str, Watch], windows: Iterator[Rows]) -> dict[str, Any]:
    """By watch, the share of windows in which any column alarms, and how often each column does."""
    seen: dict[str, list[set[str]]] = {watch: [] for watch in watches}
    for window in windows:
        for watch, alarming in watches.items():
            seen[watch].append(alarming(window, COLUMNS))
    return {
        watch: {
            "windows": len(alarms),
            "share": sum(map(bool, alarms)) / len(alarms),
            "by_column": dict(Counter(name for names in alarms for name in sorted(names)).most_common()),
        }
        for watch, alarms in seen.items()
    }


def detection(alarms: Sequence[bool], n_rows: int) -> dict[str, float | None]:
    """The share of windows with an alarm, and the median number of rows from one alarm to the next; None without any.

    The windows follow one another, and a shift that is found begins anew: each gap is a delay.
    """
    places = np.flatnonzero(alarms)
    delays = n_rows * np.diff(places, prepend=-1)
    return {"share": len(places) / len(alarms), "delay_rows": float(np.median(delays)) if len(places) else None}


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def markdown(result: dict[str, Any]) -> str:
    """The README's tables: false alarms, and shifts found."""
    watches = list(result["false_alarms"]["drawn"])
    ours, scipy_s = watches[0], watches[-1]
    lines = [
        f"| windows of {_number(ROWS)} rows in which anything alarms | {' | '.join(watches)} |",
        "|---|" + "---|" * len(watches),
    ]
    for kind, words in KINDS.items():
        shares = result["false_alarms"][kind]
        cells = " | ".join(f"{shares[watch]['share']:.1%}" for watch in watches)
        lines.append(f"| {words} ({shares[ours]['windows']} windows) | {cells} |")
    lines += [
        "",
        f"| shift in one feature | | {ours} | {scipy_s} | {ours}, windows of {_number(MANY_ROWS)} |",
        "|---|---|---|---|---|",
    ]
    for row in result["shifts"]:
        seen = [row["by"][ours], row["by"][scipy_s], row["by_many_rows"][ours]]
        lines.append(f"| {FEATURES[row['feature']]} | {row['shift']} | {_cells(seen)} |")
    return "\n".join([*lines, ""])


def _cells(seen: Iterable[dict[str, float | None]]) -> str:
    return " | ".join(map(_found, seen))


def _found(seen: dict[str, float | None]) -> str:
    delay = "never" if seen["delay_rows"] is None else _number(seen["delay_rows"])
    return f"{seen['share']:.0%}, {delay}"


def _number(value: float) -> str:
    """In groups of three digits."""
    return f"{value:,.0f}".replace(",", " ")


if __name__ == "__main__":
    main()
