"""Hidden units are taken out where nothing but the next product takes them, and the least first."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import load_from_string, numpy_helper
from sklearn.neural_network import MLPClassifier

from causeway.optimise.graph import NotMade
from causeway.optimise.measure import opened
from causeway.optimise.pruning import pruned
from causeway.training import sklearn_to_onnx
from tests.optimise import nets


def matrices(model: bytes) -> list[tuple[int, ...]]:
    """Shapes of the constant matrices."""
    arrays = (numpy_helper.to_array(each) for each in load_from_string(model).graph.initializer)
    return sorted(array.shape for array in arrays if array.ndim == 2)


@pytest.mark.parametrize("net", nets.ALL)
def test_matrices_become_smaller_by_the_share_of_units(net: str) -> None:
    kept = nets.N_HIDDEN * 3 // 4
    before = matrices(pruned(nets.ALL[net], nets.X, share=0))
    expected = sorted(tuple(kept * (n // nets.N_HIDDEN) or n for n in shape) for shape in before)
    assert matrices(pruned(nets.ALL[net], nets.X, share=0.25)) == expected
    assert any(kept in shape for shape in expected)


@pytest.mark.parametrize("net", nets.ALL)
def test_beyond_idle_units_predictions_change(net: str) -> None:
    parent, half, more = (opened(pruned(nets.ALL[net], nets.X, share=share)).run(nets.X) for share in (0, 0.5, 0.7))
    assert np.abs(half - parent).max() < 1e-6
    assert np.abs(more - parent).max() > 1e-3


def test_units_that_others_can_stand_in_for_are_not_missed() -> None:
    model = load_from_string(nets.PLAIN)
    weights = {each.name: numpy_helper.to_array(each).copy() for each in model.graph.initializer}
    half = nets.N_HIDDEN // 2
    for before in ("w1", "b1"):
        weights[before][:, half:] = weights[before][:, :half]
    weights["w2"][half:] *= 0.01  # the least, and its neighbour gives the same
    for each in model.graph.initializer:
        each.CopyFrom(numpy_helper.from_array(weights[each.name], each.name))
    parent = bytes(model.SerializeToString())
    variant = pruned(parent, nets.X, share=0.75)
    assert (nets.N_MAIN, nets.N_HIDDEN // 4) in matrices(variant)
    np.testing.assert_allclose(opened(variant).run(nets.X), opened(parent).run(nets.X), rtol=0, atol=1e-4)


def test_numbers_that_a_residual_sum_takes_too_are_no_hidden_units() -> None:
    with pytest.raises(NotMade, match="no hidden units stand between two of its products"):
        pruned(nets.WITHOUT_UNITS, nets.X, share=0.5)


def test_each_layer_of_a_perceptron_loses_its_share() -> None:
    X = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    model = MLPClassifier((16, 8), max_iter=300, tol=0.1, random_state=0).fit(X, X[:, 0] > 0)
    parent = sklearn_to_onnx(model, 3)
    variant = pruned(parent, X, share=0.5)
    assert {(3, 8), (4, 1), (8, 4)} <= set(matrices(variant))
    assert opened(variant).run(X).shape == (200, 1)
