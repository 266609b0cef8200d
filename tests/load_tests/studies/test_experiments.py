"""The simulation of experiments as an instrument: it sees a test that errs, and keeps what README shows."""

import json

import numpy as np

from load_tests.studies import experiments
from load_tests.studies.experiments import Kind


def test_it_sees_that_a_z_test_with_many_looks_errs() -> None:
    looks = np.arange(100, 3_001, 100)
    (simulated,) = experiments.simulations(Kind(0.05, 0.5, 0), lift=1.0, n=200, n_rows=3_000)
    found = experiments.z_test_finds(simulated.labels, simulated.is_variant, looks)
    assert found.any(1).mean() > 0.1
    assert found[:, -1].mean() < 0.1
    ours = experiments.finds(simulated.labels, simulated.is_variant, 0.5, looks)
    assert ours.any(1).mean() <= 0.05


def test_what_was_kept_is_within_the_stated_error() -> None:
    kept = json.loads(experiments.RESULT.read_text())
    assert kept["experiments"] >= 2_000
    assert all(row["verdict"] <= kept["alpha"] for row in kept["without_difference"])
    assert experiments.markdown(kept).count("| 0.8% conversions, 50% variant |") == 2
