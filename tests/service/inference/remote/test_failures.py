import pytest

from prompt_store.errors import InvalidPromptError
from service.errors import problem_of
from service.inference.errors import QueueFullError
from service.inference.remote.errors import UnexpectedFailureError
from service.inference.remote.failures import KINDS, error_of, failure_of, is_known
from service.inference.remote.frames import FrameReader, framed
from service.inference.remote.messages import Failed


def over_the_wire(error: Exception) -> Exception:
    (received,) = FrameReader(Failed, 10_000).feed(framed(Failed(1, failure_of(error))))
    return error_of(received.failure)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_kind_gives_the_same_problem_on_the_other_side(name: str) -> None:
    kind = KINDS[name]
    error = kind.__new__(kind)
    error.args = ("what went wrong",)
    vars(error).update(retry_after_s=2.5, field="header", limit=7, other=[1])
    received = over_the_wire(error)
    assert type(received) is kind
    assert is_known(error)
    assert problem_of(received) == problem_of(error)


def test_attributes_arrive() -> None:
    full = over_the_wire(QueueFullError("full", retry_after_s=2.5, scarce="queue", limit=9))
    assert isinstance(full, QueueFullError)
    assert full.retry_after_s == 2.5
    invalid = over_the_wire(InvalidPromptError("bad", field="header", limit=3))
    assert isinstance(invalid, InvalidPromptError)
    assert (str(invalid), invalid.field, invalid.limit) == ("bad", "header", 3)


def test_what_has_no_name_is_an_internal_error() -> None:
    received = over_the_wire(ZeroDivisionError("secret"))
    assert not is_known(ZeroDivisionError())
    assert isinstance(received, UnexpectedFailureError)
    assert "secret" not in str(received)
    assert (problem_of(received).status, problem_of(received).slug) == (500, "internal")
