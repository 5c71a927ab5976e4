"""What a fit is: the request, its attempts, its outcome, and the record that a reader is shown.

All times are timezone-aware UTC. Every class is frozen; those that are stored are stored as JSON.
"""

import json
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from ensemble.options import SOURCE_FREE_METHODS, FitOptions, Method
from jobs.errors import FitIdError
from prompt_store.names import MAX_VERSION, NAME_PATTERN, Digest, Name, Version

OutcomeStatus = Literal["succeeded", "failed", "cancelled", "dead"]
Status = Literal["queued", "running", "succeeded", "failed", "cancelled", "dead"]
ENDED: frozenset[Status] = frozenset({"succeeded", "failed", "cancelled", "dead"})

PROBLEM_PREFIX = "urn:hgprompt:problem:"
OUTCOME_EVENT_ID = "9999999999-0"


@dataclass(frozen=True, order=True)
class FitId:
    """One version of one ensemble, written `name@version`."""

    name: str
    version: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `name@version`.

        Raises:
            FitIdError: The text has another form, or the name or the version is out of bounds.
        """
        name, _, version = text.partition("@")
        if not re.fullmatch(NAME_PATTERN, name) or not re.fullmatch("[1-9][0-9]{0,7}", version):
            raise FitIdError(f"{text!r} is not a version of an ensemble; expected name@version")
        return cls(name, int(version))

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceRef(_Record):
    """A source prompt, resolved: the fit reads these bytes whatever happens to the name later."""

    name: Name
    version: Version
    digest: Digest


class LeftOutSource(SourceRef):
    """A prompt that `sources: "all"` did not take, and why."""

    reason: str


class TaskRef(_Record):
    """The labelled target images, resolved."""

    name: Name
    version: Version
    digest: Digest


class FitSpec(_Record):
    """What a caller asks for, with every reference resolved to a digest.

    Attributes:
        left_out: Prompts of the backbone that "all" did not take; nothing reads them.
    """

    name: Name
    task: TaskRef
    sources: tuple[SourceRef, ...]
    method: Method = "hgprompt"
    options: FitOptions = FitOptions()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    backbone_digest: Digest
    left_out: tuple[LeftOutSource, ...] = ()

    @property
    def prompts(self) -> frozenset[str]:
        """Names of the prompts that the ensemble depends on.

        Sources may be given to any method, so that several can be asked for alike; those that make
        an ensemble of none at most look at their shape.
        """
        used = () if self.method in SOURCE_FREE_METHODS else self.sources
        return frozenset(source.name for source in used)

    def fields(self) -> dict[str, Any]:
        """The fields and their values, to build a record that extends this one."""
        return {name: getattr(self, name) for name in type(self).model_fields}


class FitRequest(FitSpec):
    """A spec that was acknowledged: it has a version and will end with exactly one outcome.

    Attributes:
        since: The number of the last deletion of the name before it, 0 if there was none; versions
            up to it are gone.
        idempotency_digest: That of the caller's idempotency key, None if there was none.
    """

    version: Version
    created_at: AwareDatetime
    since: Annotated[int, Field(ge=0, le=MAX_VERSION)] = 0
    idempotency_digest: Digest | None = None

    @property
    def fit_id(self) -> FitId:
        """The id under which the fit is queued, logged and reported."""
        return FitId(self.name, self.version)


class Deletion(_Record):
    """Takes the place of a request: every version of the name with a lower number is gone."""

    name: Name
    version: Version
    deleted_at: AwareDatetime

    @property
    def since(self) -> int:
        """As a request's: the deletion itself is the last one."""
        return self.version


class FitAttempt(_Record):
    """One try at a fit. Its number is also the fence: only the newest attempt may publish."""

    attempt: Annotated[int, Field(ge=1)]
    worker: str
    started_at: AwareDatetime


class FitRelease(FitAttempt):
    """An attempt that was handed back unfinished.

    Attributes:
        could_not_read: Whether that was because the fit's inputs could not be read or unpacked.
    """

    could_not_read: bool = False


class FitError(_Record):
    """Why a fit did not succeed, in the words of RFC 9457."""

    type: str
    title: str
    detail: str


class FitOutcome(_Record):
    """The one end of a fit.

    Attributes:
        attempt: The attempt that ended it; 0 if it never ran.
        started_at: When that attempt began; None if the fit never ran, or that is not known.
        artifact_digest: The published artifact; set exactly when `status` is succeeded.
        result_digest: Blob with the result document (JSON); set with `artifact_digest`.
        error: Set when `status` is failed or dead.
    """

    status: OutcomeStatus
    attempt: Annotated[int, Field(ge=0)]
    started_at: AwareDatetime | None
    finished_at: AwareDatetime
    artifact_digest: Digest | None = None
    result_digest: Digest | None = None
    error: FitError | None = None


def event_id(attempt: int, number: int) -> str:
    """Id of the event with this number, from 1, of this attempt; below that of the outcome."""
    return f"{attempt}-{number}"


class Progress(_Record):
    """Where a fit stands; also one event of its stream.

    Attributes:
        id: Position in the event stream of this fit version, usable as `Last-Event-ID`; None
            while it has not been streamed.
        attempt: The attempt that reported it; 0 if the fit never ran.
        eta_s: Estimated seconds until the stage ends; None while unknown.
        weights: Source name to weight, once they are being learned.
        objective: The current total objective.
        details: Whatever else there is to tell, such as what a finished fit waits for.
    """

    id: str | None = None
    status: Status
    attempt: int = 0
    stage: str | None = None
    step: int | None = None
    total: int | None = None
    eta_s: float | None = None
    weights: dict[str, float] | None = None
    objective: float | None = None
    details: dict[str, Any] | None = None

    @property
    def event(self) -> Literal["progress", "outcome"]:
        """Name of the event; nothing follows an outcome."""
        return "outcome" if self.status in ENDED else "progress"

    @classmethod
    def of_outcome(cls, outcome: FitOutcome) -> Self:
        """The last event of a fit, always the same for the same outcome."""
        return cls(id=OUTCOME_EVENT_ID, status=outcome.status, attempt=outcome.attempt)


class EnsembleRecord(FitRequest):
    """What a reader is shown of one version of one ensemble: the request, and what became of it.

    Attributes:
        attempt: The newest attempt; 0 while none has begun.
        digest: The artifact's digest; None until the fit has succeeded.
        progress: The latest progress of a running fit; None otherwise, or if Redis is away.
        result: The result document of a fit that succeeded, if it was asked for.
    """

    status: Status
    attempt: int
    digest: Digest | None
    progress: Progress | None = None
    outcome: FitOutcome | None = None
    result: dict[str, Any] | None = None


@dataclass(frozen=True)
class FitState:
    """The durable facts of one fit, as one listing of its folder gives them.

    Attributes:
        attempt: The newest attempt; 0 while none has begun.
        released: Attempts handed back unfinished.
        ended: Whether an outcome was recorded.
    """

    attempt: int
    released: frozenset[int]
    ended: bool

    @property
    def lost(self) -> int:
        """Attempts that were not handed back; every one but a running one counts as a crash."""
        return self.attempt - len(self.released)

    @property
    def held(self) -> bool:
        """Whether the newest attempt may still be running, as far as the store can tell."""
        return not self.ended and self.attempt > 0 and self.attempt not in self.released


@dataclass(frozen=True)
class FitResultDocs:
    """What a fit handler hands back.

    Attributes:
        artifact: The bytes of the artifact.
        result: The result document.

    Raises:
        TypeError, ValueError: `result` is not JSON (NaN is not).
    """

    artifact: bytes
    result: dict[str, Any]

    def __post_init__(self) -> None:
        self.result_json()

    def result_json(self) -> bytes:
        """The result document's bytes, the same for equal documents."""
        return json.dumps(self.result, sort_keys=True, allow_nan=False).encode()
