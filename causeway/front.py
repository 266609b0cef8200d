"""How requests get to `causeway.rest` before BentoML's own middlewares see them.

Those cost several times what a prediction does, label metrics by raw path, and keep a timer alive for every request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import bentoml
import uvicorn.config

from causeway.protocol import FastPathProtocol


@attrs.define
class FrontedService(bentoml.Service[Any]):  # type: ignore[misc]
    """A BentoML service, for `@bentoml.service(service_class=...)`, whose ASGI application goes through `front`."""

    front: Callable[[Any], Any] = attrs.field(kw_only=True)

    def to_asgi(self, is_main: bool = True) -> Any:
        """The application that BentoML gives to the HTTP server."""
        uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{FastPathProtocol.__module__}:{FastPathProtocol.__qualname__}"
        return self.front(super().to_asgi(is_main))
