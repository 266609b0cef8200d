"""Card-fraud probability from a small residual network over amount, time, customer and terminal history."""

from __future__ import annotations

from dataclasses import dataclass

from causeway import networks
from causeway.training import Dataset, Trained, torch_to_onnx
from causeway.training.fitting import Fitting
from models.transactions import CONTRACT, NAME, default_data, from_table

__all__ = ["CONTRACT", "NAME", "Params", "default_data", "from_table", "to_artifact", "to_files", "train"]

NEEDS_TORCH = True


@dataclass(frozen=True)
class Params(Fitting):
    """Sizes of the network (see `causeway.networks.residual`), and how it is fitted."""

    d_main: int = 64
    n_blocks: int = 1
    d_hidden: int = 128


def train(data: Dataset, params: Params, seed: int) -> Trained:
    """The network fitted on four fifths of `data`, and stopped by the last."""
    from causeway.training.fit import fit

    description = networks.Network("residual", CONTRACT.width, params.sizes)
    return Trained(fit(description, data, params, seed))


def to_artifact(trained: Trained) -> bytes:
    """The network as one ONNX graph."""
    return torch_to_onnx(trained.model.module, CONTRACT.width)


def to_files(trained: Trained) -> dict[str, bytes]:
    """The network's description and weights, to be served by torch on a GPU."""
    return networks.files(trained.model.description, trained.model.module)
