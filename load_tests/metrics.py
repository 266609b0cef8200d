"""What a server says of itself under /metrics."""

from __future__ import annotations

import re
import urllib.request

from load_tests.open_loop.client import HOST

_SERIES = re.compile(r"^([A-Za-z_:][^\s{]*(?:\{[^\n]*\})?) (\S+)$", re.MULTILINE)


def series(port: int) -> dict[str, float]:
    """Prometheus's series by name and labels; none where the server has no /metrics."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=10) as response:
            return {name: float(value) for name, value in _SERIES.findall(response.read().decode())}
    except OSError:
        return {}


def growth(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """By how much Causeway's own series grew; those that did not, and the buckets of histograms, are left out."""
    grown = {name: value - before.get(name, 0.0) for name, value in after.items() if name.startswith("causeway_")}
    return {name: value for name, value in grown.items() if value and "_bucket{" not in name}
