"""Path and query parameters that several routes share."""

from typing import Annotated

from fastapi import Path, Query

from prompt_store.names import Name, Version

NamePath = Annotated[Name, Path(description="Lower-case name")]
VersionPath = Annotated[Version, Path(description="Version number")]
VersionQuery = Annotated[Version | None, Query(description="Version; the latest by default")]
LimitQuery = Annotated[int, Query(ge=1, le=1000, description="At most so many items")]
NumberCursorQuery = Annotated[Version | None, Query(description="`next_cursor` of the page before")]
CursorQuery = Annotated[Name | None, Query(description="`next_cursor` of the page before")]
