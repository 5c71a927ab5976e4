from datetime import UTC, datetime

import pytest
from pydantic import BaseModel, ConfigDict

from prompt_store.documents import get_document, put_document
from prompt_store.errors import CorruptDocumentError, NotFoundError
from prompt_store.objects import ObjectStore


class Note(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str
    written_at: datetime


NOTE = Note(text="grün", written_at=datetime(2026, 1, 2, tzinfo=UTC))


def test_a_document_comes_back_and_is_not_replaced(objects: ObjectStore) -> None:
    assert put_document(objects, "note", NOTE)
    assert not put_document(objects, "note", NOTE.model_copy(update={"text": "other"}))
    assert get_document(objects, "note", Note) == NOTE


def test_a_missing_document_is_not_found(objects: ObjectStore) -> None:
    with pytest.raises(NotFoundError):
        get_document(objects, "note", Note)


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (b"", "the document: Invalid JSON"),
        (b'{"text":"a","written_at":"soon"}', "written_at: Input should be a valid datetime"),
        (b'{"text":"a"}', "written_at: Field required"),
    ],
)
def test_a_damaged_document_is_named(objects: ObjectStore, stored: bytes, reason: str) -> None:
    objects.put_new("note", stored)
    with pytest.raises(CorruptDocumentError, match=f"document note is not a Note: {reason}"):
        get_document(objects, "note", Note)
