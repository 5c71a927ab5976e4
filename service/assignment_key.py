"""`HGPrompt-Assignment-Key`: requests that stay together when an alias is split."""

from starlette.datastructures import Headers

from service.problems import problem_error

HEADER = "HGPrompt-Assignment-Key"
MAX_CHARACTERS = 255


def assignment_key(headers: Headers) -> str | None:
    """Return the key of a request, None if it has none.

    Raises:
        ProblemError: 422, it is empty or longer than 255 characters.
    """
    key = headers.get(HEADER)
    if key is not None and not 1 <= len(key) <= MAX_CHARACTERS:
        raise problem_error(
            422,
            "invalid-request",
            "The request is not valid",
            f"{HEADER} has {len(key)} characters; expected 1 to {MAX_CHARACTERS}",
            field=HEADER,
            limit=MAX_CHARACTERS,
        )
    return key
