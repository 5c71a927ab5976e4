"""Small JSON documents in the object store, each created once."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from prompt_store.errors import CorruptDocumentError, UnknownDocumentError
from prompt_store.objects import ObjectStore

_Model = TypeVar("_Model", bound=BaseModel)


def put_document(objects: ObjectStore, key: str, document: BaseModel) -> bool:
    """Create `key` with the document as JSON; False if the key existed. As `put_new`."""
    return objects.put_new(key, document.model_dump_json().encode())


def get_document(objects: ObjectStore, key: str, model: type[_Model]) -> _Model:
    """Read a document back.

    Raises:
        NotFoundError: There is no such key.
        CorruptDocumentError: What is stored there is no JSON, so it was damaged.
        UnknownDocumentError: It is JSON, but not a `model` as this version of the program knows it.
    """
    try:
        return model.model_validate_json(objects.get(key))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        kind = CorruptDocumentError if first["type"] == "json_invalid" else UnknownDocumentError
        raise kind(
            f"the stored document {key} is not a {model.__name__}: {place}: {first['msg']}"
        ) from error
