"""Forests of small trees: with enough of them a row takes milliseconds, alone and in a batch alike.

Few large trees would be dear only alone: the first row of a batch waits for a tree's nodes from memory, and the others
find them in the cache (measured: 20 000 trees of 6 levels, 3.5 ms alone and 0.7 ms in a batch of 128). Trees of two
levels cost a row about 10 ns each in any batch of 8 and more, and 13 ns alone, so twice the capacity of their server is
less than a thousand requests a second, and refusing them is not what it is busy with.

The trees are drawn, not trained: only their cost matters. An amount of `POISON` makes the graph fail for its whole
batch once the trees are done, although the contract allows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from causeway.contract import Array
from causeway.runtime.onnx import INPUT, OUTPUT

POISON = 666_666.0
"""The amount, in the first column, with which a row fails."""

LEVELS = 2
SPLITS, LEAVES = 2**LEVELS - 1, 2**LEVELS
UNIT = 2.0**-24
"""Leaves are whole multiples of it and add up to at most 1, so a float32 sum is exact in whatever order."""


@dataclass(frozen=True)
class Forest:
    """Complete binary trees: the children of split i are 2 i + 1 (value up to the threshold) and 2 i + 2."""

    features: NDArray[np.int64]
    """(n_trees, SPLITS) columns."""
    thresholds: NDArray[np.float32]
    """(n_trees, SPLITS)."""
    leaves: NDArray[np.int64]
    """(n_trees, LEAVES) in units, left to right."""

    @classmethod
    def draw(cls, n_trees: int, X: Array, seed: int) -> Forest:
        """Random splits at values of the rows X (n_rows, n_features); leaves grow to the right."""
        rng = np.random.default_rng(seed)
        features = rng.integers(X.shape[1], size=(n_trees, SPLITS))
        thresholds = X[rng.integers(len(X), size=features.shape), features]
        leaves = rng.integers(int(1 / UNIT) // n_trees + 1, size=(n_trees, LEAVES))
        return cls(features, thresholds, np.sort(leaves, axis=1))

    def predict(self, X: Array) -> NDArray[np.float64]:
        """The sum of each row's leaves, (n_rows,) in 0 to 1: what the graph gives, to the bit."""
        return np.array([self._units(row) for row in X]) * UNIT

    def _units(self, row: NDArray[np.float32]) -> int:
        trees, place = np.arange(len(self.features)), np.zeros(len(self.features), dtype=np.int64)
        for _ in range(LEVELS):
            is_right = row[self.features[trees, place]] > self.thresholds[trees, place]
            place = 2 * place + 1 + is_right
        return int(self.leaves[trees, place - SPLITS].sum())

    def to_onnx(self, n_features: int) -> bytes:
        """The graph: `features` (n_rows, n_features) to `predictions` (n_rows, 1), both float32."""
        nodes = [
            helper.make_node("TreeEnsembleRegressor", [INPUT], ["sums"], domain="ai.onnx.ml", **self._ensemble()),
            # The sums have one column. A poisoned row asks for the second.
            helper.make_node("Gather", [INPUT, "first"], ["amount"], axis=1),
            helper.make_node("Equal", ["amount", "poison"], ["is_poison"]),
            helper.make_node("Cast", ["is_poison"], ["column"], to=TensorProto.INT64),
            helper.make_node("GatherElements", ["sums", "column"], [OUTPUT], axis=1),
        ]
        constants = [
            numpy_helper.from_array(np.array([0], dtype=np.int64), "first"),
            numpy_helper.from_array(np.array([[POISON]], dtype=np.float32), "poison"),
        ]
        given = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, n_features])
        result = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, 1])
        graph = helper.make_graph(nodes, "dear", [given], [result], constants)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
        return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())

    def _ensemble(self) -> dict[str, Any]:
        """The attributes of ONNX's TreeEnsembleRegressor: a tree's splits, then its leaves, numbered in one go."""
        n_trees, numbers = len(self.features), np.arange(SPLITS + LEAVES)
        left = np.where(numbers < SPLITS, 2 * numbers + 1, 0)
        right = np.where(numbers < SPLITS, 2 * numbers + 2, 0)
        no_split = ((0, 0), (0, LEAVES))
        return {
            "n_targets": 1,
            "nodes_treeids": np.repeat(np.arange(n_trees), len(numbers)).tolist(),
            "nodes_nodeids": np.tile(numbers, n_trees).tolist(),
            "nodes_featureids": np.pad(self.features, no_split).ravel().tolist(),
            "nodes_values": np.pad(self.thresholds, no_split).ravel().tolist(),
            "nodes_modes": (["BRANCH_LEQ"] * SPLITS + ["LEAF"] * LEAVES) * n_trees,
            "nodes_truenodeids": np.tile(left, n_trees).tolist(),
            "nodes_falsenodeids": np.tile(right, n_trees).tolist(),
            "target_treeids": np.repeat(np.arange(n_trees), LEAVES).tolist(),
            "target_nodeids": np.tile(numbers[SPLITS:], n_trees).tolist(),
            "target_ids": [0] * (n_trees * LEAVES),
            "target_weights": (self.leaves * UNIT).ravel().tolist(),
        }
