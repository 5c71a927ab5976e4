"""Query parameters that would have no effect are refused, such as mistyped ones."""

from collections import Counter
from collections.abc import Collection, Mapping

from fastapi import Request

from service.problems import problem_error

MAX_SHOWN_CHARACTERS = 64


async def only_known_parameters(request: Request) -> None:
    """Depend on this to take only the query parameters that the OpenAPI document has.

    Raises:
        ProblemError: As `refuse_others`.
    """
    if not request.query_params:
        return
    path = request.scope["route"].path
    operation = request.app.openapi()["paths"][path][request.method.lower()]
    parameters = operation.get("parameters", ())
    refuse_others(request, {each["name"] for each in parameters if each["in"] == "query"})


def refuse_others(request: Request, known: Collection[str]) -> None:
    """Refuse a request with any other query parameter, or with one that is given twice.

    Raises:
        ProblemError: 422, naming the first such parameter and those that there are.
    """
    given = Counter(name for name, _ in request.query_params.multi_items())
    unknown = next((name for name in given if name not in known), None)
    if unknown is None:
        _refuse_repeated(given)
        return
    names = ", ".join(sorted(known))
    there_are = f"there is {names}" if len(known) == 1 else f"there are {names or 'none'}"
    raise problem_error(
        422,
        "invalid-request",
        "The request is not valid",
        f"{unknown[:MAX_SHOWN_CHARACTERS]!r} is not a query parameter here; {there_are}",
        field=unknown[:MAX_SHOWN_CHARACTERS],
        limit=names or None,
    )


def _refuse_repeated(given: Mapping[str, int]) -> None:
    for name, count in given.items():
        if count > 1:
            raise problem_error(
                422,
                "invalid-request",
                "The request is not valid",
                f"{name!r} is given {count} times; it may be given once",
                field=name,
                limit=1,
            )
