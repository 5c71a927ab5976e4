"""Errors across the wire: named by their class, so that both sides mean the same kind.

A front answers with the same problem document as if the engine ran in its own process.
"""

from types import ModuleType

from prompt_store import errors as store
from service.inference import errors as inference
from service.inference.remote.errors import UnexpectedFailureError
from service.inference.remote.messages import Failure, FieldValue


def _errors_of(module: ModuleType) -> dict[str, type[Exception]]:
    found = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return {name: cls for name, cls in found.items() if issubclass(cls, Exception)}


KINDS = _errors_of(store) | _errors_of(inference)
"""What an engine may answer with, by name."""


def failure_of(error: Exception) -> Failure:
    """Return an error as a message, with those of its attributes that are plain values."""
    fields = {name: value for name, value in vars(error).items() if isinstance(value, FieldValue)}
    return Failure(type(error).__name__, str(error), fields)


def error_of(failure: Failure) -> Exception:
    """Return the error that a message stands for; `UnexpectedFailureError` for unknown kinds."""
    kind = KINDS.get(failure.kind)
    if kind is None:
        return UnexpectedFailureError(f"{failure.kind} in the engine's process")
    error = kind.__new__(kind)
    error.args = (failure.message,)
    vars(error).update(failure.fields)
    return error


def is_known(error: Exception) -> bool:
    """Whether the error reaches a front as what it is."""
    return KINDS.get(type(error).__name__) is type(error)
