"""Card-fraud probability from an FT-Transformer: attention over amount, time, customer and terminal history."""

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
    """Sizes of the network, under the paper's names (see `causeway.networks.ft_transformer`), and how it is fitted."""

    max_epochs: int = 36
    patience: int = 6
    learning_rate: float = 2e-3
    dropout: float = 0.1
    d_token: int = 32
    n_blocks: int = 3
    n_heads: int = 4
    d_hidden: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_token % self.n_heads:
            raise ValueError(f"d_token must be a multiple of n_heads, {self.n_heads}")


def train(data: Dataset, params: Params, seed: int) -> Trained:
    """The network fitted on four fifths of `data`, and stopped by the last."""
    from causeway.training.fit import fit

    description = networks.Network("ft_transformer", CONTRACT.width, params.sizes)
    return Trained(fit(description, data, params, seed))


def to_artifact(trained: Trained) -> bytes:
    """The network as one ONNX graph."""
    return torch_to_onnx(trained.model.module, CONTRACT.width)


def to_files(trained: Trained) -> dict[str, bytes]:
    """The network's description and weights, to be served by torch on a GPU."""
    return networks.files(trained.model.description, trained.model.module)
