"""Requests come to us before BentoML's middlewares, by a way that BentoML's releases may change."""

import json
import urllib.error
import urllib.request
from importlib.metadata import version

import bentoml
import pytest

from causeway.front import FrontedService
from tests.conftest import PATIENCE_S, Server


def test_bentoml_is_the_version_that_this_was_tested_with() -> None:
    # `service_class` and `to_asgi` are public, but nothing promises that they stay: read them, then move the pin.
    assert version("bentoml") == "1.4.39"


def test_the_front_wraps_the_application_that_bentoml_serves() -> None:
    seen = []

    class Inner:
        @bentoml.api  # type: ignore[untyped-decorator]
        def echo(self, text: str) -> str:
            return text

    service = FrontedService(name="fronted", inner=Inner, front=lambda app: seen.append(app) or "fronted")
    assert service.to_asgi() == "fronted"
    assert len(seen) == 1


@pytest.mark.parametrize("path", ["/predict", "/nosuchpath"])
def test_a_refusal_of_ours_passed_none_of_bentoml_s_middlewares(server: Server, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as answer:
        urllib.request.urlopen(f"{server.url}{path}", timeout=PATIENCE_S)
    with answer.value as refused:
        assert json.load(refused)["code"] in ("method_not_allowed", "not_found")
        assert not [name for name in refused.headers if name.lower().startswith("x-bentoml")]
