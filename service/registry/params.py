"""Path and query parameters that several routes share."""

import re
from typing import Annotated

from fastapi import Path, Query
from pydantic import AfterValidator, Field

from prompt_store.names import DIGEST_PATTERN, Name, Version, shown


def _checked_backbone(value: str) -> str:
    """Refuse what is meant as a digest and is none: as a name, nothing would ever have it."""
    if re.fullmatch("sha256:.*|[0-9a-fA-F]{64}", value) and not re.fullmatch(DIGEST_PATTERN, value):
        raise ValueError(f"{shown(value)} is no digest, which is {DIGEST_PATTERN}")
    return value


NamePath = Annotated[Name, Path(description="Lower-case name")]
VersionPath = Annotated[Version, Path(description="Version number")]
VersionQuery = Annotated[Version | None, Query(description="Version; the latest by default")]
LimitQuery = Annotated[int, Query(ge=1, le=1000, description="At most so many items")]
NumberCursorQuery = Annotated[Version | None, Query(description="`next_cursor` of the page before")]
CursorQuery = Annotated[Name | None, Query(description="`next_cursor` of the page before")]
LabelQuery = Annotated[
    str | None,
    Query(pattern=r"^[^=]+(=[\s\S]*)?$", description="Only with this `key` or `key=value`"),
]
BackboneQuery = Annotated[
    Annotated[str, Field(min_length=1), AfterValidator(_checked_backbone)] | None,
    Query(description="Only for this name or digest"),
]
