"""The gate refuses with every reason, and lets a good model through."""

import dataclasses

import pytest

from causeway.contract import Output
from causeway.errors import GateFailed
from causeway.training.evaluation import Evaluation, Quality
from causeway.training.gate import Limits, Measured, check

GOOD = Quality(1000, 100, 0.9, 0.6, 0.05, 0.01, 0.2)
MEASURED = Measured(parity=1e-7, minimum=0.0, maximum=1.0, latency_ms=0.01, model_bytes=1000)
OUTPUT = Output("p", tolerance=1e-5)


def evaluation(ap: float, baseline_ap: float) -> Evaluation:
    model, baseline = (dataclasses.replace(GOOD, average_precision=each) for each in (ap, baseline_ap))
    return Evaluation(model, baseline, {}, [])


@pytest.mark.parametrize("baseline_ap", [0.5, 0.6])
def test_a_model_that_no_baseline_beats_passes(baseline_ap: float) -> None:
    check(evaluation(0.6, baseline_ap), MEASURED, OUTPUT, Limits())


@pytest.mark.parametrize(
    ("ap", "baseline_ap", "measured", "words"),
    [
        (0.6, 0.61, MEASURED, r"the baseline beats it \(average precision 0.6100 against 0.6000\)"),
        (0.1, 0.05, MEASURED, "no better than chance"),
        (0.6, 0.5, dataclasses.replace(MEASURED, parity=2e-5), "it differs by 2e-05, more than 1e-05"),
        (0.6, 0.5, dataclasses.replace(MEASURED, parity=float("nan")), "it differs by nan"),
        (0.6, 0.5, dataclasses.replace(MEASURED, maximum=1.5), "it predicts 0 to 1.5, outside the contract's 0 to 1"),
        (0.6, 0.5, dataclasses.replace(MEASURED, latency_ms=51.0), "takes 51 ms for one row"),
        (0.6, 0.5, dataclasses.replace(MEASURED, model_bytes=10**9), "has 1000000000 bytes"),
    ],
)
def test_each_limit_refuses_in_words(ap: float, baseline_ap: float, measured: Measured, words: str) -> None:
    with pytest.raises(GateFailed, match=words):
        check(evaluation(ap, baseline_ap), measured, OUTPUT, Limits())


def test_all_reasons_are_told_at_once() -> None:
    with pytest.raises(GateFailed) as failed:
        check(evaluation(0.05, 0.5), Measured(1.0, 0, 2, 1e6, 10**10), OUTPUT, Limits())
    assert len(failed.value.reasons) == 6
