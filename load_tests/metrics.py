"""What a server says of itself under /metrics."""

from __future__ import annotations

import re
import urllib.request
from http.client import HTTPException

from load_tests.stage import ServerSide

_SERIES = re.compile(r"^([A-Za-z_:][^\s{]*(?:\{[^\n]*\})?) (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'\w+="([^"]*)"')

Series = dict[str, float]


def series(url: str) -> Series:
    """Prometheus's series by name and labels; none where the server at `url` has no /metrics."""
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
            return {name: float(value) for name, value in _SERIES.findall(response.read().decode())}
    except (OSError, HTTPException):
        return {}


def growth(before: Series, after: Series) -> Series:
    """By how much Causeway's own series grew; those that did not, and the buckets of histograms, are left out.

    Nothing where there were none before: a failed look would make totals since the server's start of it.
    """
    if not before:
        return {}
    grown = {name: value - before.get(name, 0.0) for name, value in after.items() if name.startswith("causeway_")}
    return {name: value for name, value in grown.items() if value and "_bucket{" not in name}


def server_side(grown: Series) -> ServerSide:
    """What the `growth` of the series says of the requests of a stage."""
    return ServerSide(
        queue_ms=_mean_ms(grown, "causeway_phase_seconds", '{phase="queue"}'),
        compute_ms=_mean_ms(grown, "causeway_phase_seconds", '{phase="compute"}'),
        decode_ms=_mean_ms(grown, "causeway_phase_seconds", '{phase="decode"}'),
        encode_ms=_mean_ms(grown, "causeway_phase_seconds", '{phase="encode"}'),
        batch_rows=_mean(grown, "causeway_batch_rows"),
        released=_by_label(grown, "causeway_batches_total"),
        refusals=_by_label(grown, "causeway_refusals_total"),
        loop_lag_ms=_mean_ms(grown, "causeway_event_loop_lag_seconds"),
    )


def cpu_s(series: Series) -> float | None:
    """CPU seconds of all its processes so far; None where it does not say."""
    return _total(series, "causeway_process_cpu_seconds_total")


def resident_mb(series: Series) -> float | None:
    """Resident memory of all its processes in MB; None where it does not say."""
    n_bytes = _total(series, "causeway_process_resident_bytes")
    return None if n_bytes is None else n_bytes / 1e6


def champion(series: Series) -> str | None:
    """The tag of the version that it serves; None where it does not say."""
    deployed = (re.search(r'model_version="([^"]*)"', name) for name in series if _is_of(name, "causeway_deployed"))
    return next((found[1] for found in deployed if found), None)


def is_quiet(series: Series) -> bool | None:
    """Whether it answers nothing but the request for these series; None where it does not say."""
    in_flight, queued = series.get("causeway_requests_in_flight"), series.get("causeway_queued_rows")
    return None if in_flight is None or queued is None else in_flight <= 1 and queued == 0


def _mean(grown: Series, histogram: str, labels: str = "") -> float | None:
    n = grown.get(f"{histogram}_count{labels}", 0.0)
    return grown.get(f"{histogram}_sum{labels}", 0.0) / n if n else None


def _mean_ms(grown: Series, histogram: str, labels: str = "") -> float | None:
    seconds = _mean(grown, histogram, labels)
    return None if seconds is None else seconds * 1e3


def _by_label(grown: Series, counter: str) -> Series:
    """By the value of the counter's only label."""
    return {
        label[1]: value for name, value in grown.items() if _is_of(name, counter) and (label := _LABEL.search(name))
    }


def _total(series: Series, name: str) -> float | None:
    values = [value for each, value in series.items() if _is_of(each, name)]
    return sum(values) if values else None


def _is_of(series: str, name: str) -> bool:
    return series.partition("{")[0] == name
