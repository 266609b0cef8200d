"""Card-fraud probability from gradient-boosted trees over amount, time, customer and terminal history."""

from __future__ import annotations

from dataclasses import dataclass

from sklearn.ensemble import HistGradientBoostingClassifier

from causeway.training import Dataset, Trained, sklearn_to_onnx
from models.transactions import CONTRACT, NAME, default_data, from_table

__all__ = ["CONTRACT", "NAME", "Params", "default_data", "from_table", "to_artifact", "train"]


@dataclass(frozen=True)
class Params:
    """Hyper-parameters of scikit-learn's HistGradientBoostingClassifier, under its own names."""

    max_iter: int = 300
    learning_rate: float = 0.03
    max_leaf_nodes: int = 15


def train(data: Dataset, params: Params, seed: int) -> Trained:
    """Boosted trees fitted on all rows of `data`."""
    model = HistGradientBoostingClassifier(
        max_iter=params.max_iter,
        learning_rate=params.learning_rate,
        max_leaf_nodes=params.max_leaf_nodes,
        early_stopping=False,
        random_state=seed,
    )
    return Trained(model.fit(data.X, data.y))


def to_artifact(trained: Trained) -> bytes:
    """The trees as one ONNX graph."""
    return sklearn_to_onnx(trained.model, CONTRACT.width)
