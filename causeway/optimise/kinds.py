"""The kinds of variants there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from causeway.contract import Array
from causeway.optimise import int8
from causeway.optimise.compiled import compiled
from causeway.optimise.half import fp16
from causeway.optimise.pruning import pruned


@dataclass(frozen=True)
class Kind:
    """A way to make a variant."""

    name: str
    precision: Literal["fp32", "fp16", "int8"]
    """Its key in the contract's PRECISION_TOLERANCE."""
    says: str
    """What was done, for the model card."""
    make: Callable[[bytes, Array], bytes]
    """From the model and the training rows (n, n_features). Raises `NotMade`."""


_PRODUCTS = "Products with constant matrices are in 8-bit integers, activations scaled by"
_IN_FLOAT = "The first and the last of them, normalisations, softmax and all other nodes stay in float32."

KINDS = (
    Kind("fp16", "fp16", "Weights and what is between the first and the last product are in float16.", fp16),
    Kind("int8-dynamic", "int8", f"{_PRODUCTS} what each batch holds. {_IN_FLOAT}", int8.dynamic),
    Kind("int8-static", "int8", f"{_PRODUCTS} what training rows gave. {_IN_FLOAT}", int8.static),
    *(
        Kind(
            f"pruned-{percent}",
            "fp32",
            f"{percent} % of the hidden units of each layer, those with the smallest weights, are taken out, and the "
            "weights after them are fitted to what all gave for training rows.",
            partial(pruned, share=percent / 100),
        )
        for percent in (25, 50)
    ),
    Kind("compiled", "fp32", "Nodes are fused by ONNX Runtime's extended optimisations, ahead of loading.", compiled),
)
