"""What a network gets is on one scale, in the order of what went in, and never out of the range it was fitted on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from causeway.networks.normalise import Asinh

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def normalise(fitted_on: list[float], values: list[float]) -> np.ndarray:
    layer = Asinh(1)
    layer.fit(np.array(fitted_on, dtype=np.float32)[:, np.newaxis])
    return layer(torch.tensor(values, dtype=torch.float32).unsqueeze(1))[:, 0].numpy()


def test_a_heavy_tail_becomes_a_bell() -> None:
    column = np.random.default_rng(0).lognormal(8, 2, 5000).astype(np.float32).tolist()
    normalised = normalise(column, column)
    assert normalised.mean() == pytest.approx(0, abs=1e-5)
    assert normalised.std() == pytest.approx(1, abs=1e-5)
    assert abs(float((normalised**3).mean())) < 0.1


def test_a_number_and_its_opposite_are_mirrored() -> None:
    one = np.arcsinh(1) / np.arcsinh(9)
    np.testing.assert_allclose(normalise([-9, 9], [-9, -1, 0, 1, 9]), [-1, -one, 0, one, 1], atol=1e-6)


@pytest.mark.parametrize("column", [[3, 3, 3], [0.1] * 60, [0, 1e-44]])
def test_a_constant_feature_says_nothing(column: list[float]) -> None:
    assert not normalise(column, [0, 3, 1e6]).any()


def test_the_largest_numbers_are_numbers_still() -> None:
    assert np.isfinite(normalise([-3e38, 0, 3e38], [-3e38, 0, 3e38])).all()


@given(st.lists(FLOATS, min_size=1, max_size=60), st.lists(FLOATS, min_size=2, max_size=2))
def test_order_is_kept_within_what_was_seen(column: list[float], pair: list[float]) -> None:
    low, high = normalise(column, sorted(pair))
    least, most = normalise(column, [min(column), max(column)])
    assert least <= low <= high <= most
