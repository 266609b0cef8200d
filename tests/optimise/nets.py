"""Small networks as ONNX graphs over 15 features, whose hidden units stand in the ways that units stand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, checker, helper, numpy_helper

N_FEATURES, N_MAIN, N_HIDDEN = 15, 32, 48
IDLE = np.arange(0, N_HIDDEN, 2)
"""Hidden units that nothing comes of: the weights after them are almost 0, those before them exactly."""

_RNG = np.random.default_rng(0)
X = np.exp(_RNG.normal(8, 3, (2000, N_FEATURES))).clip(0, 1e6).astype(np.float32)
"""With heavy tails, up to values that 16 bits have no number for."""

Node = tuple[str, str, str]


def network(hidden: list[Node], **weights: tuple[int, ...]) -> bytes:
    """Predicts from normalised features by a residual block: `hidden` nodes make `updated` of `normal`.

    A node is (operator, inputs, outputs); weights by name have the shapes given, with 0 where a unit is idle.
    """
    nodes = [
        ("Add", "features least", "raised"),
        ("Log", "raised", "log"),
        ("Sub", "log centre", "centred"),
        ("Mul", "centred third", "scaled"),
        ("Gemm", "scaled w_in b_in", "x"),
        ("LayerNormalization", "x one nought", "normal"),
        *hidden,
        ("Add", "x updated", "y"),
        ("Relu", "y", "positive"),
        ("Gemm", "positive w_out b_out", "logit"),
        ("Sigmoid", "logit", "predictions"),
    ]
    constants = {
        "least": np.float32(1),
        "centre": np.float32(8),
        "third": np.float32(1 / 3),
        "w_in": _drawn(N_FEATURES, N_MAIN),
        "b_in": _drawn(N_MAIN),
        "one": np.ones(N_MAIN, np.float32),
        "nought": np.zeros(N_MAIN, np.float32),
        "w_out": _drawn(N_MAIN, 1),
        "b_out": np.zeros(1, np.float32),
        **{name: _drawn(*shape) for name, shape in weights.items()},
    }
    return _finished([_node(*node) for node in nodes], constants)


def _node(operator: str, inputs: str, outputs: str) -> NodeProto:
    attributes = {"Split": {"axis": -1, "num_outputs": 2}, "Gemm": {"transB": int("_turned" in inputs)}}
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes.get(operator, {}))


def _drawn(*shape: int) -> NDArray[np.float32]:
    """Weights that keep the size of what they are multiplied with; those of idle units are 0."""
    drawn = (_RNG.normal(size=shape) / np.sqrt(shape[0] if len(shape) > 1 else 10)).astype(np.float32)
    for axis, size in enumerate(shape):
        for group in range(size // N_HIDDEN):
            drawn[(slice(None),) * axis + (IDLE + group * N_HIDDEN,)] = 0
    return drawn


def _finished(nodes: list[NodeProto], constants: dict[str, NDArray[np.float32]]) -> bytes:
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, N_FEATURES])]
    outputs = [helper.make_tensor_value_info("predictions", TensorProto.FLOAT, [None, 1])]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    checker.check_model(model)
    return bytes(model.SerializeToString())


PLAIN = network(
    [
        ("MatMul", "normal w1", "product"),
        ("Add", "product b1", "sum"),
        ("Relu", "sum", "units"),
        ("MatMul", "units w2", "updated"),
    ],
    w1=(N_MAIN, N_HIDDEN),
    b1=(1, N_HIDDEN),
    w2=(N_HIDDEN, N_MAIN),
)

TURNED = network(
    [
        ("Gemm", "normal w1_turned b1", "sum"),
        ("Gelu", "sum", "units"),
        ("Gemm", "units w2_turned b2", "updated"),
    ],
    w1_turned=(N_HIDDEN, N_MAIN),
    b1=(N_HIDDEN,),
    w2_turned=(N_MAIN, N_HIDDEN),
    b2=(N_MAIN,),
)
"""With weights as torch keeps them."""

GATED = network(
    [
        ("Gemm", "normal w1 b1", "both"),
        ("Split", "both", "value gate"),
        ("Relu", "gate", "open"),
        ("Mul", "value open", "units"),
        ("Gemm", "units w2 b2", "updated"),
    ],
    w1=(N_MAIN, 2 * N_HIDDEN),
    b1=(2 * N_HIDDEN,),
    w2=(N_HIDDEN, N_MAIN),
    b2=(N_MAIN,),
)

TWO_BRANCHES = network(
    [
        ("Gemm", "normal w1 b1", "value"),
        ("Gemm", "normal w3 b3", "gate"),
        ("Sigmoid", "gate", "open"),
        ("Mul", "value open", "units"),
        ("Gemm", "units w2 b2", "updated"),
    ],
    w1=(N_MAIN, N_HIDDEN),
    b1=(N_HIDDEN,),
    w3=(N_MAIN, N_HIDDEN),
    b3=(N_HIDDEN,),
    w2=(N_HIDDEN, N_MAIN),
    b2=(N_MAIN,),
)

ALL = {"plain": PLAIN, "turned": TURNED, "gated": GATED, "two branches": TWO_BRANCHES}

WITHOUT_UNITS = network([("MatMul", "normal w1", "updated")], w1=(N_MAIN, N_MAIN))
"""Every number between two products goes to the sum, too."""
