"""What network.json says: which network a version's weights belong to. Needs no torch."""

from __future__ import annotations

from typing import Literal

import msgspec

DESCRIPTION_FILE = "network.json"
WEIGHTS_FILE = "weights.safetensors"


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network's kind, its sizes by name, and the precision of its weights."""

    kind: Literal["ft_transformer", "residual"]
    n_features: int
    sizes: dict[str, int]
    """Arguments of the network's class that change its shape, by name."""
    precision: Literal["fp32", "fp16"] = "fp32"

    def to_json(self) -> bytes:
        """The description as network.json holds it."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @staticmethod
    def from_json(data: bytes) -> Network:
        """The description in `data`; raises `msgspec.ValidationError` or `msgspec.DecodeError` with the place."""
        return msgspec.json.decode(data, type=Network)
