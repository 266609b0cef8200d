"""Fitting learns, stops in time, gives the same bits for a seed, and leaves torch as it found it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from causeway.contract import Contract, Feature, Output
from causeway.networks import Network
from causeway.quality.measures import average_precision
from causeway.training.dataset import Dataset
from causeway.training.fit import FittedNetwork, fit
from causeway.training.fitting import Fitting

RESIDUAL = Network("residual", 2, {"d_main": 16, "n_blocks": 1, "d_hidden": 16})
TRANSFORMER = Network("ft_transformer", 2, {"d_token": 8, "n_blocks": 2, "n_heads": 2, "d_hidden": 8})
FITTING = Fitting(max_epochs=8, batch_size=64, learning_rate=5e-3, dropout=0.1, averaging=0.9, negatives=0.5)


def dataset(n: int = 3000, seed: int = 0) -> Dataset:
    """Positive one time in ten or so: where the first number is large for the second, on a heavy tail."""
    rng = np.random.default_rng(seed)
    X = rng.lognormal(3, 1, (n, 2)).astype(np.float32)
    y = (X[:, 0] > 6 * X[:, 1]).astype(np.int8)
    return Dataset(Contract((Feature("a"), Feature("b")), Output("p")), X, y, "by hand", entity=np.arange(n) // 3)


@pytest.mark.parametrize("network", [RESIDUAL, TRANSFORMER], ids=lambda network: network.kind)
def test_a_network_learns_to_tell_apart_what_no_single_feature_does(network: Network) -> None:
    test = dataset(seed=1)
    scores = fit(network, dataset(), FITTING, 0).predict_proba(test.X)
    assert scores.shape == (len(test), 2)
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    precision = average_precision(test.y, scores[:, 1])
    assert precision is not None
    assert precision > 0.8
    assert scores[:, 1].mean() == pytest.approx(test.y.mean(), abs=0.03)


@pytest.mark.parametrize("network", [RESIDUAL, TRANSFORMER], ids=lambda network: network.kind)
def test_a_seed_gives_its_bits_whatever_went_before(network: Network) -> None:
    data, quick = dataset(600), dataclasses.replace(FITTING, max_epochs=2)
    first = weights(fit(network, data, quick, 3))
    torch.rand(5)
    np.testing.assert_array_equal(weights(fit(network, data, quick, 3)), first)
    assert not np.array_equal(weights(fit(network, data, quick, 4)), first)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_torch_goes_on_as_if_nothing_had_been_fitted(n_threads: int) -> None:
    data, quick = dataset(600), dataclasses.replace(FITTING, max_epochs=1)
    expected, before = weights(fit(RESIDUAL, data, quick, 0)), torch.get_num_threads()
    torch.manual_seed(1)
    number = torch.rand(3)
    torch.manual_seed(1)
    torch.set_num_threads(n_threads)
    np.testing.assert_array_equal(weights(fit(RESIDUAL, data, quick, 0)), expected)
    assert torch.get_num_threads() == n_threads
    assert torch.equal(torch.rand(3), number)
    torch.set_num_threads(before)


def test_it_stops_when_no_epoch_gets_better_and_keeps_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    data = dataclasses.replace(dataset(600), y=np.random.default_rng(0).integers(0, 2, 600).astype(np.int8))
    fitted = fit(RESIDUAL, data, dataclasses.replace(FITTING, max_epochs=40, patience=3), 0)
    told = losses(capsys.readouterr().err)
    best = int(np.argmin(told))
    assert len(told) == best + 1 + 3
    shorter = fit(RESIDUAL, data, dataclasses.replace(FITTING, max_epochs=best + 1), 0)
    np.testing.assert_array_equal(weights(fitted), weights(shorter))


def test_targets_are_learnt_in_place_of_labels() -> None:
    data = dataset(900)
    targets = np.where(data.X[:, 0] > 20, 0.7, 0.2)
    scores = fit(RESIDUAL, data, FITTING, 0, targets=targets).predict_proba(data.X)[:, 1]
    assert np.abs(scores - targets).mean() < 0.1


def test_progress_is_told_in_a_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    fit(RESIDUAL, dataset(600), dataclasses.replace(FITTING, max_epochs=2), 0)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("epoch 1 of at most 2: training loss 0.")
    assert second.startswith("epoch 2 of at most 2: ")
    assert second.endswith("at most 0 s left")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"max_epochs": 0}, "max_epochs must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"negatives": 0.0}, "negatives must be over 0"),
        ({"dropout": 1.0}, "dropout and averaging must be from 0 to below 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Fitting(**wrong)  # type: ignore[arg-type]


def weights(fitted: FittedNetwork) -> np.ndarray:
    return np.concatenate([tensor.numpy().ravel() for tensor in fitted.module.state_dict().values()])


def losses(told: str) -> list[float]:
    return [float(line.partition("held out: loss ")[2].partition(",")[0]) for line in told.splitlines()]
