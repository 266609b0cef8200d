"""scikit-learn classifiers and torch modules as ONNX graphs with one input `features` and one output `predictions`."""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline

from causeway.runtime.onnx import INPUT, OUTPUT

if TYPE_CHECKING:
    from torch import nn

TARGET_OPSET = {"": 18, "ai.onnx.ml": 3}


def sklearn_to_onnx(model: Any, n_features: int) -> bytes:
    """A fitted binary classifier, or a pipeline that ends in one, as ONNX bytes.

    The graph takes `features` (n_rows, n_features) float32 and gives `predictions` (n_rows, 1) float32, the
    probability of label 1. Raises what skl2onnx raises for an estimator that it cannot convert.
    """
    proto = cast(
        ModelProto,
        to_onnx(
            _with_float32_thresholds(model),
            initial_types=[(INPUT, FloatTensorType([None, n_features]))],
            target_opset=TARGET_OPSET,
            options={"zipmap": False},
        ),
    )
    graph = proto.graph
    probabilities = graph.output[1].name
    graph.initializer.append(numpy_helper.from_array(np.array([1], dtype=np.int64), "label_one"))
    graph.node.append(helper.make_node("Gather", [probabilities, "label_one"], [OUTPUT], axis=1))
    _score_without_labels(graph)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, 1]))
    return bytes(proto.SerializeToString())


def _score_without_labels(graph: GraphProto) -> None:
    """Replaces boosted trees that give labels and two probabilities by trees that give one sum, and its sigmoid.

    They predict the same to a rounding of float32, and take about a tenth less time. Other graphs stay as they are.
    """
    trees, gather = graph.node[0], graph.node[-1]
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in trees.attribute}
    if trees.op_type != "TreeEnsembleClassifier" or given.get("post_transform") != b"LOGISTIC" or len(graph.node) > 2:
        return
    kept = {name.replace("class_", "target_"): value for name, value in given.items() if name not in _OF_LABELS}
    kept["target_ids"] = [0] * len(kept["target_ids"])
    total = helper.make_node(
        "TreeEnsembleRegressor", list(trees.input), ["total"], domain="ai.onnx.ml", n_targets=1, **kept
    )
    sigmoid = helper.make_node("Sigmoid", ["total"], list(gather.output))
    del graph.node[:], graph.initializer[:]
    graph.node.extend([total, sigmoid])


_OF_LABELS = ("classlabels_int64s", "classlabels_strings", "post_transform")


def _with_float32_thresholds(model: Any) -> Any:
    """`model`, its histogram trees' thresholds replaced by the largest 32-bit float that is not above them.

    Every float32 value takes the same branches as before. skl2onnx 1.20.0 rounds these thresholds to the nearest
    32-bit float instead, and a value that lies on one rounded up then takes the other branch.
    """
    final = model[-1] if isinstance(model, Pipeline) else model
    if not isinstance(final, HistGradientBoostingClassifier):
        return model
    model = copy.deepcopy(model)
    final = model[-1] if isinstance(model, Pipeline) else model
    for trees in final._predictors:
        for tree in trees:
            tree.nodes["num_threshold"] = round_down_to_float32(tree.nodes["num_threshold"])
    return model


def round_down_to_float32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 that is at most each of `values`."""
    nearest = values.astype(np.float32)
    return np.where(nearest > values, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def torch_to_onnx(module: nn.Module, n_features: int) -> bytes:
    """A torch module in eval mode as ONNX bytes; the same weights give the same bytes. The module stays as it was.

    It must map raw features (n_rows, n_features) float32 to probabilities (n_rows, 1) float32, as the graph does then:
    `features` to `predictions`. Raises `ValueError` for a module that works for one number of rows only, that torch
    cannot export, or that predicts as in training.
    """
    import torch
    from torch.nn.modules import batchnorm, dropout

    differing = batchnorm._BatchNorm, dropout._DropoutNd
    if any(part.training for part in module.modules() if isinstance(part, differing)):
        raise ValueError("Dropout and batch normalisation are still in training mode; call eval() when it is trained")
    with _quiet_exporter():
        try:
            program = torch.onnx.export(
                copy.deepcopy(module).cpu().eval(),
                (torch.zeros(2, n_features),),
                dynamo=True,
                verbose=False,
                opset_version=TARGET_OPSET[""],
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("n_rows")},),
            )
        except torch.onnx.errors.OnnxExporterError as exc:  # hundreds of lines
            raise ValueError(
                f"torch cannot export it: {_first_cause(exc)}. In forward(), the number of rows must stay open, and no "
                "branch may depend on values"
            ) from None
    proto: ModelProto = cast(torch.onnx.ONNXProgram, program).model_proto
    if not proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise ValueError("The module fixes the number of rows; take it from x.shape[0] in forward(), not from len(x)")
    _forget_its_making(proto)
    return bytes(proto.SerializeToString())


def _first_cause(exc: BaseException) -> str:
    """The first line of what began it."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(exc)).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(exc).__name__


def _forget_its_making(proto: ModelProto) -> None:
    """Removes what torch notes about each node: source files with their paths, lines, and the steps of the export."""
    graph = proto.graph
    del graph.value_info[:]
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without what torch 2.13 says of itself: that torchvision is missing, and that it calls what it deprecates."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
