"""Card-fraud probability from a small residual network that learns from a larger model's scores: its teacher's.

Source: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (2015), at temperature 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from causeway import networks
from causeway.training import Dataset, Trained
from models import mlp
from models.mlp import to_artifact, to_files
from models.transactions import CONTRACT, NAME, default_data, from_table

__all__ = ["CONTRACT", "NAME", "Params", "default_data", "from_table", "to_artifact", "to_files", "train"]

NEEDS_TORCH = True
NEEDS_TEACHER = True


@dataclass(frozen=True)
class Params(mlp.Params):
    """As for `mlp`, but smaller: it is meant to be quick, and a teacher's scores are easier to learn than labels.

    They are smooth, too, and need less that keeps from learning them by heart.
    """

    negatives: float = 0.5
    dropout: float = 0.0
    d_main: int = 32
    d_hidden: int = 64


def train(data: Dataset, params: Params, seed: int) -> Trained:
    """The network fitted to the teacher's scores for four fifths of `data`, and stopped by the last.

    Raises `ValueError` without the scores.
    """
    from causeway.training.fit import fit

    if data.teacher_scores is None:
        raise ValueError("distil learns from a teacher: set Dataset.teacher_scores")
    description = networks.Network("residual", CONTRACT.width, params.sizes)
    return Trained(fit(description, data, params, seed, targets=data.teacher_scores))
