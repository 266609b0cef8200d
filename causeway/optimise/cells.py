"""Figures as people read them, in cells by title: what the command's tables and the model card share."""

from __future__ import annotations

from causeway.optimise.measure import Figures, Speed


def quality_cells(figures: Figures) -> dict[str, str]:
    """By title: how good its scores are, and what it takes of disk and memory."""
    quality = figures.quality
    return {
        "AP": _digits(quality.average_precision, 4),
        "AUC ROC": _digits(quality.auc_roc, 4),
        "ECE": _digits(quality.calibration_error, 5),
        "Brier": _digits(quality.brier_score, 5),
        "difference": f"{figures.difference:.2g}",
        "in batches": f"{figures.batch_difference:.2g}",
        "kB": f"{figures.n_bytes / 1e3:.1f}",
        "memory MB": f"{figures.memory_bytes / 1e6:.1f}",
    }


def speed_cells(speed: Speed) -> dict[str, str]:
    """By title: how quick it is with batches of one size."""
    return {
        "p50 ms": f"{speed.p50_ms:.3g}",
        "p99 ms": f"{speed.p99_ms:.3g}",
        "rows/s": f"{speed.rows_per_second:,.0f}",
        "times as quick": f"{speed.speedup:.2f} ({speed.interval[0]:.2f} to {speed.interval[1]:.2f})",
    }


def _digits(figure: float | None, n: int) -> str:
    return "-" if figure is None else f"{figure:.{n}f}"
