"""scikit-learn classifiers as ONNX graphs with one input `features` and one output `predictions`."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType

from causeway.runtime.onnx import INPUT, OUTPUT

TARGET_OPSET = {"": 18, "ai.onnx.ml": 3}
_PROBABILITIES = "probabilities"


def sklearn_to_onnx(model: Any, n_features: int) -> bytes:
    """A fitted binary classifier, or a pipeline that ends in one, as ONNX bytes.

    The graph takes `features` (n_rows, n_features) float32 and gives `predictions` (n_rows, 1) float32, the
    probability of label 1. Raises what skl2onnx raises for an estimator that it cannot convert.
    """
    proto = cast(
        ModelProto,
        to_onnx(
            model,
            initial_types=[(INPUT, FloatTensorType([None, n_features]))],
            target_opset=TARGET_OPSET,
            options={"zipmap": False},
        ),
    )
    graph = proto.graph
    probabilities = graph.output[1].name
    graph.initializer.append(numpy_helper.from_array(np.array([1], dtype=np.int64), "label_one"))
    graph.node.append(helper.make_node("Gather", [probabilities, "label_one"], [OUTPUT], axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, 1]))
    return bytes(proto.SerializeToString())
