"""Path and query parameters that several routes share."""

from typing import Annotated

from fastapi import Path, Query

from prompt_store.names import NAME_PATTERN

_PATTERN = f"^{NAME_PATTERN}$"
_MAX_VERSION = 99_999_999

NamePath = Annotated[str, Path(pattern=_PATTERN, description="Lower-case name")]
VersionPath = Annotated[int, Path(ge=1, le=_MAX_VERSION, description="Version number")]
VersionQuery = Annotated[
    int | None,
    Query(ge=1, le=_MAX_VERSION, description="Version; the latest by default"),
]
LimitQuery = Annotated[int, Query(ge=1, le=1000, description="At most so many items")]
NumberCursorQuery = Annotated[
    int | None, Query(ge=1, le=_MAX_VERSION, description="`next_cursor` of the page before")
]
CursorQuery = Annotated[
    str | None, Query(pattern=_PATTERN, description="`next_cursor` of the page before")
]
