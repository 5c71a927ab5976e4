"""How an exception of a fit handler is told to the user."""

import re

from jobs.errors import FitRefusedError
from jobs.records import PROBLEM_PREFIX, FitError

UNEXPECTED = f"{PROBLEM_PREFIX}fit-error"


def describe_failure(error: BaseException, expected: tuple[type[Exception], ...]) -> FitError:
    """Turn an exception into the error of a failed outcome.

    Args:
        error: What the handler raised.
        expected: Classes whose messages are written for users; of any other only the class is
            named, because its message may hold anything.
    """
    if isinstance(error, FitRefusedError):
        return FitError(
            type=f"{PROBLEM_PREFIX}{error.slug}", title=error.title, detail=error.detail
        )
    if not isinstance(error, expected):
        name = type(error).__name__
        detail = f"the fit handler raised {name}; the worker's log has the traceback"
        return FitError(type=UNEXPECTED, title="The fit failed unexpectedly", detail=detail)
    words = _words(type(error).__name__)
    return FitError(
        type=f"{PROBLEM_PREFIX}{'-'.join(words)}",
        title=" ".join(words).capitalize(),
        detail=str(error),
    )


def _words(class_name: str) -> list[str]:
    """`TaskTooSmallError` -> `["task", "too", "small"]`."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z0-9]*|[a-z0-9]+", class_name)
    words = [part.lower() for part in parts]
    return words[:-1] if len(words) > 1 and words[-1] == "error" else words
