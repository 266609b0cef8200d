"""How far the estimated quality can be trusted: estimated before the labels, and realised, day by day.

`python -m load_tests.studies.quality [FILE]` prints a table and writes results/quality.json. A model is trained as
`train_and_save.py gradient_boosting --data FILE --label TX_FRAUD` trains it; its test days are replayed one by one, and
then as one week. Neither the model, nor the calibration map, nor the threshold has seen them. Seven days tell little of
how often an interval should hold, so the same is counted on simulated transactions, with seeds that had no part in
choosing the method.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import models
from causeway.quality.estimate import Estimated, estimate
from causeway.quality.measures import average_precision
from causeway.training import calibration, tables
from causeway.training.dataset import Dataset, split
from load_tests.circumstances import circumstances

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared/data/handbook_2018-07-25_21d.parquet"
RESULT = ROOT / "load_tests/results/quality.json"
FAMILY = "gradient_boosting"
LABEL = "TX_FRAUD"
SEED = 0
SIMULATED_SEEDS = range(101, 111)


@dataclass(frozen=True)
class Compared:
    """A figure, estimated and realised."""

    estimated: Estimated
    realised: float

    @property
    def is_inside(self) -> bool:
        """Whether the interval held."""
        return self.estimated.low <= self.realised <= self.estimated.high


@dataclass(frozen=True)
class Replayed:
    """A span of time; where frauds and figures are those of its rows."""

    span: str
    rows: int
    frauds: int
    average_precision: Compared
    fraud_share: Compared


def main(argv: Sequence[str] | None = None) -> None:
    """Replays everything once, prints it and keeps it."""
    parser = argparse.ArgumentParser(description="Estimated against realised quality, day by day.")
    parser.add_argument("data", type=Path, nargs="?", default=DATA, help="transactions, .parquet or .csv")
    path = parser.parse_args(argv).data
    family = models.family(FAMILY)
    data = models.dataset(family, tables.read(path), LABEL, path.name)
    published = replay(family, data, SEED)
    simulated = {seed: replay(family, family.default_data(seed), seed) for seed in SIMULATED_SEEDS}
    result = {
        **circumstances(SEED),
        "data": path.name,
        "data_sha256": data.fingerprint(),
        "replayed": [told(each) for each in published],
        "simulated": {str(seed): [told(each) for each in spans] for seed, spans in simulated.items()},
        "inside": {"replayed": inside([published]), "simulated": inside(simulated.values())},
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(markdown(result))
    for what, counts in result["inside"].items():
        print(f"{what}, intervals that held: " + ", ".join(f"{name} {count}" for name, count in counts.items()))


def replay(family: models.Family, data: Dataset, seed: int) -> list[Replayed]:
    """Each test day, and then all of them."""
    parts = split(data, seed=seed)
    test = parts.test
    assert test.time is not None
    assert test.entity is not None
    entity = test.entity

    def fit(part: Dataset) -> Any:
        return family.train(part, family.Params(), seed)

    working = calibration.working(fit, parts.train, seed)
    assert working.calibration_map is not None
    mapped = working.calibration_map
    scores = fit(parts.train).predict(test.X)

    def replayed(span: str, rows: Any) -> Replayed:
        expected = estimate(scores[rows], mapped, working.threshold, entity=entity[rows])
        y = test.y[rows]
        realised = average_precision(y, scores[rows])
        assert expected.average_precision
        assert expected.positives
        assert realised is not None
        share = Compared(expected.positives, float(y.mean()))
        return Replayed(span, len(y), int(y.sum()), Compared(expected.average_precision, realised), share)

    day = test.time.astype("datetime64[D]")
    days = [replayed(str(each), day == each) for each in np.unique(day)]
    return [*days, replayed("all", np.full(len(test), True))]


def inside(replays: Any) -> dict[str, str]:
    """How many intervals held, of how many, by figure and length of the span."""
    spans = [each for replayed in replays for each in replayed]
    counts = {}
    for length, those in (
        ("days", [each for each in spans if each.span != "all"]),
        ("weeks", [each for each in spans if each.span == "all"]),
    ):
        for name in ("average_precision", "fraud_share"):
            held = sum(getattr(each, name).is_inside for each in those)
            counts[f"{name}, {length}"] = f"{held} of {len(those)}"
    return counts


def told(each: Replayed) -> dict[str, Any]:
    """Plain values for JSON."""
    compared = {
        name: {**asdict(figure.estimated), "realised": figure.realised, "is_inside": figure.is_inside}
        for name, figure in (("average_precision", each.average_precision), ("fraud_share", each.fraud_share))
    }
    return {"span": each.span, "rows": each.rows, "frauds": each.frauds, **compared}


def markdown(result: dict[str, Any]) -> str:
    """The README's table."""
    lines = [
        "| day | rows | frauds | AP estimated | AP realised | share of frauds estimated | realised |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in result["replayed"]:
        ap, share = each["average_precision"], each["fraud_share"]
        cells = [
            each["span"],
            str(each["rows"]),
            str(each["frauds"]),
            f"{ap['value']:.3f} ({ap['low']:.3f} to {ap['high']:.3f})",
            f"{ap['realised']:.3f}{'' if ap['is_inside'] else ', outside'}",
            f"{share['value']:.2%} ({share['low']:.2%} to {share['high']:.2%})",
            f"{share['realised']:.2%}{'' if share['is_inside'] else ', outside'}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
