"""Weights in 16 bits: half the bytes. A CPU computes in 32 bits all the same; a GPU need not."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from onnx import NodeProto, TensorProto, helper

from causeway.contract import Array
from causeway.optimise.graph import Graph
from causeway.runtime import Runtime

FLOAT16_MAX = float(np.finfo(np.float16).max)


def fp16(model: bytes, rows: Array) -> bytes:
    """`model` in float16 from its first to its last product with weights.

    What normalises inputs before that stays in float32, since float16 ends at 65 504, and so does what makes a
    probability after it. (ONNX Runtime's own converter sends the tensors around nodes that it leaves alone through
    float16 as well.) Raises `NotMade`.
    """
    graph = Graph.of(model)
    inner = graph.between(graph.products)
    halved = {tensor for node in graph.nodes if node.name in inner for tensor in node.output}
    nodes: list[NodeProto] = []
    for node in graph.nodes:
        is_inner = node.name in inner
        for place, tensor in enumerate(node.input):
            if graph.is_float(tensor) and is_inner != (tensor in halved):
                node.input[place] = _converted(graph, nodes, tensor, to_half=is_inner)
        for each in node.attribute:
            if is_inner and node.op_type == "Cast" and each.i == TensorProto.FLOAT:
                each.i = TensorProto.FLOAT16
        nodes.append(node)
    return graph.rebuilt(nodes)


def _converted(graph: Graph, nodes: list[NodeProto], tensor: str, *, to_half: bool) -> str:
    """The name of `tensor` in the other precision; a constant is converted here, others by a node."""
    name = f"{tensor}_{'half' if to_half else 'single'}"
    if tensor in graph.constants:
        graph.set(name, graph.array(tensor).clip(-FLOAT16_MAX, FLOAT16_MAX).astype(np.float16))
    elif all(name not in node.output for node in nodes):
        precision = TensorProto.FLOAT16 if to_half else TensorProto.FLOAT
        nodes.append(helper.make_node("Cast", [tensor], [name], to=precision))
    return name


def open_network(files: Mapping[str, bytes]) -> Runtime:
    """What torch makes of `files`, those of a network, on the CPU."""
    from causeway.runtime import network

    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            Path(folder, name).write_bytes(data)
        return network.open_network(Path(folder))


def network_files(folder: Path) -> dict[str, bytes]:
    """The network files of the version in `folder`, for torch on a GPU, with the weights in float16."""
    from causeway import networks

    description, module = networks.load(folder)
    module.body.half()
    return networks.files(msgspec.structs.replace(description, precision="fp16"), module)
