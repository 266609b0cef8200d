"""A small model version, whole or damaged in one place, and ONNX graphs for its contract that misbehave."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import msgspec
import numpy as np
from onnx import NodeProto, TensorProto, checker, helper
from sklearn.linear_model import LogisticRegression

from causeway import networks, store
from causeway.contract import Contract, Feature, Output
from causeway.runtime import MODEL_FILE
from causeway.store import StoredVersion
from causeway.training import sklearn_to_onnx
from causeway.version import NETWORK_FILES, Samples

CONTRACT = Contract((Feature("a", minimum=-5, maximum=5), Feature("b", "integer", 0, 1)), Output("p"))
_RNG = np.random.default_rng(0)
X = np.column_stack([_RNG.normal(size=500).clip(-5, 5), _RNG.integers(0, 2, 500)]).astype(np.float32)
MODEL = LogisticRegression().fit(X, (X[:, 0] + X[:, 1] + _RNG.normal(size=500) > 0.5).astype(int))
SAMPLES = Samples(X[:8].astype(float).tolist(), MODEL.predict_proba(X[:8])[:, 1:].tolist(), 1e-5)
FILES: Mapping[str, bytes] = {
    MODEL_FILE: sklearn_to_onnx(MODEL, 2),
    "contract.json": CONTRACT.to_json(),
    "reference.json": b"{}",
    "evaluation.json": b"{}",
    "samples.json": msgspec.json.encode(SAMPLES),
    "MODEL_CARD.md": b"# tiny",
}


def _finished(nodes: list[NodeProto], constants: list[TensorProto]) -> bytes:
    """The checked ONNX model of these nodes, from `features` (n_rows, 2) to `predictions` (n_rows, 1)."""
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, 2])]
    outputs = [helper.make_tensor_value_info("predictions", TensorProto.FLOAT, [None, 1])]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def graph(*nodes: tuple[str, str, str], **attributes: Mapping[str, object]) -> bytes:
    """An ONNX model from `features` to `predictions`; a node is (operator, inputs, output), in order."""
    made = [
        helper.make_node(operator, inputs.split(), [output], **attributes.get(output, {}))
        for operator, inputs, output in nodes
    ]
    constants = [
        helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
        helper.make_tensor("table", TensorProto.FLOAT, [5], [0.0] * 5),
    ]
    return _finished(made, constants)


LESS_THE_MEAN = graph(
    ("Gather", "features zero", "a"),
    ("ReduceMean", "a", "mean"),
    ("Sub", "a mean", "less"),
    ("Sigmoid", "less", "predictions"),
    a={"axis": 1},
    mean={"axes": [0]},
)
"""Predicts by the difference from the other rows."""

POISONABLE = graph(
    ("Gather", "features zero", "a"),
    ("Abs", "a", "size"),
    ("Cast", "size", "index"),
    ("Gather", "table index", "nothing"),
    ("Sigmoid", "a", "p"),
    ("Add", "p nothing", "predictions"),
    a={"axis": 1},
    index={"to": TensorProto.INT64},
)
"""Predicts sigmoid(a), and fails for the whole batch where a row has a = 5 or -5: it looks beyond a table's end."""


def scaled(by: float) -> bytes:
    """An ONNX model that predicts sigmoid(by * a)."""
    nodes = [
        helper.make_node("Gather", ["features", "zero"], ["a"], axis=1),
        helper.make_node("Mul", ["a", "by"], ["b"]),
        helper.make_node("Sigmoid", ["b"], ["predictions"]),
    ]
    constants = [
        helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
        helper.make_tensor("by", TensorProto.FLOAT, [1], [by]),
    ]
    return _finished(nodes, constants)


def saved_scaled(by: float, **changed: bytes | None) -> StoredVersion:
    """A version that predicts sigmoid(by * a), in the store."""
    return saved(model_onnx=scaled(by), samples_json=_samples(by), **changed)


@cache
def network_files() -> Mapping[str, bytes]:
    """What a version that is a network has in place of others' files: the model, the network, and its samples."""
    import torch

    from causeway.training.export import torch_to_onnx

    sizes = {"d_main": 8, "n_blocks": 1, "d_hidden": 8}
    description = networks.Network("residual", len(CONTRACT.features), sizes)
    torch.manual_seed(0)
    module = networks.build(description).eval()
    module.normalise.fit(X)
    with torch.inference_mode():
        predictions = module(torch.from_numpy(X[:8])).double().tolist()
    samples = msgspec.json.encode(Samples(SAMPLES.features, predictions, 1e-5))
    model = torch_to_onnx(module, description.n_features)
    return {MODEL_FILE: model, "samples.json": samples, **networks.files(description, module)}


def saved_network(**changed: bytes | None) -> StoredVersion:
    """A version in the store that is a network, with some files changed."""
    return saved(**{name.replace(".", "_"): data for name, data in network_files().items()} | changed)


def saved(**changed: bytes | None) -> StoredVersion:
    """A version in the store with some files changed (None leaves one out); its digests are right all the same."""
    names = {name.replace(".", "_"): name for name in (*FILES, *NETWORK_FILES)}
    changes = {names[key]: data for key, data in changed.items()}
    files = {name: data for name, data in {**FILES, **changes}.items() if data is not None}
    return store.find(store.save("tiny", files, labels={"family": "tiny"}, metadata={"seed": 0}))


def dear(size: int) -> bytes:
    """Predicts sigmoid(a), which takes it two products of a `size` x `size` matrix a row: some ms each from 256 on.

    Fails for the whole batch where a row has a = 5 or -5, as `POISONABLE`.
    """
    loop_inputs = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        helper.make_tensor_value_info("m", TensorProto.FLOAT, [size, size]),
    ]
    loop_outputs = [
        helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
        helper.make_tensor_value_info("next", TensorProto.FLOAT, [size, size]),
    ]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("MatMul", ["m", "weights"], ["product"]),
            helper.make_node("Clip", ["product", "nought", "nought"], ["clipped"]),
            helper.make_node("Add", ["clipped", "ones"], ["next"]),
        ],
        "work",
        loop_inputs,
        loop_outputs,
    )
    nodes = [
        helper.make_node("Gather", ["features", "zero"], ["a"], axis=1),
        helper.make_node("Abs", ["a"], ["size"]),
        helper.make_node("Cast", ["size"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["nothing"]),
        helper.make_node("Shape", ["features"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["n_rows"]),
        helper.make_node("Loop", ["n_rows", "", "ones"], ["worked"], body=body),
        helper.make_node("ReduceMin", ["worked"], ["one"], axes=[0, 1], keepdims=1),
        helper.make_node("Mul", ["a", "one"], ["b"]),
        helper.make_node("Sigmoid", ["b"], ["p"]),
        helper.make_node("Add", ["p", "nothing"], ["predictions"]),
    ]
    constants = [
        helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
        helper.make_tensor("first", TensorProto.INT64, [], [0]),
        helper.make_tensor("nought", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("table", TensorProto.FLOAT, [5], [0.0] * 5),
        helper.make_tensor("weights", TensorProto.FLOAT, [size, size], np.ones((size, size)).ravel()),
        helper.make_tensor("ones", TensorProto.FLOAT, [size, size], np.ones((size, size)).ravel()),
    ]
    return _finished(nodes, constants)


def sigmoid(features: list[list[float]], by: float = 1.0) -> list[list[float]]:
    """What `POISONABLE` and `dear` predict, and `scaled`."""
    return [[float(1 / (1 + np.exp(-np.float32(by * a))))] for a, _ in features]


def _samples(by: float) -> bytes:
    return msgspec.json.encode(Samples(SAMPLES.features, sigmoid(SAMPLES.features, by), 1e-5))


SIGMOID_SAMPLES = _samples(1.0)
