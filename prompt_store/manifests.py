"""What the registry says about a stored prompt or task."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from prompt_store.names import Digest, Name

PositiveInt = Annotated[int, Field(ge=1)]
Dtype = Literal["F32", "F16", "BF16"]

_T = TypeVar("_T")


class Manifest(BaseModel):
    """What prompts and tasks have in common. Immutable, as what it describes.

    Attributes:
        digest: `sha256:<hex>` of the stored bytes.
        created_at: When this version was created, with a time zone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    version: PositiveInt
    digest: Digest
    size_bytes: Annotated[int, Field(ge=0)]
    created_at: datetime


class PromptManifest(Manifest):
    """A version of a source prompt.

    Attributes:
        backbone: The backbone's name, "" if the file does not tell it.
        num_prompt_tokens: P.
        prompt_depth: L; 1 is a shallow prompt.
        embed_dim: D.
        dtype: Of `prompt_embeddings`, as stored.
        classes: Class names of the source task, in the order of the rows of the file's head.
        has_head: Whether the file carries a class head.
        labels: The file's free metadata.
        original_format: The format that an importer converted from, None if none did.
        original_digest: `sha256:<hex>` of the file before its conversion.
    """

    backbone: str
    backbone_digest: Digest
    num_prompt_tokens: PositiveInt
    prompt_depth: PositiveInt
    embed_dim: PositiveInt
    dtype: Dtype
    classes: tuple[str, ...] | None = None
    has_head: bool = False
    labels: dict[str, str] = Field(default_factory=dict)
    license: str | None = None
    original_format: str | None = None
    original_digest: Digest | None = None


class TaskManifest(Manifest):
    """A version of a task: labelled target images.

    Attributes:
        format: `zip`, `tar`, `parquet`, …, as the archive's reader calls it.
        classes: Class names in index order.
        counts: Images of each class, in the same order.
        num_images: Their sum.
    """

    format: str
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    num_images: Annotated[int, Field(ge=0)]


def next_number(numbers: Sequence[int], limit: int) -> str | None:
    """The cursor after the first `limit` of what is to be listed by its number."""
    return str(numbers[limit - 1]) if len(numbers) > limit else None


class Page(BaseModel, Generic[_T]):
    """One page of a list.

    Attributes:
        items: In order of their names.
        next_cursor: What to pass for the next page, None on the last one.
    """

    model_config = ConfigDict(frozen=True)

    items: tuple[_T, ...]
    next_cursor: str | None
