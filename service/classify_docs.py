"""The classification route in the OpenAPI document; it is a plain Starlette route."""

from typing import Any

from prompt_store.names import NAME_PATTERN
from service.assignment_key import HEADER as ASSIGNMENT_HEADER
from service.assignment_key import MAX_CHARACTERS as MAX_KEY_CHARACTERS

_PREDICTION = {
    "type": "object",
    "required": ["label", "index", "probability"],
    "properties": {
        "label": {"type": "string"},
        "index": {"type": "integer", "minimum": 0},
        "probability": {"type": "number", "minimum": 0, "maximum": 1},
    },
}
_ROW_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"$ref": "#/components/schemas/ProblemDocument"}},
}
_ANSWER = {
    "type": "object",
    "required": ["ensemble", "predictions", "timing_ms"],
    "properties": {
        "ensemble": {
            "type": "object",
            "description": "The artifact that computed the answer",
            "required": ["name", "version", "digest"],
            "properties": {
                "name": {"type": "string"},
                "version": {"type": "integer", "minimum": 1},
                "digest": {"type": "string"},
            },
        },
        "predictions": {
            "type": "array",
            "description": "One entry per image, in order: its classes, most probable first, or "
            "why it has none",
            "items": {"oneOf": [{"type": "array", "items": _PREDICTION}, _ROW_ERROR]},
        },
        "timing_ms": {
            "type": "object",
            "required": ["decode", "queue", "forward"],
            "properties": {key: {"type": "number"} for key in ("decode", "queue", "forward")},
        },
    },
}

_BINARY = {"type": "string", "format": "binary"}

_BODY = {
    "required": True,
    "content": {
        "image/*": {"schema": _BINARY},
        "application/octet-stream": {"schema": _BINARY},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["images"],
                "properties": {"images": {"type": "array", "minItems": 1, "items": _BINARY}},
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["images"],
                "additionalProperties": False,
                "properties": {
                    "images": {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "format": "byte"},
                    }
                },
            }
        },
    },
}

CLASSIFY_PATHS: dict[str, Any] = {
    "/v1/ensembles/{reference}/classify": {
        "post": {
            "tags": ["classification"],
            "operationId": "classify",
            "summary": "Classify",
            "description": "Classify images with an ensemble. Among several images one that "
            "cannot be read fails only its own row; alone it is refused.",
            "parameters": [
                {
                    "name": "reference",
                    "in": "path",
                    "required": True,
                    "description": "`name`, for the last version that succeeded, "
                    "`name@version` or `name@alias`",
                    "schema": {
                        "type": "string",
                        "pattern": f"^{NAME_PATTERN}(@{NAME_PATTERN})?$",
                    },
                },
                {
                    "name": ASSIGNMENT_HEADER,
                    "in": "header",
                    "required": False,
                    "description": "Requests with the same key are answered by the same version "
                    "of an alias that is split between several, as long as its weights stay",
                    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARACTERS},
                },
                {
                    "name": "top_k",
                    "in": "query",
                    "required": False,
                    "description": "How many classes to return for each image",
                    "schema": {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 5},
                },
            ],
            "requestBody": _BODY,
            "responses": {
                "200": {
                    "description": "Classified",
                    "content": {"application/json": {"schema": _ANSWER}},
                }
            },
        }
    }
}
