"""How a network is fitted, as hyper-parameters; needs no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Fitting:
    """What all networks' hyper-parameters have in common; a subclass adds the network's sizes.

    Raises `ValueError` for a number that makes no sense.
    """

    max_epochs: int = 60
    patience: int = 10
    """Epochs without a better one before it stops."""
    batch_size: int = 256
    negatives: float = 0.2
    """Share of the rows of label 0 that an epoch goes through, drawn anew each time; each counts for those left out, so
    that the loss is the same on average. Where positives are rare, an epoch takes a fraction of the time."""
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    dropout: float = 0.3
    averaging: float = 0.99
    """Of the moving average of weights: the share that it keeps at each step."""

    def __post_init__(self) -> None:
        counts = {"max_epochs": self.max_epochs, "patience": self.patience, "batch_size": self.batch_size, **self.sizes}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1")
        if not (self.learning_rate > 0 and self.weight_decay >= 0):
            raise ValueError("learning_rate must be positive, and weight_decay not negative")
        if not 0 < self.negatives <= 1:
            raise ValueError("negatives must be over 0 and at most 1")
        if not (0 <= self.dropout < 1 and 0 <= self.averaging < 1):
            raise ValueError("dropout and averaging must be from 0 to below 1")

    @property
    def sizes(self) -> dict[str, int]:
        """The fields that a subclass adds, by name."""
        common = {field.name for field in dataclasses.fields(Fitting)}
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in common}
