"""Aliases of prompts: movable names for one version each, to be named as sources of fits."""

from fastapi import Request, Response

from prompt_store.errors import NotFoundError
from service.parts import Parts, PartsDep
from service.problems import problem_error
from service.registry.aliases import WRITTEN, AliasPath, AliasView, PromptAliasTarget
from service.registry.params import NamePath
from service.registry.preconditions import CONDITIONS
from service.routes.aliases import ALIAS, Aliased, alias_router, put


def _check_version(parts: Parts, name: str, version: int) -> None:
    try:
        parts.prompts.get(name, version)
    except NotFoundError as error:
        raise problem_error(
            422, "unknown-version", "There is no such version", str(error), field="version"
        ) from error


_PROMPTS = Aliased(
    plural="prompts",
    one="a prompt",
    book=lambda parts: parts.prompts.aliases,
    check_name=lambda parts, name: parts.prompts.get(name),
    check_version=_check_version,
)
router = alias_router(_PROMPTS)


@router.put(ALIAS, response_model=AliasView, responses=WRITTEN, openapi_extra=CONDITIONS)
async def put_alias(
    name: NamePath, alias: AliasPath, target: PromptAliasTarget, request: Request, parts: PartsDep
) -> Response:
    """Point an alias at a version; `If-None-Match: *` creates it, `If-Match` moves it."""
    return await put(_PROMPTS, request, parts, name, alias, target)
