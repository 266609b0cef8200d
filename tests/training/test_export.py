"""Exported graphs predict what scikit-learn and torch predict, also where a value lies on a threshold."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from causeway.runtime import MODEL_FILE, open_runtime
from causeway.training.export import round_down_to_float32, sklearn_to_onnx, torch_to_onnx

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3000, 4)).round(2).astype(np.float32)
Y = (X.sum(axis=1) + RNG.normal(size=3000) > 1).astype(int)

MODELS = [
    HistGradientBoostingClassifier(max_iter=50, random_state=0),
    make_pipeline(HistGradientBoostingClassifier(max_iter=50, random_state=0)),
    RandomForestClassifier(30, random_state=0),
    make_pipeline(StandardScaler(), LogisticRegression()),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_a_graph_predicts_the_probability_of_label_one(model: Any, tmp_path: Path) -> None:
    (tmp_path / MODEL_FILE).write_bytes(sklearn_to_onnx(model.fit(X, Y), 4))
    predictions = open_runtime(tmp_path).run(X)
    assert predictions.shape == (len(X), 1)
    np.testing.assert_allclose(predictions[:, 0], model.predict_proba(X)[:, 1], rtol=0, atol=1e-5)


def test_rows_on_and_beside_every_threshold_take_the_same_branches(tmp_path: Path) -> None:
    model = HistGradientBoostingClassifier(max_iter=50, random_state=0).fit(X, Y)
    (tmp_path / MODEL_FILE).write_bytes(sklearn_to_onnx(model, 4))
    rows = []
    for (tree,) in model._predictors:
        for node in tree.nodes[tree.nodes["is_leaf"] == 0]:
            nearest = np.float32(node["num_threshold"])
            for value in (nearest, np.nextafter(nearest, np.float32(-9)), np.nextafter(nearest, np.float32(9))):
                row = X[len(rows) % len(X)].copy()
                row[node["feature_idx"]] = value
                rows.append(row)
    hostile = np.array(rows)
    predictions = open_runtime(tmp_path).run(hostile)
    np.testing.assert_allclose(predictions[:, 0], model.predict_proba(hostile)[:, 1], rtol=0, atol=1e-5)


@given(st.floats(-1e30, 1e30), st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_threshold_rounded_down_decides_every_float32_as_before(threshold: float, x: float) -> None:
    rounded = round_down_to_float32(np.array([threshold]))[0]
    for value in (np.float32(x), np.float32(threshold), np.nextafter(np.float32(threshold), np.float32(np.inf))):
        assert (value <= rounded) == (float(value) <= threshold)


def test_export_leaves_the_model_as_it_was() -> None:
    model = HistGradientBoostingClassifier(max_iter=5, random_state=0).fit(X, Y)
    before = [tree.nodes.copy() for (tree,) in model._predictors]
    sklearn_to_onnx(model, 4)
    for (tree,), nodes in zip(model._predictors, before, strict=True):
        np.testing.assert_array_equal(tree.nodes, nodes)


@pytest.fixture
def module() -> Any:
    """A user's own torch module, with dropout and batch normalisation."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    nn = torch.nn
    layers = nn.BatchNorm1d(4), nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1), nn.Sigmoid()
    return nn.Sequential(*layers).eval()


def test_a_user_s_torch_module_becomes_a_graph_for_batches_of_any_size(module: Any, tmp_path: Path) -> None:
    import torch

    (tmp_path / MODEL_FILE).write_bytes(torch_to_onnx(module, 4))
    with torch.inference_mode():
        expected = module(torch.from_numpy(X)).numpy()
    runtime = open_runtime(tmp_path)
    for n_rows in (1, 2, len(X)):
        np.testing.assert_allclose(runtime.run(X[:n_rows]), expected[:n_rows], rtol=0, atol=1e-5)


def test_the_same_module_gives_the_same_bytes_without_a_word_of_where_it_was_made(module: Any) -> None:
    exported = torch_to_onnx(module, 4)
    assert exported == torch_to_onnx(module, 4)
    assert b".py" not in exported


def test_a_module_for_one_number_of_rows_is_refused(module: Any) -> None:
    import torch

    class Fixed(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.sigmoid(x.sum(1, keepdim=True).expand(len(x), 1))

    with pytest.raises(ValueError, match=r"fixes the number of rows; take it from x.shape\[0\]"):
        torch_to_onnx(Fixed(), 4)


def test_a_module_that_still_predicts_as_in_training_is_refused(module: Any) -> None:
    module.train()
    with pytest.raises(ValueError, match=r"still in training mode; call eval\(\)"):
        torch_to_onnx(module, 4)
    assert module.training


def test_a_module_that_torch_cannot_export_is_refused_in_a_sentence_or_two() -> None:
    import torch

    class Branches(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.sigmoid(x[:, :1] if float(x.sum()) < 0 else x[:, 1:2])

    class FixedSize(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.sigmoid(x.reshape(64, -1)[:, :1])

    for module in (Branches(), FixedSize()):
        with pytest.raises(ValueError, match=r"torch cannot export it: .* no branch may depend on values") as refused:
            torch_to_onnx(module, 4)
        assert len(str(refused.value)) < 500
        assert "\n" not in str(refused.value)
        assert "\x1b" not in str(refused.value)
