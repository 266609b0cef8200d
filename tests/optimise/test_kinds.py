"""Every kind of variant predicts nearly what its parent does, and says where there is nothing to make one of."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import load_from_string
from sklearn.ensemble import HistGradientBoostingClassifier

from causeway.optimise.graph import NotMade
from causeway.optimise.kinds import KINDS, Kind
from causeway.optimise.measure import batch_difference, opened
from causeway.training import sklearn_to_onnx
from tests.optimise import nets

BY_NAME = {kind.name: kind for kind in KINDS}
FURTHEST = {
    "fp16": 2e-3,
    "int8-dynamic": 0.05,
    "int8-static": 0.05,
    "pruned-25": 1e-6,
    "pruned-50": 1e-6,
    "compiled": 1e-6,
}
"""Half of the hidden units of these networks are idle, and none is missed."""


def operators(model: bytes) -> list[str]:
    return [node.op_type for node in load_from_string(model).graph.node]


@pytest.mark.parametrize("net", nets.ALL)
@pytest.mark.parametrize("name", FURTHEST)
def test_a_variant_predicts_nearly_what_its_parent_does(name: str, net: str) -> None:
    parent = nets.ALL[net]
    variant = BY_NAME[name].make(parent, nets.X)
    expected, got = (opened(model).run(nets.X) for model in (parent, variant))
    assert expected.std() > 0.05
    np.testing.assert_allclose(got, expected, rtol=0, atol=FURTHEST[name])
    if name != "compiled":
        assert len(variant) < 0.9 * len(parent)


def test_all_kinds_are_compared() -> None:
    assert set(BY_NAME) == set(FURTHEST)


@pytest.mark.parametrize("net", nets.ALL)
def test_all_but_the_first_and_the_last_product_are_in_integers(net: str) -> None:
    static = operators(BY_NAME["int8-static"].make(nets.ALL[net], nets.X))
    n_products = sum(operator in ("Gemm", "MatMul") for operator in operators(nets.ALL[net]))
    assert sum(operator in ("QGemm", "QLinearMatMul") for operator in static) == n_products - 2
    assert static.count("Gemm") == 2
    dynamic = operators(BY_NAME["int8-dynamic"].make(nets.ALL[net], nets.X))
    assert (dynamic.count("MatMulInteger"), dynamic.count("MatMul")) == (n_products - 2, 2)


def test_scales_of_a_batch_make_predictions_depend_on_company_and_those_of_training_do_not() -> None:
    dynamic, static = (BY_NAME[name].make(nets.PLAIN, nets.X) for name in ("int8-dynamic", "int8-static"))
    assert batch_difference(opened(dynamic), nets.X[:64]) > 1e-3
    assert batch_difference(opened(static), nets.X[:64]) < 1e-3


def test_features_beyond_the_range_of_16_bits_are_normalised_before_they_are_halved() -> None:
    largest = np.full((1, nets.N_FEATURES), 1e6, np.float32)
    expected, got = (opened(model).run(largest) for model in (nets.PLAIN, BY_NAME["fp16"].make(nets.PLAIN, nets.X)))
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-3)


@pytest.fixture(scope="module")
def trees() -> bytes:
    y = nets.X[:, 0] > nets.X[:, 1]
    return sklearn_to_onnx(HistGradientBoostingClassifier(max_iter=5).fit(nets.X, y), nets.N_FEATURES)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name != "compiled"], ids=lambda kind: kind.name)
def test_trees_have_nothing_to_make_variants_of(kind: Kind, trees: bytes) -> None:
    with pytest.raises(NotMade, match="nothing in its graph multiplies with constant weights"):
        kind.make(trees, nets.X)


def test_trees_can_be_compiled(trees: bytes) -> None:
    compiled = BY_NAME["compiled"].make(trees, nets.X)
    np.testing.assert_array_equal(opened(compiled).run(nets.X), opened(trees).run(nets.X))
