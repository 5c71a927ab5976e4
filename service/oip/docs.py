"""The protocol's routes in the OpenAPI document; they are plain Starlette routes."""

from typing import Any

from prompt_store.names import NAME_PATTERN
from service.oip.content import HEADER_LENGTH

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}
_MODEL = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": "An ensemble: `name` or `name@alias`",
    "schema": {"type": "string", "pattern": f"^{NAME_PATTERN}(@{NAME_PATTERN})?$"},
}
_VERSION = {
    "name": "version",
    "in": "path",
    "required": True,
    "description": "A version of the ensemble",
    "schema": {"type": "integer", "minimum": 1},
}
_TENSORS = {"type": "array", "minItems": 1, "maxItems": 1, "items": {"type": "object"}}
_INFER_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["inputs"],
                "properties": {
                    "id": {"type": "string"},
                    "parameters": {"type": "object"},
                    "inputs": _TENSORS,
                    "outputs": {"type": "array", "items": {"type": "object"}},
                },
            }
        },
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}
_HEADER_LENGTH = {
    "name": HEADER_LENGTH,
    "in": "header",
    "required": False,
    "description": "Bytes of JSON before the binary tensors; 0 if the body is one encoded image",
    "schema": {"type": "integer", "minimum": 0},
}


def _operation(name: str, summary: str, *parameters: object, **more: object) -> dict[str, Any]:
    body = {"application/json": {"schema": {}}}
    failed = {"application/json": {"schema": _ERROR}}
    return {
        "tags": ["open inference protocol"],
        "operationId": f"oip_{name}",
        "summary": summary,
        "parameters": list(parameters),
        "responses": {
            "200": {"description": "Done", "content": body},
            "4XX": {"description": "The request was refused", "content": failed},
            "5XX": {"description": "The service failed", "content": failed},
        },
        **more,
    }


def _of_model(path: str, method: str, name: str, summary: str, **more: Any) -> dict[str, Any]:
    """The operation on the version that serves, and the one on a version by number."""
    extra = more.pop("parameters", ())
    return {
        f"/v2/models/{{model}}{path}": {
            method: _operation(name, summary, _MODEL, *extra, **more),
        },
        f"/v2/models/{{model}}/versions/{{version}}{path}": {
            method: _operation(f"{name}_version", summary, _MODEL, _VERSION, *extra, **more),
        },
    }


OIP_PATHS: dict[str, Any] = {
    "/v2": {"get": _operation("server", "Server metadata")},
    "/v2/health/live": {"get": _operation("live", "Whether the process works at all")},
    "/v2/health/ready": {"get": _operation("ready", "Whether the process can serve now")},
    "/v2/models/stats": {"get": _operation("all_stats", "Statistics of every version used")},
    **_of_model("", "get", "metadata", "A model's signature"),
    **_of_model("/config", "get", "config", "A model's configuration"),
    **_of_model("/ready", "get", "model_ready", "Whether a model can be used"),
    **_of_model("/stats", "get", "stats", "A model's statistics"),
    **_of_model(
        "/infer",
        "post",
        "infer",
        "Classify images, or pixels",
        parameters=(_HEADER_LENGTH,),
        requestBody=_INFER_BODY,
    ),
    "/v2/repository/index": {"post": _operation("index", "Every version with its state")},
    "/v2/repository/models/{model}/load": {"post": _operation("load", "Load a model", _MODEL)},
    "/v2/repository/models/{model}/unload": {
        "post": _operation("unload", "Let a model go", _MODEL)
    },
}
