"""An ONNX graph as variants are made from: simplified, every node named, and who makes and who takes each tensor."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from causeway.contract import Array
from causeway.runtime import MODEL_FILE
from causeway.runtime.onnx import INPUT

Weights = NDArray[np.float32]


class NotMade(Exception):
    """A variant that there is nothing to make of in this graph; the message says what it lacks."""


class Graph:
    """A model's graph, and where each tensor comes from."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.nodes: list[NodeProto] = list(model.graph.node)
        """In an order in which they can be computed."""
        for number, node in enumerate(self.nodes):
            node.name = f"{node.op_type}_{number}"
        self.constants = {each.name: each for each in model.graph.initializer}
        self.producer = {output: node for node in self.nodes for output in node.output}

    @classmethod
    def of(cls, model: bytes) -> Graph:
        """The graph of `model` with its constants folded and its shapes inferred."""
        simple = optimised(model, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
        return cls(onnx.shape_inference.infer_shapes(simple))

    @cached_property
    def products(self) -> list[NodeProto]:
        """The nodes that multiply with constant weights. Raises `NotMade` where there is none, as among trees."""
        found = [node for node in self.nodes if self._is_product(node)]
        if not found:
            raise NotMade("nothing in its graph multiplies with constant weights")
        return found

    @property
    def linears(self) -> list[NodeProto]:
        """Those of the `products` whose weights are one matrix."""
        return [node for node in self.products if len(self.constants[node.input[1]].dims) == 2]

    def _is_product(self, node: NodeProto) -> bool:
        factors = [each.f for each in node.attribute if each.name in ("alpha", "beta")]
        if node.op_type not in ("MatMul", "Gemm") or attribute(node, "transA") or any(each != 1 for each in factors):
            return False
        return all(name in self.constants for name in node.input[1:])

    def takers(self, tensor: str) -> list[NodeProto]:
        """The nodes that read `tensor`, each once."""
        return [node for node in self.nodes if tensor in node.input]

    def array(self, name: str) -> Weights:
        """The constant of that name."""
        return numpy_helper.to_array(self.constants[name])

    def weights(self, product: NodeProto) -> Weights:
        """The constant matrix of one of the `linears`, (n_in, n_out)."""
        weights = self.array(product.input[1])
        return weights.T if is_transposed(product) else weights

    def last_axis(self, constant: str) -> int:
        """How many numbers a constant has along its last axis; 1 of a single number."""
        dims = self.constants[constant].dims
        return dims[-1] if dims else 1

    def rank(self, tensor: str) -> int:
        """How many axes a tensor has, where that could be inferred; otherwise 0."""
        found = (each for each in self.model.graph.value_info if each.name == tensor)
        return next((len(each.type.tensor_type.shape.dim) for each in found), 0)

    def is_float(self, tensor: str) -> bool:
        """Whether a tensor holds 32-bit floats, as far as that could be inferred."""
        return self._types.get(tensor) == TensorProto.FLOAT

    @cached_property
    def _types(self) -> dict[str, int]:
        graph = self.model.graph
        inferred = {each.name: each.type.tensor_type.elem_type for each in (*graph.input, *graph.value_info)}
        return inferred | {name: each.data_type for name, each in self.constants.items()}

    def between(self, some: Iterable[NodeProto]) -> set[str]:
        """Names of `some` nodes, and of those that take what one of them makes and make what one of them takes."""
        names = {node.name for node in some}
        turned = [NodeProto(name=node.name, input=node.output, output=node.input) for node in reversed(self.nodes)]
        return _reached(self.nodes, names) & _reached(turned, names)

    def set(self, name: str, value: NDArray[Any]) -> None:
        """Makes `value` the constant of that name, which may be new."""
        self.constants[name] = numpy_helper.from_array(value, name)

    def give(self, node: NodeProto, name: str, value: NDArray[Any]) -> None:
        """Gives `node` a constant of its own in place of `name`, which others may take too."""
        own = f"{node.name}_{name}"
        self.set(own, value)
        node.input[list(node.input).index(name)] = own

    def computed(self, tensors: Sequence[str], rows: Array) -> list[Weights]:
        """What each of `tensors` is for rows (n, n_features)."""
        model = onnx.load_from_string(self.rebuilt(self.nodes))
        for tensor in tensors:
            model.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found: list[Weights] = session.run(list(tensors), {INPUT: rows})
        return found

    def rebuilt(self, nodes: Iterable[NodeProto]) -> bytes:
        """The model of `nodes` and the constants that they take, without the shapes that were inferred."""
        model = ModelProto()
        model.CopyFrom(self.model)
        del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
        model.graph.node.extend(nodes)
        used = {name for node in model.graph.node for name in node.input}
        model.graph.initializer.extend(each for name, each in self.constants.items() if name in used)
        return bytes(model.SerializeToString())


def attribute(node: NodeProto, name: str, default: int = 0) -> int:
    """A node's attribute, a whole number."""
    return next((each.i for each in node.attribute if each.name == name), default)


def is_transposed(product: NodeProto) -> bool:
    """Whether a product's weights are kept as (n_out, n_in)."""
    return bool(attribute(product, "transB"))


def optimised(model: bytes, level: onnxruntime.GraphOptimizationLevel) -> ModelProto:
    """`model` after ONNX Runtime's optimisations of that level."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, MODEL_FILE)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 4  # it warns that the graph may hold what only ONNX Runtime computes; so it does
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return onnx.load(path)


def _reached(nodes: Iterable[NodeProto], names: set[str]) -> set[str]:
    """Names of those of `nodes` that are in `names` or take what one of them makes, near or far."""
    tensors: set[str] = set()
    reached = set()
    for node in nodes:
        if node.name in names or not tensors.isdisjoint(node.input):
            reached.add(node.name)
            tensors.update(node.output)
    return reached
