"""How every network here is fitted: AdamW on mini-batches, stopped early on rows that were held out."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from causeway.contract import Array
from causeway.networks import Network, build
from causeway.networks.tabular import TabularNetwork
from causeway.quality.measures import average_precision
from causeway.training.dataset import Dataset, folds
from causeway.training.fitting import Fitting

N_THREADS = 2
"""While fitting, whatever the machine has: sums in another order give other weights."""

N_FOLDS = 5
"""One of so many parts of the rows is held out, to know when to stop."""

PREDICTED_ROWS = 4096
"""Rows predicted at once."""


class FittedNetwork:
    """A fitted network, used as scikit-learn's classifiers are."""

    def __init__(self, description: Network, module: TabularNetwork) -> None:
        self.description = description
        self.module = module.cpu().eval()

    def predict_proba(self, X: Array) -> NDArray[np.float64]:
        """(n, 2) probabilities of labels 0 and 1 for X (n, n_features) float32."""
        with torch.inference_mode():
            positive = _in_parts(self.module, torch.from_numpy(X)).double().numpy()
        return np.hstack([1 - positive, positive])


def fit(
    description: Network, data: Dataset, fitting: Fitting, seed: int, *, targets: NDArray[np.float64] | None = None
) -> FittedNetwork:
    """The network of `description`, fitted on `data`, on a GPU where there is one; on a CPU, a seed gives its bits.

    targets: (n,) probabilities to learn in place of the labels. The loss is the cross-entropy of all rows, in which the
    rarer label has no greater weight, so that scores are probabilities; the network starts from its share instead. The
    weights are a moving average: that of the epoch with the least loss on a part of the rows held out (see `folds`).
    """
    target = np.asarray(data.y if targets is None else targets, dtype=np.float32)[:, np.newaxis]
    fitted, held_out = next(folds(data, N_FOLDS, seed))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with _reproducible(seed):
        module = build(description, dropout=fitting.dropout)
        module.normalise.fit(data.X[fitted])
        module.start_from(float(target[fitted].mean()))
        course = _Course(module.to(device), _Rows.of(data, target, fitted, device), fitting)
        best = _best(course, _Rows.of(data, target, held_out, device), fitting)
    return FittedNetwork(description, best)


@dataclass(frozen=True)
class _Rows:
    """Rows on the device: X (n, n_features) and what to learn (n, 1); on the host, the labels (n,)."""

    X: Tensor
    target: Tensor
    y: NDArray[np.int8]

    @classmethod
    def of(cls, data: Dataset, target: Array, rows: NDArray[np.intp], device: torch.device) -> _Rows:
        X, learnt = (torch.from_numpy(part[rows]).to(device) for part in (data.X, target))
        return cls(X, learnt, data.y[rows])


class _Course:
    """A network on its way through the rows, and the moving average of its weights."""

    def __init__(self, module: TabularNetwork, rows: _Rows, fitting: Fitting) -> None:
        self.rows, self.fitting = rows, fitting
        self.module = module
        self.averaged = copy.deepcopy(module).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            module.parameters(), lr=fitting.learning_rate, weight_decay=fitting.weight_decay
        )

    def epoch(self) -> float:
        """Goes once through the positives and some of the negatives; the mean loss, as of all rows."""
        self.module.train()
        total = torch.zeros((), device=self.rows.X.device)
        drawn, weight = self._draw()
        for batch in torch.split(drawn, self.fitting.batch_size):
            losses = functional.binary_cross_entropy_with_logits(
                self.module.logits(self.rows.X[batch]), self.rows.target[batch], weight[batch], reduction="none"
            )
            self.optimizer.zero_grad()
            torch.autograd.backward(losses.mean())
            self.optimizer.step()
            self._average()
            total += losses.detach().sum()
        return float(total) / len(weight)

    def _draw(self) -> tuple[Tensor, Tensor]:
        """An epoch's rows in random order, and of all rows (n, 1) how many of them one drawn counts for."""
        y, X = torch.from_numpy(self.rows.y), self.rows.X
        negatives = torch.nonzero(y == 0)[:, 0]
        some = negatives[torch.randperm(len(negatives))[: math.ceil(len(negatives) * self.fitting.negatives)]]
        drawn = torch.cat([torch.nonzero(y)[:, 0], some])
        weight = torch.where(y == 0, len(negatives) / len(some), 1.0)
        return drawn[torch.randperm(len(drawn))].to(X.device), weight.unsqueeze(1).to(X.device)

    @torch.inference_mode()
    def check(self, rows: _Rows) -> tuple[float, float]:
        """Mean loss and average precision (0 without positives) of the averaged network on `rows`."""
        logits = _in_parts(self.averaged.logits, rows.X)
        loss = functional.binary_cross_entropy_with_logits(logits, rows.target)
        return float(loss), average_precision(rows.y, logits[:, 0].double().cpu().numpy()) or 0.0

    @torch.no_grad()
    def _average(self) -> None:
        for average, now in zip(self.averaged.parameters(), self.module.parameters(), strict=True):
            average.lerp_(now, 1 - self.fitting.averaging)


def _best(course: _Course, held_out: _Rows, fitting: Fitting) -> TabularNetwork:
    """The network of the epoch with the least loss on rows `held_out`."""
    progress = _Progress(fitting.max_epochs)
    best, least, since = course.averaged, float("inf"), 0
    for epoch in range(fitting.max_epochs):
        fitted_loss = course.epoch()
        loss, precision = course.check(held_out)
        progress.tell(epoch + 1, fitted_loss, loss, precision)
        since += 1
        if loss < least:
            best, least, since = copy.deepcopy(course.averaged), loss, 0
        if since == fitting.patience:
            break
    progress.end()
    return best


class _Progress:
    """Tells of each epoch on stderr: on a terminal in one live line, otherwise in a line each."""

    def __init__(self, max_epochs: int) -> None:
        self.max_epochs = max_epochs
        self.is_live = sys.stderr.isatty()
        self.started = time.monotonic()

    def tell(self, epoch: int, fitted_loss: float, loss: float, precision: float) -> None:
        """Of the epoch that ended."""
        left_s = (time.monotonic() - self.started) / epoch * (self.max_epochs - epoch)
        line = (
            f"epoch {epoch} of at most {self.max_epochs}: training loss {fitted_loss:.5f}; held out: loss {loss:.5f}, "
            f"AP {precision:.4f}; at most {left_s:.0f} s left"
        )
        print(
            f"\r{line}\x1b[K" if self.is_live else line, end="" if self.is_live else "\n", file=sys.stderr, flush=True
        )

    def end(self) -> None:
        """No epoch follows."""
        if self.is_live:
            print(file=sys.stderr, flush=True)


def _in_parts(function: Callable[[Tensor], Tensor], X: Tensor) -> Tensor:
    """`function` of X's rows, a bounded number of them at once."""
    return torch.cat([function(part) for part in torch.split(X, PREDICTED_ROWS)])


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Torch's random numbers from `seed` and a fixed number of threads; afterwards, both as they were."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(N_THREADS)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(n_threads)
