"""From what a caller asks to fit, to a spec in which every reference is a digest."""

from collections import Counter
from itertools import count
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ensemble.options import SOURCE_FREE_METHODS, FitOptions, Method, why_refused
from jobs.records import FitSpec, LeftOutSource, SourceRef, TaskRef
from prompt_store.errors import ConflictError, NameInvalidError, NotFoundError
from prompt_store.manifests import PromptManifest, TaskManifest
from prompt_store.names import Name
from service.parts import Parts
from service.problems import ProblemError, problem_error
from service.registry.fit_memory import fit_bytes
from service.registry.json_types import only, only_types_of

MAX_LOGITS = 20_000_000
"""Images times classes: each candidate of a fit keeps one float64 for each of them."""

Reference = Annotated[str, Field(min_length=1, max_length=129)]  # name@alias


class EnsembleCreate(BaseModel):
    """A request to fit an ensemble; an existing name is fitted again as its next version."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"name": "animals", "task": "animals-300", "sources": ["fashion", "count@3"]}
            ]
        },
    )

    name: Name
    task: Reference = Field(description="`name`, `name@version` or `sha256:<hex>`")
    sources: Annotated[list[Reference], Field(max_length=1024)] | Literal["all"] = Field(
        default_factory=list[str],
        description="Prompts by `name`, `name@version`, `name@alias` or `sha256:<hex>`; or "
        '"all": every prompt of this backbone, but for those whose shape is not the most common '
        "one, which the answer lists as `left_out`",
    )
    method: Method = "hgprompt"
    options: Annotated[FitOptions, only_types_of(FitOptions)] = FitOptions()
    seed: Annotated[int, Field(ge=0, lt=2**63), only(int)] = 0


def resolve_fit(parts: Parts, wanted: EnsembleCreate) -> FitSpec:
    """Resolve every reference now, so that the fit means the same whatever happens later.

    Raises:
        ProblemError: 422, naming the value: options that do not fit the method, an unknown or
            foreign source, too many or too few of them, prompts of different shapes, an unknown
            task, or one too small to validate on or too large for the memory of a worker.
        StoreUnavailableError: The store cannot be reached.
    """
    why = why_refused(wanted.method, wanted.options)
    if why:
        title, field = "The options do not fit the method", "options.tuning_epochs"
        raise _refused("options-refused", title, why, field, limit=1)
    task = _task(parts, wanted.task, wanted.options.validation_fraction)
    if wanted.sources == "all":
        sources = _every_source(parts)
    else:
        sources = [_source(parts, i, text) for i, text in enumerate(wanted.sources)]
    _check_count(len(sources), wanted.method, parts.settings.max_sources)
    _check_distinct(sources)
    left_out: list[LeftOutSource] = []
    if wanted.method != "none":  # which reads no source
        if wanted.sources == "all":
            sources, left_out = _of_one_shape(sources)
        _check_shapes(sources)
    _check_memory(parts, task, sources, wanted)
    return FitSpec(
        name=wanted.name,
        task=TaskRef(name=task.name, version=task.version, digest=task.digest),
        sources=tuple(SourceRef(name=s.name, version=s.version, digest=s.digest) for s in sources),
        method=wanted.method,
        options=wanted.options,
        seed=wanted.seed,
        backbone_digest=parts.backbone.digest,
        left_out=tuple(left_out),
    )


def _task(parts: Parts, reference: str, validation_fraction: float) -> TaskManifest:
    try:
        task = parts.tasks.resolve(reference)
    except (NotFoundError, NameInvalidError) as error:
        raise _refused("unknown-task", "There is no such task", str(error), "task") from error
    needed = _images_to_hold_one_out(validation_fraction)
    if max(task.counts) < needed:
        raise _refused(
            "task-too-small",
            "The task has too few images for a validation split",
            f"the largest class of task {task.name}@{task.version} has {max(task.counts)} "
            f"image(s); holding out {validation_fraction:g} of a class needs at least {needed}",
            "task",
            limit=needed,
        )
    num_logits = task.num_images * len(task.classes)
    if num_logits > MAX_LOGITS:
        raise _refused(
            "task-too-large",
            "The task has too many images for its number of classes",
            f"task {task.name}@{task.version} has {task.num_images} images of {len(task.classes)} "
            f"classes, which makes {num_logits} logits; the limit is {MAX_LOGITS}",
            "task",
            limit=MAX_LOGITS,
        )
    return task


def _check_memory(
    parts: Parts, task: TaskManifest, sources: list[PromptManifest], wanted: EnsembleCreate
) -> None:
    """Refuse what would only get worker after worker killed."""
    limit = parts.settings.max_fit_bytes
    read = [] if wanted.method == "none" else sources
    num_sources = min(len(read), wanted.options.max_sources)
    needed = fit_bytes(
        parts.backbone,
        num_images=task.num_images,
        num_classes=len(task.classes),
        num_sources=len(read),
        num_kept=num_sources,
        num_prompt_tokens=read[0].num_prompt_tokens if read else 0,
        prompt_depth=read[0].prompt_depth if read else 0,
        learns_weights=wanted.method == "hgprompt",
    )
    if needed > limit:
        raise _refused(
            "task-too-large",
            "The fit would take too much memory",
            f"task {task.name}@{task.version} has {task.num_images} images, which with "
            f"{num_sources} sources take some {needed} bytes; the limit is {limit} "
            "(max_fit_bytes)",
            "task",
            limit=limit,
        )


def _images_to_hold_one_out(validation_fraction: float) -> int:
    """The smallest class of which at least one image is held out and one is left to learn from."""
    return next(n for n in count(2) if round(n * validation_fraction) >= 1)


def _source(parts: Parts, index: int, reference: str) -> PromptManifest:
    field = f"sources[{index}]"
    try:
        prompt = parts.prompts.resolve(reference)
    except (NotFoundError, NameInvalidError, ConflictError) as error:
        raise _refused(
            "unknown-source", "There is no such source prompt", f"{reference!r}: {error}", field
        ) from error
    if prompt.backbone_digest != parts.backbone.digest:
        raise _refused(
            "backbone-mismatch",
            "A source prompt was trained on another backbone",
            f"prompt {prompt.name}@{prompt.version} was trained on {prompt.backbone_digest}; "
            f"this service runs {parts.backbone.digest}",
            field,
        )
    return prompt


def _every_source(parts: Parts) -> list[PromptManifest]:
    """The latest version of every prompt of this backbone that can be read.

    One above the limit is enough.
    """
    page = parts.prompts.list(limit=parts.settings.max_sources + 1, backbone=parts.backbone.digest)
    return list(page.items)


def _check_count(found: int, method: Method, limit: int) -> None:
    if found > limit:
        raise _refused(
            "too-many-sources",
            "There are too many source prompts",
            f"{found} or more sources; the limit is {limit} (max_sources)",
            "sources",
            limit=limit,
        )
    if found == 0 and method not in SOURCE_FREE_METHODS:
        raise _refused(
            "no-sources",
            "There is no source prompt",
            f"method {method!r} needs at least 1 source prompt of this backbone",
            "sources",
            limit=1,
        )


def _check_distinct(sources: list[PromptManifest]) -> None:
    seen: dict[str, int] = {}
    for index, source in enumerate(sources):
        if source.name in seen:
            raise _refused(
                "duplicate-source",
                "A source prompt is named twice",
                f"sources[{seen[source.name]}] and sources[{index}] are both {source.name!r}; "
                "each prompt can be a source once, in one version",
                f"sources[{index}]",
            )
        seen[source.name] = index


def _of_one_shape(
    sources: list[PromptManifest],
) -> tuple[list[PromptManifest], list[LeftOutSource]]:
    """Keep the prompts of the most common shape, the deeper and longer one where two are."""
    counts = Counter(_shape(source) for source in sources)
    chosen = max(counts, key=lambda shape: (counts[shape], *shape), default=None)
    kept = [source for source in sources if _shape(source) == chosen]
    left_out = [
        LeftOutSource(
            name=source.name,
            version=source.version,
            digest=source.digest,
            reason=f"L = {source.prompt_depth}, P = {source.num_prompt_tokens}; the {len(kept)} "
            f"sources that are taken have L = {kept[0].prompt_depth}, "
            f"P = {kept[0].num_prompt_tokens}",
        )
        for source in sources
        if _shape(source) != chosen
    ]
    return kept, left_out


def _shape(source: PromptManifest) -> tuple[int, int]:
    """Depth L and number of tokens P."""
    return source.prompt_depth, source.num_prompt_tokens


def _check_shapes(sources: list[PromptManifest]) -> None:
    """Prompts are averaged, so all must have the same P and L."""
    by_shape: dict[tuple[int, int], list[str]] = {}
    for source in sources:
        shape = (source.num_prompt_tokens, source.prompt_depth)
        by_shape.setdefault(shape, []).append(source.name)
    if len(by_shape) > 1:
        groups = "; ".join(
            f"P = {tokens}, L = {depth}: {', '.join(names)}"
            for (tokens, depth), names in sorted(by_shape.items())
        )
        raise _refused(
            "mixed-prompt-shapes",
            "The source prompts have different shapes",
            f"all must have the same number of tokens P and depth L, but {groups}",
            "sources",
        )


def _refused(slug: str, title: str, detail: str, field: str, **members: Any) -> ProblemError:
    return problem_error(422, slug, title, detail, field=field, **members)
