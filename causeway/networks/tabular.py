"""The frame of every network here: raw features in, probabilities out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from causeway.networks.normalise import Asinh


class Body(nn.Module):
    """Log-odds (n, 1) from normalised features (n, n_features); its last layer is `output`."""

    output: nn.Linear


class TabularNetwork(nn.Module):
    """`body` between the normalisation of raw features and a sigmoid, which both stay in 32 bits."""

    def __init__(self, normalise: Asinh, body: Body) -> None:
        super().__init__()
        self.normalise = normalise
        self.body = body

    def forward(self, features: Tensor) -> Tensor:
        """Probabilities (n, 1) float32 of raw features (n, n_features) float32."""
        return torch.sigmoid(self.logits(features))

    def logits(self, features: Tensor) -> Tensor:
        """Log-odds (n, 1) float32 of raw features (n, n_features) float32."""
        logits: Tensor = self.body(self.normalise(features).to(self.precision))
        return logits.float()

    def start_from(self, share: float) -> None:
        """Lets it begin with log-odds around those of `share`, which it would otherwise have to learn first."""
        nn.init.constant_(self.body.output.bias, float(torch.logit(torch.tensor(share), eps=1e-6)))

    @property
    def precision(self) -> torch.dtype:
        """The type of the body's weights."""
        return next(self.body.parameters()).dtype
