"""The contestants: how each is started, and what it needs. One file each, as its own users would write it.

All of them answer POST /predict on one port of the loopback, with the same body: `{"features": [[...], ...]}`. The
files that they serve are in the folder that BENCH_FOLDER names.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_BENTOML = str(Path(sys.executable).with_name("bentoml"))


@dataclass(frozen=True)
class Peer:
    """A server to compare."""

    name: str
    title: str
    """What it is, for the table."""
    command: tuple[str, ...]
    """Starts it; `{port}` stands for its port."""
    needs: tuple[str, ...] = ()
    """Distributions on top of the development environment, from requirements/bench.in."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables for it."""
    is_model: bool = True
    """Otherwise it answers fixed bytes, and only their number is checked."""
    is_slow: bool = False
    """Whether it answers hundreds of requests a second rather than thousands."""
    workers: int = 1
    is_pinned: bool = True
    """Whether it runs on the server's core; otherwise on all of them, the generator's too."""

    @property
    def missing(self) -> tuple[str, ...]:
        """What of `needs` is not installed."""
        return tuple(name for name in self.needs if not _is_installed(name))


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def _uvicorn(module: str, *options: str) -> tuple[str, ...]:
    application = f"load_tests.bench.peers.{module}:app"
    return (sys.executable, "-m", "uvicorn", application, "--host", "127.0.0.1", "--port", "{port}", *options)


def _bentoml(*service: str) -> tuple[str, ...]:
    return (_BENTOML, "serve", *service, "--host", "127.0.0.1", "--port", "{port}")


_TUNED = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")

CEILING = Peer(
    "ceiling", "raw ASGI under uvicorn: the body read, fixed bytes back", _uvicorn("ceiling", *_TUNED), is_model=False
)
CAUSEWAY = Peer("causeway", "**Causeway**: `bentoml serve`, as it comes", _bentoml())
BENTOML = Peer(
    "bentoml_plain",
    "BentoML `@bentoml.api`, scikit-learn",
    _bentoml("load_tests.bench.peers.bentoml_plain:Plain"),
    is_slow=True,
)
BENTOML_BATCHABLE = Peer(
    "bentoml_batchable",
    "the same, `batchable=True`",
    _bentoml("load_tests.bench.peers.bentoml_batchable:Batchable"),
    is_slow=True,
)
FASTAPI_SKLEARN = Peer(
    "fastapi_sklearn",
    "FastAPI + scikit-learn, as a tutorial would",
    _uvicorn("fastapi_sklearn"),
    needs=("fastapi",),
    is_slow=True,
)
FASTAPI_ONNX = Peer(
    "fastapi_onnx",
    "FastAPI + ONNX Runtime, as an expert would",
    _uvicorn("fastapi_onnx", *_TUNED),
    needs=("fastapi",),
)
LITSERVE = Peer(
    "litserve_sklearn",
    "LitServe + scikit-learn, as its docs would",
    (sys.executable, "-m", "load_tests.bench.peers.litserve_sklearn", "{port}"),
    needs=("litserve",),
    is_slow=True,
)

PEERS = (CEILING, CAUSEWAY, BENTOML, BENTOML_BATCHABLE, FASTAPI_SKLEARN, FASTAPI_ONNX, LITSERVE)
