"""What the service answers, as frozen models. Fields it may add later are ignored."""

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

Status = Literal["queued", "running", "succeeded", "failed", "cancelled", "dead"]

_T = TypeVar("_T")


class Reply(BaseModel):
    """Base of all replies."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Page(Reply, Generic[_T]):
    """One page of a list; `next_cursor` is None on the last one."""

    items: tuple[_T, ...]
    next_cursor: str | None = None


class Readiness(Reply):
    """Whether the service can work; `reason` is what it says while it cannot, None if nothing."""

    ready: bool
    reason: str | None = None


class Backbone(Reply):
    """The frozen Vision Transformer that every prompt of this service is for."""

    name: str
    backbone_digest: str
    embed_dim: int
    depth: int
    num_prefix_tokens: int
    image_size_px: int
    patch_size_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    dtype: str


class Prompt(Reply):
    """One version of a source prompt; `classes` are those of the task it was trained on."""

    name: str
    version: int
    digest: str
    size_bytes: int
    created_at: datetime
    backbone: str
    backbone_digest: str
    num_prompt_tokens: int
    prompt_depth: int
    embed_dim: int
    dtype: str
    classes: tuple[str, ...] | None = None
    labels: dict[str, str] = {}
    license: str | None = None


class Task(Reply):
    """One version of a task: labelled images, `counts[i]` of class `classes[i]`."""

    name: str
    version: int
    digest: str
    size_bytes: int
    created_at: datetime
    format: str
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    num_images: int


class Share(Reply):
    """A version and the probability with which a request is assigned to it."""

    version: int
    weight: float


class Alias(Reply):
    """An alias after one of its moves; `versions` is empty if the move deleted it.

    Attributes:
        version: The version it points at, None if there are several or none.
        move: Number of the move, to be given as `if_match`.
    """

    name: str
    alias: str
    version: int | None = None
    versions: tuple[Share, ...]
    move: int
    moved_at: datetime


class Progress(Reply):
    """Where a fit stands; `eta_s` is an estimate and None while unknown."""

    status: Status
    attempt: int | None = None
    stage: str | None = None
    step: int | None = None
    total: int | None = None
    eta_s: float | None = None
    weights: dict[str, float] | None = None
    objective: float | None = None


class Event(Reply):
    """A server-sent event of a fit; `event` is `progress` or `outcome`."""

    id: str | None
    event: str
    progress: Progress


class LeaderboardRow(Reply):
    """Validation accuracy of one way to make the prompt; `single` names its source."""

    method: str
    source: str | None = None
    tuned: bool = False
    accuracy: float
    ci95: tuple[float, float] | None = None


class SourceScore(Reply):
    """How well one source alone transfers, by two label-transferability scores."""

    name: str
    digest: str | None = None
    h_score: float | None = None
    logme: float | None = None


class Validation(Reply):
    """Quality of what was chosen, on the held-out part of the task's images."""

    accuracy: float | None = None
    ece: float | None = None


class FitResult(Reply):
    """What a fit found out. `weights` maps source names to alpha."""

    weights: dict[str, float]
    leaderboard: tuple[LeaderboardRow, ...] = ()
    chosen: str | dict[str, Any] | None = None
    advice: str | None = None
    sources: tuple[SourceScore, ...] = ()
    objective: dict[str, Any] | None = None
    gradient_cosine: tuple[tuple[float | None, ...], ...] | None = None
    composition_gap: float | dict[str, float | None] | None = None
    validation: Validation | None = None
    timings_s: dict[str, float] | None = None


class FitError(Reply):
    """Why a fit did not succeed."""

    title: str
    detail: str | None = None


class LeftOut(Reply):
    """A prompt that `sources: "all"` did not take, and why."""

    name: str
    reason: str


class Ensemble(Reply):
    """One version of an ensemble; `digest` is its artifact's, None until it has succeeded.

    `left_out` does not come with lists.
    """

    name: str
    version: int
    status: Status
    digest: str | None = None
    backbone_digest: str | None = None
    attempt: int | None = None
    method: str | None = None
    created_at: datetime | None = None
    progress: Progress | None = None
    result: FitResult | None = None
    error: FitError | None = None
    left_out: tuple[LeftOut, ...] = ()

    def why(self) -> str:
        """A phrase that says how it stands, with the reason if it failed."""
        text = f"{self.name}@{self.version} {self.status}"
        if self.error is None:
            return text
        return f"{text}: {self.error.detail or self.error.title}"


class Prediction(Reply):
    """One class of one image; `index` is the class's place in the ensemble's class list."""

    label: str
    index: int
    probability: float


class RowProblem(Reply):
    """Why one image of several was not classified."""

    title: str
    detail: str | None = None
    status: int | None = None


class RowError(Reply):
    """Stands in the place of an image's predictions."""

    error: RowProblem


class EnsembleRef(Reply):
    """The artifact that computed an answer."""

    name: str
    version: int
    digest: str


class Classification(Reply):
    """One entry per image, in order: its classes, most probable first, or why there are none."""

    ensemble: EnsembleRef
    predictions: tuple[tuple[Prediction, ...] | RowError, ...]
    timing_ms: dict[str, float] = {}
