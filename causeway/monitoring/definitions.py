"""All metrics that there are, for what is built from them: the dashboard, and the tests of the alert rules."""

from __future__ import annotations

from typing import NamedTuple, cast

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from causeway.monitoring.metrics import Metrics
from causeway.monitoring.model_metrics import ModelMetrics

SUFFIXES = {"counter": "_total"}
"""What the name of a metric has in PromQL, beside what it is registered as."""


class Definition(NamedTuple):
    """One metric."""

    name: str
    type: str
    """counter, gauge or histogram."""
    help: str
    labels: tuple[str, ...]


def definitions() -> dict[str, Definition]:
    """Every metric of a worker and of the keeper, by name."""
    worker, keeper = _Listing(), _Listing()
    Metrics(worker)
    ModelMetrics(keeper)
    found = {}
    for collector in worker.listed + keeper.listed:
        (family,) = collector.describe()
        name = family.name + SUFFIXES.get(family.type, "")
        found[name] = Definition(name, family.type, family.documentation, collector._labelnames)
    return dict(sorted(found.items()))


class _Listing(CollectorRegistry):
    """A registry that remembers what was registered."""

    def __init__(self) -> None:
        super().__init__()
        self.listed: list[MetricWrapperBase] = []

    def register(self, collector: Collector) -> None:
        super().register(collector)
        self.listed.append(cast(MetricWrapperBase, collector))
