"""Query parameters that a route does not have are refused: a mistyped one would be ignored."""

from collections.abc import Collection

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
    """Refuse a request with any other query parameter.

    Raises:
        ProblemError: 422, naming the first such parameter and those that there are.
    """
    unknown = next((name for name in request.query_params if name not in known), None)
    if unknown is None:
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
