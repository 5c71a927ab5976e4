import pytest

from jobs.errors import FitRefusedError
from jobs.failures import describe_failure


class TaskTooSmallError(ValueError):
    pass


class HTTPTimeout(Exception):  # noqa: N818 (a name without the suffix)
    pass


def test_a_refusal_is_told_in_its_own_words() -> None:
    error = describe_failure(FitRefusedError("too-few", "Too few", "1 image, 2 needed"), ())
    assert error.type == "urn:hgprompt:problem:too-few"
    assert (error.title, error.detail) == ("Too few", "1 image, 2 needed")


@pytest.mark.parametrize(
    ("raised", "kind", "title"),
    [
        (TaskTooSmallError("why"), "task-too-small", "Task too small"),
        (HTTPTimeout("why"), "http-timeout", "Http timeout"),
        (OSError("why"), "os", "Os"),
    ],
)
def test_an_expected_error_keeps_its_message(raised: Exception, kind: str, title: str) -> None:
    error = describe_failure(raised, (type(raised),))
    assert error.type == f"urn:hgprompt:problem:{kind}"
    assert (error.title, error.detail) == (title, "why")


def test_of_an_unexpected_error_only_the_class_is_told() -> None:
    error = describe_failure(KeyError("secret"), (TaskTooSmallError,))
    assert error.type == "urn:hgprompt:problem:fit-error"
    assert "KeyError" in error.detail
    assert "secret" not in error.detail
