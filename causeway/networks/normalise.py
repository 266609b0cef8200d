"""Raw features on a scale that a network can learn from, whatever their tails."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from causeway.contract import Array

LARGEST = 1e18
"""A larger number counts as this one: its square would be none in float32."""

LEAST_DEVIATION = 1e-30
"""Of a feature that is not taken for a constant: the reciprocal is a float32 as well."""


class Asinh(nn.Module):
    """asinh(x) of each feature, standardised to mean 0 and variance 1 over the rows it was fitted on.

    The inverse hyperbolic sine is about sign(x) log(2 |x|) for large numbers, x for small ones (Burbidge, Magee, Robb,
    Journal of the American Statistical Association 83, 1988), and one node of an ONNX graph. What lies outside of the
    range of those rows counts as its edge: no number, however large, gives one that no weight was fitted for. A feature
    that was constant is 0.
    """

    mean: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        for name in ("mean", "scale", "low", "high"):
            self.register_buffer(name, torch.zeros(n_features))

    def fit(self, X: Array) -> None:
        """Sets mean, scale and range from X (n, n_features)."""
        x = torch.from_numpy(X).clamp(-LARGEST, LARGEST)
        self.low.copy_(x.amin(dim=0))
        self.high.copy_(x.amax(dim=0))
        scaled = torch.asinh(x).double()
        deviation = scaled.std(dim=0, correction=0)
        self.mean.copy_(scaled.mean(dim=0))
        self.scale.copy_(torch.where(deviation > LEAST_DEVIATION, 1 / deviation, 0))

    def forward(self, features: Tensor) -> Tensor:
        """(n, n_features) float32."""
        return (torch.asinh(torch.clamp(features, self.low, self.high)) - self.mean) * self.scale
