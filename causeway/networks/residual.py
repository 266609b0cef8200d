"""A small residual network: few and plain operations, so that it is quick for one row and loses little in 8 bits.

After the ResNet of Gorishniy et al., Revisiting Deep Learning Models for Tabular Data (NeurIPS 2021), section 3.2,
without its batch normalisation: so small a network learns as well without, on features that are normalised.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from causeway.networks.tabular import Body


class Residual(Body):
    """Log-odds (n, 1) from normalised features (n, n_features).

    d_main: numbers a row between blocks. d_hidden: hidden units of a block. dropout: of these, while training.
    """

    def __init__(self, n_features: int, *, d_main: int, n_blocks: int, d_hidden: int, dropout: float) -> None:
        super().__init__()
        self.input = nn.Linear(n_features, d_main)
        self.blocks = nn.Sequential(*(Block(d_main, d_hidden, dropout) for _ in range(n_blocks)))
        self.output = nn.Linear(d_main, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(n, 1)."""
        logits: Tensor = self.output(functional.relu(self.blocks(self.input(features))))
        return logits


class Block(nn.Module):
    """A hidden layer, added to what came in."""

    def __init__(self, d_main: int, d_hidden: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(d_main, d_hidden)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(d_hidden, d_main)

    def forward(self, x: Tensor) -> Tensor:
        """(n, d_main)."""
        updated: Tensor = x + self.output(self.dropout(functional.relu(self.hidden(x))))
        return updated
