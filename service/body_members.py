"""Which names a place in a JSON body may have, as the OpenAPI document tells."""

from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import Request

Place = tuple[int | str, ...]
"""Such as `("versions", 0)`, as pydantic tells it; the body itself is empty."""

_Schema = dict[str, Any]


def known_members(request: Request, places: Iterable[Place]) -> dict[Place, list[str]]:
    """Return the names that there are at each place in the body of a request."""
    wanted = list(places)
    if not wanted:  # there may be no body either
        return {}
    document = request.app.openapi()
    operation = document["paths"][request.scope["route"].path][request.method.lower()]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    return {place: _names(document, schema, place) for place in wanted}


def _names(document: _Schema, schema: _Schema, place: Place) -> list[str]:
    found = [schema]
    for step in place:
        found = [
            each["items"] if isinstance(step, int) else each["properties"][step]
            for each in _alternatives(document, found)
            if ("items" in each if isinstance(step, int) else step in each.get("properties", ()))
        ]
    return sorted(
        {name for each in _alternatives(document, found) for name in each.get("properties", ())}
    )


def _alternatives(document: _Schema, schemas: Iterable[_Schema]) -> Iterator[_Schema]:
    """Follow references, and each member of a union."""
    for schema in schemas:
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            yield from _alternatives(document, [document["components"]["schemas"][name]])
        elif "anyOf" in schema:
            yield from _alternatives(document, schema["anyOf"])
        else:
            yield schema
