"""The types of JSON, where pydantic would take a value for one of another type.

It reads `"3"` and `true` as numbers and `"yes"` as a truth value, and its strict mode wants an
object to be an instance of its class already. Numbers are one type: 3.0 is an integer, as JSON
Schema has it.
"""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any, Literal, cast

from pydantic import BeforeValidator, ValidationError
from pydantic_core import InitErrorDetails, PydanticKnownError

_ERRORS: dict[type, Literal["int_type", "float_type", "bool_type"]] = {
    int: "int_type",
    float: "float_type",
    bool: "bool_type",
}


def only(kind: type) -> BeforeValidator:
    """Refuse texts, and numbers and truth values for each other."""
    return BeforeValidator(partial(_checked, kind))


def only_types_of(options: type[Any]) -> BeforeValidator:
    """Do the same for each member of an object, by the types of a dataclass's defaults."""
    kinds = {field.name: type(field.default) for field in fields(options)}
    return BeforeValidator(cast("Callable[[Any], Any]", partial(_checked_members, kinds)))


def _checked(kind: type, value: object) -> object:
    if _is_mistaken(kind, value):
        raise PydanticKnownError(_ERRORS[kind])
    return value


def _checked_members(kinds: dict[str, type], value: object) -> object:
    if not isinstance(value, dict):
        return value
    members = cast("dict[str, object]", value)
    wrong = [
        InitErrorDetails(type=_ERRORS[kinds[name]], loc=(name,), input=member)
        for name, member in members.items()
        if _is_mistaken(kinds.get(name), member)
    ]
    if wrong:
        raise ValidationError.from_exception_data("members", wrong)
    return members


def _is_mistaken(kind: type | None, value: object) -> bool:
    """Say whether pydantic would convert a value that JSON has another type for."""
    if kind not in _ERRORS or not isinstance(value, bool | int | float | str):
        return False
    return isinstance(value, str) or isinstance(value, bool) != (kind is bool)
