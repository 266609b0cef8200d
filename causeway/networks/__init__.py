"""Networks over a contract's raw features, in torch: built from a description, kept as safetensors, never as a pickle.

`Network`, the description, needs no torch; torch is imported when a network is built.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from causeway.networks.description import DESCRIPTION_FILE, WEIGHTS_FILE, Network

if TYPE_CHECKING:
    from causeway.networks.tabular import TabularNetwork

__all__ = ["DESCRIPTION_FILE", "WEIGHTS_FILE", "Network", "build", "files", "load"]


def build(description: Network, *, dropout: float = 0.0) -> TabularNetwork:
    """The network of `description` with fresh weights, drawn from torch's own random generator; on the CPU.

    It maps raw features (n, n_features) float32 to probabilities (n, 1) float32. `dropout` is the share of hidden units
    left out while training. Raises `TypeError` for sizes that its kind does not have.
    """
    from causeway.networks.ft_transformer import FTTransformer
    from causeway.networks.normalise import Asinh
    from causeway.networks.residual import Residual
    from causeway.networks.tabular import TabularNetwork

    kind = {"ft_transformer": FTTransformer, "residual": Residual}[description.kind]
    body = kind(description.n_features, **description.sizes, dropout=dropout)
    normalise = Asinh(description.n_features)
    return TabularNetwork(normalise, body.half() if description.precision == "fp16" else body)


def load(folder: Path) -> tuple[Network, TabularNetwork]:
    """The network kept in `folder`: its description, and the module in eval mode on the CPU.

    Raises `msgspec.DecodeError` or `msgspec.ValidationError` for a network.json that is none, and `RuntimeError` for
    weights that are not those of the network it describes.
    """
    from safetensors.torch import load_file

    description = Network.from_json((folder / DESCRIPTION_FILE).read_bytes())
    module = build(description)
    module.load_state_dict(load_file(folder / WEIGHTS_FILE))
    return description, module.eval()


def files(description: Network, module: TabularNetwork) -> dict[str, bytes]:
    """network.json and weights.safetensors of a network; the same weights give the same bytes."""
    from safetensors.torch import save

    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    return {DESCRIPTION_FILE: description.to_json(), WEIGHTS_FILE: save(weights)}
