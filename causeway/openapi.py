"""The OpenAPI document of the service, with examples from the model that is serving."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from causeway import drifts, errors, feedback
from causeway.errors import Refusal
from causeway.settings import Settings
from causeway.state import ROLES
from causeway.version import ModelVersion

EXAMPLE_ID = "3f0c1d5e9a7b42c6"
_JSON = "application/json"
_NOT_READY = errors.NotReady("it is being loaded")
PAGE = b"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Causeway</title>
<link rel="icon" href="static_content/favicon-light-32x32.png">
<link rel="stylesheet" href="static_content/swagger-ui.css">
<div id="page"></div>
<script src="static_content/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "docs.json", dom_id: "#page", validatorUrl: null})</script>
</html>
"""
"""The document to read and to try out, by the assets that BentoML brings. BentoML's own page calls an analytics
service from every browser; this one calls nobody."""


def document(version: ModelVersion | None, settings: Settings) -> dict[str, Any]:
    """The OpenAPI 3.0 document; `version` gives features, ranges and example rows, None leaves them out."""
    tag = version.tag if version else "name:version"
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Causeway",
            "version": tag,
            "description": "Scores rows with a versioned model. Every refusal is one JSON object with `error`, `code`, "
            "`request_id` and the facts: the row, the column, the limit.",
        },
        "paths": {
            "/predict": {"post": _predict(version, tag, settings)},
            **(_monitored(version, tag, settings) if settings.monitoring == "on" else {}),
            "/health": {"get": _health(version, tag)},
            **{path: {"get": _plain(*described)} for path, described in _INFRASTRUCTURE.items()},
        },
        "components": {"schemas": {"Refusal": _REFUSAL, "Prediction": _prediction(version, tag), **_rows(version)}},
    }


_TEXT = "text/plain"
_INFRASTRUCTURE = {
    "/": ("This page.", "text/html", "<!doctype html>..."),
    "/livez": ("200 while the process runs.", _TEXT, "\n"),
    "/healthz": ("The same as /livez.", _TEXT, "\n"),
    "/readyz": ("200 when a model version is serving, otherwise 503.", _TEXT, "\n"),
    "/metrics": (
        "Metrics in the Prometheus text format.",
        _TEXT,
        'causeway_requests_total{endpoint="/predict",status="200"} 42.0\n',
    ),
    "/schema.json": ("The service's schema, for BentoML's own clients.", _JSON, {"name": "causeway", "routes": []}),
    "/docs.json": ("This document.", _JSON, {"openapi": "3.0.3"}),
}

_REFUSAL = {
    "type": "object",
    "required": ["error", "code", "request_id"],
    "properties": {
        "error": {"type": "string", "description": "What is wrong, for people."},
        "code": {"type": "string", "description": "What is wrong, for programs.", "enum": sorted(Refusal.by_code)},
        "request_id": {"type": "string"},
        "row": {"type": "integer", "description": "Row at fault, from 0."},
        "column": {"type": "integer", "description": "Column at fault, from 0."},
        "name": {"type": "string", "description": "Feature at fault."},
        "entry": {"type": "integer", "description": "Entry of the feedback at fault, from 0."},
    },
    "additionalProperties": True,
}


def _rows(version: ModelVersion | None) -> dict[str, Any]:
    if version is None:
        return {"Row": {"type": "object"}, "Features": {"type": "array", "items": {"type": "number"}}}
    features = version.contract.features
    properties = {
        feature.name: {
            "type": "integer" if feature.dtype == "integer" else "number",
            "minimum": feature.minimum,
            "maximum": feature.maximum,
            "description": feature.description,
        }
        for feature in features
    }
    row = {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}
    vector = {
        "type": "array",
        "items": {"type": "number"},
        "minItems": len(features),
        "maxItems": len(features),
        "description": "In this order: " + ", ".join(properties),
    }
    return {"Row": row, "Features": vector}


def _prediction(version: ModelVersion | None, tag: str) -> dict[str, Any]:
    width = version.contract.output.width if version else 1
    return {
        "type": "object",
        "required": ["predictions", "model_version", "latency_ms", "request_id", "variant"],
        "properties": {
            "predictions": {
                "type": "array",
                "description": version.contract.output.description if version else "",
                "items": {"type": "array", "items": {"type": "number"}, "minItems": width, "maxItems": width},
            },
            "model_version": {"type": "string", "example": tag},
            "latency_ms": {"type": "number", "description": "Time in the service, in milliseconds."},
            "request_id": {"type": "string"},
            "variant": {"type": "string", "enum": list(ROLES), "description": "The role of the version."},
        },
    }


def _predict(version: ModelVersion | None, tag: str, settings: Settings) -> dict[str, Any]:
    refusals: tuple[Refusal, ...] = (
        errors.FeaturesNot2D(),
        errors.VersionNotLoaded([tag]),
        errors.BodyTooLarge(settings.max_body_bytes),
        errors.UnsupportedMediaType(),
        errors.ModelFailed(tag),
        _NOT_READY,
        errors.Overloaded(settings.timeout_ms, 1.4 * settings.timeout_ms, 0.4 * settings.timeout_ms / 1000),
        errors.DeadlineExceeded(settings.timeout_ms),
    )
    request: dict[str, Any] = {"schema": {"oneOf": [_body("features", "Features"), _body("rows", "Row")]}}
    answer: dict[str, Any] = {"schema": {"$ref": "#/components/schemas/Prediction"}}
    if version:
        example = _example(version)
        named = [dict(zip(version.contract.names, row, strict=True)) for row in example]
        request["examples"] = {
            "features": {"summary": "Rows in contract order", "value": {"features": example}},
            "rows": {"summary": "Rows by name", "value": {"rows": named}},
        }
        answer["example"] = {
            "predictions": version.predict(version.contract.from_features(example)).astype(float).round(6).tolist(),
            "model_version": version.tag,
            "latency_ms": 0.4,
            "request_id": EXAMPLE_ID,
            "variant": "champion",
        }
    return {
        "operationId": "predict",
        "summary": "Score rows",
        "description": f"At most {settings.max_rows} rows and {settings.max_body_bytes} bytes a request.",
        "parameters": [
            _header("X-Request-ID", {"type": "string", "pattern": "^[!-~]{1,128}$"}, "Comes back in the answer."),
            _header("X-Routing-Key", {"type": "string", "maxLength": 256}, "Who is asking; one key, one variant."),
            _header("X-Model-Version", {"type": "string"}, "The version that is to answer, where it is loaded."),
            _header(
                "X-Timeout-Ms",
                {"type": "number", "minimum": 0, "exclusiveMinimum": True, "default": settings.timeout_ms},
                f"Milliseconds for this request; at most {settings.max_timeout_ms:g} are granted.",
            ),
            _header(
                "X-Priority",
                {"type": "string", "enum": ["interactive", "bulk"], "default": "interactive"},
                "Bulk requests get what interactive ones leave, and never nothing.",
            ),
        ],
        "requestBody": {"required": True, "content": {_JSON: request}},
        "responses": {
            "200": {
                "description": "One prediction a row, in the order of the rows.",
                "headers": {
                    "Server-Timing": {
                        "schema": {"type": "string"},
                        "description": "Where the time went, in milliseconds: receive (the body), decode, queue, "
                        "compute (with the rows of the batch and why it was released), encode.",
                    }
                },
                "content": {_JSON: answer},
            },
            **_refused_by_status(refusals),
        },
    }


def _monitored(version: ModelVersion | None, tag: str, settings: Settings) -> dict[str, Any]:
    return {"/feedback": {"post": _feedback(version, settings)}, "/drift": {"get": _drift(tag, settings)}}


def _feedback(version: ModelVersion | None, settings: Settings) -> dict[str, Any]:
    limit_bytes = min(settings.max_body_bytes, feedback.BODY_BYTES)
    refusals: tuple[Refusal, ...] = (
        errors.FeedbackInvalid("labels must be 0 or 1", 1),
        errors.BodyTooLarge(limit_bytes),
        errors.UnsupportedMediaType(),
        _NOT_READY,
        errors.DatabaseUnreachable(feedback.RETRY_S),
        errors.DeadlineExceeded(settings.timeout_ms),
    )
    request_id = {"type": "string", "pattern": "^[!-~]{1,128}$"}
    label: dict[str, Any] = {"type": "number"}
    if version:
        allowed = feedback.label_values(version.contract.output)
        label |= {"minimum": allowed.least, "maximum": allowed.greatest}
        label |= {"multipleOf": 1} if allowed.are_whole else {}
    of_rows = {"type": "array", "minItems": 1, "maxItems": settings.max_rows, "items": label}
    entry = {
        "type": "object",
        "required": ["request_id", "labels"],
        "properties": {
            "request_id": {**request_id, "description": "The request_id of the prediction."},
            "labels": {**of_rows, "description": "One for each of its rows."},
        },
        "additionalProperties": False,
    }
    many = {
        "type": "object",
        "required": ["feedback"],
        "properties": {"feedback": {"type": "array", "minItems": 1, "maxItems": feedback.MAX_ENTRIES, "items": entry}},
        "additionalProperties": False,
    }
    one = {"request_id": EXAMPLE_ID, "labels": [0, 1]}
    request = {
        "schema": {"oneOf": [entry, many]},
        "examples": {
            "one": {"summary": "Of one request with two rows", "value": one},
            "many": {"summary": "Of several requests", "value": {"feedback": [one]}},
        },
    }
    ids = {"type": "array", "items": request_id}
    properties = {
        "accepted": {"type": "integer", "description": "Entries that are stored now: all of them."},
        "repeated": {**ids, "description": "Had these labels before."},
        "replaced": {**ids, "description": "Had other labels before."},
        "unknown": {**ids, "description": "Not in the prediction log, or not yet; their labels are kept."},
        "request_id": {"type": "string"},
    }
    example = {"accepted": 1, "repeated": [], "replaced": [], "unknown": [], "request_id": "d2c04be1"}
    return {
        "operationId": "feedback",
        "summary": "Tell what became of scored rows",
        "description": f"At most {limit_bytes} bytes. Either all entries are stored, or none. The same labels again "
        "change nothing and others replace them, so that a body can be sent again whenever its answer was lost.",
        "requestBody": {"required": True, "content": {_JSON: request}},
        "responses": {
            "200": {
                "description": "The labels are on the disk.",
                "content": {
                    _JSON: {
                        "schema": {"type": "object", "required": list(properties), "properties": properties},
                        "example": example,
                    }
                },
            },
            **_refused_by_status(refusals),
        },
    }


def _drift(tag: str, settings: Settings) -> dict[str, Any]:
    refusals = (
        _NOT_READY,
        errors.DatabaseUnreachable(drifts.RETRY_S),
        errors.DeadlineExceeded(settings.timeout_ms),
    )
    version = {
        "type": "object",
        "required": ["model_version"],
        "properties": {
            "model_version": {"type": "string"},
            "windows": {"type": "integer", "description": "Complete ones in this time."},
            "drifted_since": {"type": "object", "description": "By column that drifts now: since when."},
            "problem": {"type": "string", "description": "Why nothing is known of this version."},
        },
        "additionalProperties": True,
    }
    properties = {
        "span_s": {"type": "number", "description": "How far back it looks, in seconds."},
        "versions": {"type": "array", "items": version},
    }
    return {
        "operationId": "drift",
        "summary": "How far the traffic of each deployed version is from its reference",
        "description": f"An answer is up to {drifts.SHARED_S:g} s old. `causeway drift` looks further back.",
        "responses": {
            "200": {
                "description": "Each version with its windows, alarms and statistics.",
                "content": {
                    _JSON: {
                        "schema": {"type": "object", "required": list(properties), "properties": properties},
                        "example": {
                            "span_s": drifts.SPAN_S,
                            "versions": [{"model_version": tag, "windows": 12, "drifted_since": {}}],
                        },
                    }
                },
            },
            **_refused_by_status(refusals),
        },
    }


def _example(version: ModelVersion) -> list[list[int | float]]:
    """Two rows of the model's own samples, each number in the shortest form that means the same 32-bit float."""
    features = version.contract.features
    return [
        [
            int(value) if feature.dtype == "integer" else float(str(value))
            for feature, value in zip(features, row, strict=True)
        ]
        for row in version.contract.from_features(version.example)
    ]


def _health(version: ModelVersion | None, tag: str) -> dict[str, Any]:
    engine = version.runtime.name if version else "onnxruntime CPUExecutionProvider"
    return {
        "operationId": "health",
        "summary": "Whether a model version is serving, and which",
        "responses": {
            "200": {
                "description": "Serving.",
                "content": {
                    _JSON: {
                        "schema": {
                            "type": "object",
                            "required": ["status", "version"],
                            "properties": {
                                "status": {"type": "string"},
                                "version": {"type": "string", "description": "The champion."},
                                "details": {
                                    "type": "object",
                                    "description": "What is deployed, and why the state file is not followed where "
                                    "it is not.",
                                    "properties": {
                                        "revision": {"type": "integer"},
                                        "roles": {"type": "object"},
                                        "engines": {"type": "object", "description": "What runs each role's version."},
                                        "problem": {"type": "string"},
                                    },
                                },
                            },
                        },
                        "example": {
                            "status": "healthy",
                            "version": tag,
                            "details": {
                                "revision": 0,
                                "roles": {"champion": {"tag": tag}},
                                "engines": {"champion": engine},
                            },
                        },
                    }
                },
            },
            "503": _refused(_NOT_READY),
        },
    }


def _body(field: str, item: str) -> dict[str, Any]:
    rows = {"type": "array", "minItems": 1, "items": {"$ref": f"#/components/schemas/{item}"}}
    return {"type": "object", "required": [field], "properties": {field: rows}}


def _header(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": description}


def _refused_by_status(refusals: Sequence[Refusal]) -> dict[str, Any]:
    return {
        str(status): _refused(*(refusal for refusal in refusals if refusal.status == status))
        for status in sorted({refusal.status for refusal in refusals})
    }


def _refused(*refusals: Refusal) -> dict[str, Any]:
    """The response for refusals with one status."""
    schema = {"$ref": "#/components/schemas/Refusal"}
    examples = {refusal.code: {"value": refusal.body(EXAMPLE_ID)} for refusal in refusals}
    answer: dict[str, Any] = {
        "description": " ".join((type(refusal).__doc__ or "").splitlines()[0] for refusal in refusals),
        "content": {_JSON: {"schema": schema, "examples": examples}},
    }
    if refusals[0].retry_after_s is not None:
        seconds = {"type": "integer", "minimum": 1}
        answer["headers"] = {
            "Retry-After": {"schema": seconds, "description": "Seconds until it is worth trying again."}
        }
    return answer


def _plain(summary: str, media_type: str, example: Any) -> dict[str, Any]:
    schema = {"type": "object" if media_type == _JSON else "string"}
    content = {media_type: {"schema": schema, "example": example}}
    return {"summary": summary, "responses": {"200": {"description": summary, "content": content}}}
