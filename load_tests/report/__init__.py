"""The report of a load test: a page with plots, a picture, a sheet, the result as JSON, and what the terminal says.

The same result makes the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from load_tests.comparison import Comparison
from load_tests.report import canvas, overlay, page, sheet
from load_tests.report.plot import Plot
from load_tests.report.terminal import terminal, terminal_comparison
from load_tests.result import Result

__all__ = ["terminal", "terminal_comparison", "write", "write_comparison"]

_PANELS = {
    "ramp": ("goodput", "latency"),
    "soak": ("latency-over-time", "memory-over-time"),
    "spike": ("answers-over-time", "latency-over-time"),
}
"""Of report.png, by shape."""


def write(result: Result, folder: Path) -> list[Path]:
    """Writes report.html, report.png, stages.csv and result.json, and says where they are; makes the folder."""
    title = result.name + (": the generator was the limit" if result.is_generator_limited else "")
    panels = [plot for plot in page.plots(result) if plot.name in _PANELS[result.options.shape]]
    written = _write(
        folder,
        {
            "report.html": page.report(result).encode(),
            "report.png": _picture(panels, title),
            "stages.csv": sheet.stages(result).encode(),
        },
    )
    kept = folder / "result.json"
    result.save(kept)
    return [*written, kept]


def write_comparison(results: Sequence[Result], comparison: Comparison, folder: Path) -> list[Path]:
    """Writes comparison.html, comparison.png and comparison.csv, and says where they are; makes the folder."""
    return _write(
        folder,
        {
            "comparison.html": page.comparison(results, comparison).encode(),
            "comparison.png": _picture(overlay.plots(results)[:2], " and ".join(result.name for result in results)),
            "comparison.csv": sheet.comparison(comparison).encode(),
        },
    )


def _picture(plots: Sequence[Plot], title: str) -> bytes:
    return canvas.png([plot.draw for plot in plots], title)


def _write(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]
