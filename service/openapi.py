"""What FastAPI cannot derive for the OpenAPI document: binary bodies, problems, the hot path."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.responses import Response
from starlette.routing import compile_path

from service.oip.errors import is_oip
from service.problems import MEDIA_TYPE, ProblemDocument
from service.registry.preconditions import CONDITIONS, header_parameter

_BINARY = {"type": "string", "format": "binary"}
_PROBLEM_REF = {"$ref": "#/components/schemas/ProblemDocument"}

BINARY_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": _BINARY}},
    },
    "parameters": [
        header_parameter("Content-Digest", "RFC 9530; `sha-256` and `sha-512` are checked"),
        *CONDITIONS["parameters"],
    ],
}
"""`openapi_extra` of a route that takes a file as its body."""

_BINARY_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The bytes",
        "content": {"application/octet-stream": {"schema": _BINARY}},
        "headers": {"ETag": {"schema": {"type": "string"}, "description": "The digest"}},
    },
    206: {
        "description": "The range asked for",
        "content": {"application/octet-stream": {"schema": _BINARY}},
        "headers": {
            "Content-Range": {"schema": {"type": "string"}, "description": "Of how many bytes"}
        },
    },
    304: {"description": "The content still has the digest of `If-None-Match`"},
}

CONTENT: dict[str, Any] = {
    "response_class": Response,
    "responses": _BINARY_RESPONSE,
    "openapi_extra": {
        "parameters": [
            header_parameter("If-None-Match", "304 if the content still has this `ETag`"),
            header_parameter("If-Match", "412 unless the content has this `ETag`"),
            header_parameter("Range", "One range of bytes, as `bytes=0-1023`"),
            header_parameter(
                "If-Range", "The range only while the content has this `ETag`, else all of it"
            ),
        ]
    },
}
"""What a route that answers with a file is declared with."""


def created_or_same(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of an upload that answers with a manifest."""
    return {
        201: {"model": model, "description": "Stored as a new version"},
        200: {"model": model, "description": "These bytes were stored before; that version"},
    }


def install_openapi(app: FastAPI, extra_paths: dict[str, Any]) -> None:
    """Complete the document: every operation may answer with a problem.

    Args:
        app: The application, with all its routes.
        extra_paths: Path items of routes outside FastAPI.
    """
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        document = generate()
        document["paths"].update(extra_paths)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schema = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas["ProblemDocument"] = schema
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for path, operations in document["paths"].items():
            for operation in operations.values():
                _describe_streams(operation["responses"])
                if not is_oip(path):  # whose errors are the protocol's
                    _add_problems(operation["responses"])
        return document

    app.openapi = openapi


def allowed_methods(app: FastAPI, path: str) -> str:
    """Return the value of `Allow` for a path: every method that some route of it takes."""
    methods: set[str] = set()
    for template, operations in app.openapi()["paths"].items():
        if compile_path(template)[0].match(path):
            methods.update(method.upper() for method in operations)
    return ", ".join(sorted(methods))


def _describe_streams(responses: dict[str, Any]) -> None:
    """Replace `itemSchema`, which the version of the document does not have."""
    for response in responses.values():
        stream = response.get("content", {}).get("text/event-stream")
        if stream is not None and stream.pop("itemSchema", None) is not None:
            stream["schema"] = {"type": "string"}


def _add_problems(responses: dict[str, Any]) -> None:
    """Replace the framework's own error responses by problem documents."""
    responses.pop("422", None)
    for status, description in (("4XX", "The request was refused"), ("5XX", "The service failed")):
        responses[status] = {
            "description": description,
            "content": {MEDIA_TYPE: {"schema": _PROBLEM_REF}},
        }
