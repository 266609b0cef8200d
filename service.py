"""The front door: a versioned model behind POST /predict, served by BentoML.

In this folder, with the environment activated: `bentoml serve`.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

import bentoml
from prometheus_client import REGISTRY

from causeway import codec, logs
from causeway.asgi import new_request_id
from causeway.deployment import Deployment, settle
from causeway.errors import InvalidSetting
from causeway.front import FrontedService
from causeway.monitoring import folder
from causeway.monitoring.metrics import Metrics, Silent
from causeway.rest import Rest
from causeway.settings import Settings
from causeway.store import ModelReference
from causeway.tracing import Spans

try:
    settings, spans = Settings.from_env(), Spans.from_env()
except InvalidSetting as exc:
    sys.exit(exc.message)
logs.configure(settings.log_format)
folder.join()
metrics = (Metrics if settings.monitoring == "on" else Silent)(REGISTRY)
deployment = Deployment(settings, metrics)
front = partial(Rest, deployment=deployment, settings=settings, metrics=metrics, spans=spans)


@bentoml.service(
    name="causeway",
    service_class=partial(FrontedService, front=front),
    workers=settings.workers,
    envs=[{"name": "CAUSEWAY_MODEL", "value": settings.model}],
    logging={"access": {"enabled": False}},  # requests belong to metrics
)
class Causeway:
    """Scores rows with the model version that is deployed."""

    model = ModelReference(settings.model)

    def __init__(self) -> None:
        deployment.start(built_with())

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    def before_the_workers_start() -> None:
        """Gives this server's metrics a place of their own, and all its workers the same version for `latest`."""
        folder.create()
        settle(settings, built_with())

    @bentoml.api  # type: ignore[untyped-decorator]
    async def predict(
        self, features: list[list[float]] | None = None, rows: list[dict[str, float]] | None = None
    ) -> dict[str, Any]:
        """One prediction a row, for `features` in contract order or `rows` by name."""
        started = time.perf_counter()
        request_id = new_request_id()
        variant = deployment.route(request_id)
        X = codec.to_array(features, rows, variant.version.contract, settings.max_rows)
        scored = await variant.score(X, settings.timeout_ms)
        latency_ms = (time.perf_counter() - started) * 1000
        return codec.answer(scored.predictions.tolist(), variant.version.tag, variant.role, request_id, latency_ms)

    def __is_ready__(self) -> bool:
        return deployment.is_ready


def built_with() -> list[str]:
    """The versions in the Bento; none outside of one."""
    bento = Causeway.bento  # type: ignore[attr-defined]
    return [str(model.tag) for part in bento.info.services for model in part.models] if bento else []
