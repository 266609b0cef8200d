"""The document is valid and true: its examples work, and what the service says fits its schemas."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from jsonschema import Draft4Validator, ValidationError
from openapi_spec_validator import validate

from causeway import codec, openapi
from causeway.errors import Refusal
from causeway.settings import Settings
from models.transactions import CONTRACT
from tests.conftest import Server


@pytest.fixture(scope="module")
def document(server: Server) -> Any:
    """The document that the service hands out."""
    return httpx.get(f"{server.url}/docs.json").raise_for_status().json()


def resolved(document: Any, schema: Any) -> Any:
    """A schema of the document as a JSON schema on its own (OpenAPI 3.0's dialect is nearest to draft 4)."""
    return {**schema, "components": document["components"]}


def check(document: Any, schema: Any, value: Any) -> None:
    Draft4Validator(resolved(document, schema)).validate(value)


def predict(document: Any) -> Any:
    return document["paths"]["/predict"]["post"]


def content(part: Any) -> Any:
    return part["content"]["application/json"]


def test_the_document_is_valid(document: Any) -> None:
    validate(document)


def test_the_document_is_valid_without_a_version() -> None:
    described = openapi.document(None, Settings())
    validate(json.loads(json.dumps(described, allow_nan=False)))
    assert "examples" not in content(predict(described)["requestBody"])


@pytest.mark.parametrize("name", ["features", "rows"])
def test_each_request_example_fits_the_schema_and_is_answered_as_documented(
    server: Server, document: Any, name: str
) -> None:
    body = content(predict(document)["requestBody"])
    example = body["examples"][name]["value"]
    check(document, body["schema"], example)
    reply = httpx.post(f"{server.url}/predict", json=example)
    assert reply.status_code == 200
    documented = content(predict(document)["responses"]["200"])
    check(document, documented["schema"], reply.json())
    check(document, documented["schema"], documented["example"])
    assert reply.json()["model_version"] == documented["example"]["model_version"]
    for told, written in zip(reply.json()["predictions"], documented["example"]["predictions"], strict=True):
        assert told == pytest.approx(written, abs=1e-6)


def test_both_request_examples_are_the_same_rows(document: Any) -> None:
    examples = content(predict(document)["requestBody"])["examples"]
    features, rows = examples["features"]["value"], examples["rows"]["value"]
    decoded = [codec.Decoder(CONTRACT)(json.dumps(value).encode(), 10).tolist() for value in (features, rows)]
    assert decoded[0] == decoded[1]


BROKEN = [
    {},
    {"features": []},
    {"features": [[1.0]]},
    {"features": [["1"] * 15]},
    {"features": [[0] * 15], "rows": [dict.fromkeys(CONTRACT.names, 0)]},
    {"rows": [{}]},
    {"rows": [{**dict.fromkeys(CONTRACT.names, 0), "X": 0}]},
    {"rows": [{**dict.fromkeys(CONTRACT.names, 0), "TX_AMOUNT": -1}]},
    {"rows": [{**dict.fromkeys(CONTRACT.names, 0), "TX_DURING_NIGHT": 0.5}]},
]


@pytest.mark.parametrize("body", BROKEN, ids=lambda body: json.dumps(body)[:40])
def test_what_the_request_schema_forbids_is_refused_and_the_refusal_fits_its_schema(
    server: Server, document: Any, body: Any
) -> None:
    with pytest.raises(ValidationError):
        check(document, content(predict(document)["requestBody"])["schema"], body)
    reply = httpx.post(f"{server.url}/predict", json=body)
    assert reply.status_code == 400
    check(document, content(predict(document)["responses"]["400"])["schema"], reply.json())


def feedback(document: Any) -> Any:
    return document["paths"]["/feedback"]["post"]


@pytest.mark.parametrize("name", ["one", "many"])
def test_each_feedback_example_fits_the_schema_and_is_answered_as_documented(
    server: Server, document: Any, name: str
) -> None:
    body = content(feedback(document)["requestBody"])
    example = body["examples"][name]["value"]
    check(document, body["schema"], example)
    reply = httpx.post(f"{server.url}/feedback", json=example)
    assert reply.status_code == 200
    documented = content(feedback(document)["responses"]["200"])
    check(document, documented["schema"], reply.json())
    check(document, documented["schema"], documented["example"])
    assert reply.json()["accepted"] == documented["example"]["accepted"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"request_id": "a", "labels": []},
        {"request_id": "a b", "labels": [0]},
        {"request_id": "a", "labels": [2]},
        {"request_id": "a", "labels": [0.5]},
        {"request_id": "a", "labels": [0] * 10_001},
        {"request_id": "a", "labels": [0], "why": "x"},
        {"feedback": []},
        {"feedback": [{"request_id": "a", "labels": ["0"]}]},
    ],
    ids=lambda body: json.dumps(body)[:40],
)
def test_what_the_feedback_schema_forbids_is_refused(server: Server, document: Any, body: Any) -> None:
    with pytest.raises(ValidationError):
        check(document, content(feedback(document)["requestBody"])["schema"], body)
    reply = httpx.post(f"{server.url}/feedback", json=body)
    assert (reply.status_code, reply.json()["code"]) == (400, "feedback_invalid")
    check(document, content(feedback(document)["responses"]["400"])["schema"], reply.json())


def test_drift_is_answered_as_documented(server: Server, document: Any) -> None:
    documented = content(document["paths"]["/drift"]["get"]["responses"]["200"])
    check(document, documented["schema"], httpx.get(f"{server.url}/drift").raise_for_status().json())
    check(document, documented["schema"], documented["example"])


def test_without_monitoring_neither_feedback_nor_drift_is_documented() -> None:
    assert not {"/feedback", "/drift"} & openapi.document(None, Settings(monitoring="off"))["paths"].keys()


def test_every_documented_refusal_fits_its_schema_and_status(document: Any) -> None:
    for path, method in ("/predict", "post"), ("/feedback", "post"), ("/drift", "get"), ("/health", "get"):
        for status, response in document["paths"][path][method]["responses"].items():
            if status != "200":
                for code, example in content(response)["examples"].items():
                    check(document, content(response)["schema"], example["value"])
                    assert code == example["value"]["code"]
                    assert Refusal.by_code[code].status == int(status)
            assert ("Retry-After" in response.get("headers", {})) == (status == "503")


def test_the_codes_in_the_schema_are_exactly_those_of_the_refusals(document: Any) -> None:
    assert document["components"]["schemas"]["Refusal"]["properties"]["code"]["enum"] == sorted(Refusal.by_code)


def test_features_and_limits_are_those_of_the_model_and_the_settings(document: Any) -> None:
    row = document["components"]["schemas"]["Row"]
    assert tuple(row["required"]) == CONTRACT.names
    for feature in CONTRACT.features:
        told = row["properties"][feature.name]
        assert (told["minimum"], told["maximum"]) == (feature.minimum, feature.maximum)
        assert told["type"] == ("integer" if feature.dtype == "integer" else "number")
    assert document["components"]["schemas"]["Features"]["maxItems"] == CONTRACT.width
    small = openapi.document(None, Settings(max_rows=7, max_body_bytes=77, timeout_ms=777))
    assert "7 rows and 77 bytes" in predict(small)["description"]
    assert content(predict(small)["responses"]["413"])["examples"]["body_too_large"]["value"]["limit_bytes"] == 77
    assert content(predict(small)["responses"]["504"])["examples"]["deadline_exceeded"]["value"]["timeout_ms"] == 777


def test_the_service_s_other_paths_are_documented_and_answer(server: Server, document: Any) -> None:
    paths = {path for path, methods in document["paths"].items() if "get" in methods}
    own = {"/", "/health", "/drift", "/metrics", "/docs.json"}
    assert paths == {*own, "/livez", "/healthz", "/readyz", "/schema.json"}
    for path in paths:
        assert httpx.get(server.url + path).status_code == 200
    health = httpx.get(f"{server.url}/health").json()
    documented = content(document["paths"]["/health"]["get"]["responses"]["200"])
    check(document, documented["schema"], health)
    assert health == documented["example"]


def test_the_documented_headers_are_taken(server: Server, document: Any) -> None:
    taken = {"X-Request-ID": "a-1", "X-Routing-Key": "customer 7", "X-Timeout-Ms": "500.5", "X-Priority": "bulk"}
    taken["X-Model-Version"] = httpx.get(f"{server.url}/health").json()["version"]
    parameters = {parameter["name"]: parameter["schema"] for parameter in predict(document)["parameters"]}
    assert parameters.keys() == taken.keys()
    assert re.fullmatch(parameters["X-Request-ID"]["pattern"], taken["X-Request-ID"])
    example = content(predict(document)["requestBody"])["examples"]["rows"]["value"]
    assert httpx.post(f"{server.url}/predict", json=example, headers=taken).json()["request_id"] == "a-1"


def test_the_page_shows_the_document_and_needs_nothing_from_elsewhere(server: Server) -> None:
    page = httpx.get(f"{server.url}/")
    assert page.status_code == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "//" not in page.text
    for asset in ["docs.json", *re.findall(r'(?:src|href)="([^"]+)"', page.text)]:
        assert httpx.get(f"{server.url}/{asset}").status_code == 200
    assert "SwaggerUIBundle" in httpx.get(f"{server.url}/static_content/swagger-ui-bundle.js").text
    assert 'url: "docs.json"' in page.text
    assert "validatorUrl: null" in page.text


def test_an_asset_that_has_not_changed_is_not_sent_again(server: Server) -> None:
    url = f"{server.url}/static_content/swagger-ui.css"
    first = httpx.get(url)
    again = httpx.get(url, headers={"If-None-Match": first.headers["ETag"]})
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
