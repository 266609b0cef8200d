"""Where the hidden units of a graph are: between products, each computed without the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from onnx import NodeProto

from causeway.optimise.graph import Graph, attribute

ELEMENTWISE = {
    "Abs", "Add", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Max", "Min", "Mish", "Mul", "Neg", "Pow", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt",
    "Sub", "Tanh",
}  # fmt: skip
"""What computes each unit from that unit alone."""

N_LEAST = 4
"""Fewer numbers than this are no layer."""


@dataclass
class Layer:
    """Hidden units: products that give them, what is done to each of them, and the product that takes them.

    A tensor may hold several groups of as many numbers, as before a gated unit is split in two: a unit is then one
    number of each.
    """

    taker: NodeProto
    n_units: int
    givers: dict[str, tuple[NodeProto, int]] = field(default_factory=dict)
    """By name, with the number of groups that it gives."""
    inner: dict[str, tuple[NodeProto, int]] = field(default_factory=dict)
    """Between givers and taker, by name, with the number of groups in what it takes."""


def hidden_layers(graph: Graph) -> Iterator[Layer]:
    """The layers whose units nothing takes but the next product, and whose weights nothing else has."""
    uses = [name for node in graph.nodes for name in node.input]
    linears = {node.name: node for node in graph.linears if uses.count(node.input[1]) == 1}
    for taker in linears.values():
        layer = Layer(taker, graph.weights(taker).shape[0])
        if layer.n_units >= N_LEAST and _trace(graph, linears, layer, taker.input[0], 1) and _is_closed(graph, layer):
            yield layer


def _trace(graph: Graph, linears: dict[str, NodeProto], layer: Layer, tensor: str, n_groups: int) -> bool:
    """Follows `tensor` back to the products that give the layer's units; whether all it meets computes unit by unit."""
    if tensor in graph.constants:
        return graph.last_axis(tensor) in (1, layer.n_units * n_groups)
    node = graph.producer.get(tensor)
    if node is None:
        return False
    if node.name in linears:
        layer.givers[node.name] = node, n_groups
        return bool(graph.weights(node).shape[1] == layer.n_units * n_groups)
    if node.op_type == "Split" and _is_even(graph, node):
        layer.inner[node.name] = node, n_groups * len(node.output)
        return _trace(graph, linears, layer, node.input[0], n_groups * len(node.output))
    layer.inner[node.name] = node, n_groups
    taken = [name for name in node.input if name]
    return node.op_type in ELEMENTWISE and all(_trace(graph, linears, layer, name, n_groups) for name in taken)


def _is_closed(graph: Graph, layer: Layer) -> bool:
    """Whether nothing else takes what the layer computes, such as a residual branch."""
    members = {*layer.inner, layer.taker.name}
    outputs = {output.name for output in graph.model.graph.output}
    made = [tensor for node, _ in (*layer.givers.values(), *layer.inner.values()) for tensor in node.output]
    return bool(layer.givers) and all(
        tensor not in outputs and all(node.name in members for node in graph.takers(tensor)) for tensor in made
    )


def _is_even(graph: Graph, node: NodeProto) -> bool:
    """Whether a Split divides the last axis into equal parts."""
    sizes = set(graph.array(node.input[1]).tolist()) if len(node.input) > 1 else {0}
    return len(sizes) == 1 and attribute(node, "axis") in (-1, graph.rank(node.input[0]) - 1)
