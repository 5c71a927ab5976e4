"""The durable side of fits: requests, attempts and outcomes as create-only files.

Whatever Redis forgets can be derived from here. The number of an attempt is its fence: creating
`attempts/<n>.json` is the claim, and a publication is refused once a higher number exists. Two
publications can still race; then the create-only `outcome.json` decides, so there is exactly one.
"""

import logging
from datetime import datetime, timedelta

from jobs import store_keys as keys
from jobs.catalogue import EnsembleCatalogue
from jobs.errors import (
    EnsembleDeletedError,
    FenceLostError,
    FitEndedError,
    FitHeldError,
    FitsUnfinishedError,
)
from jobs.records import (
    PROBLEM_PREFIX,
    Deletion,
    FitAttempt,
    FitError,
    FitId,
    FitOutcome,
    FitRelease,
    FitRequest,
    FitResultDocs,
    FitSpec,
    FitState,
    OutcomeStatus,
)
from prompt_store.aliases import AliasBook
from prompt_store.blobs import BlobStore
from prompt_store.clock import Clock
from prompt_store.documents import get_document, put_document
from prompt_store.errors import CorruptDocumentError, PreconditionFailedError
from prompt_store.objects import ObjectStore
from prompt_store.version_series import Expected, whatever

logger = logging.getLogger(__name__)

MARK = b"{}"
UNREAD_FOR = timedelta(hours=1)
"""As long as a finished fit waits for the store, a fit may wait for inputs that cannot be read."""


class EnsembleStore(EnsembleCatalogue):
    """Every fit of a deployment. Synchronous; safe to share between threads and processes.

    Args:
        objects: The deployment's object store.
        blobs: The same store's blobs, for artifacts and result documents.
        clock: Now, timezone-aware UTC.
        max_attempts: Attempts that may end without an outcome before the fit is declared dead.

    Attributes:
        aliases: Movable names for versions that have succeeded; gone when the ensemble is deleted.
    """

    def __init__(
        self,
        objects: ObjectStore,
        blobs: BlobStore,
        clock: Clock,
        *,
        max_attempts: int = 3,
    ) -> None:
        super().__init__(objects, blobs)
        self.aliases = AliasBook(objects, keys.ENSEMBLES_FOLDER, clock, self._lives)
        self._clock = clock
        self._max_attempts = max_attempts

    def create(self, spec: FitSpec, idempotency_digest: str | None = None) -> FitRequest:
        """Make a request durable as the next version of its ensemble.

        Args:
            spec: What is asked for.
            idempotency_digest: That of the caller's idempotency key. If a request of this ensemble
                came with the same key, also one that has been deleted since, that one is returned.

        Raises:
            CorruptDocumentError: A request that may have come with the same key is damaged, or the
                last one is, and may be a deletion; nothing was written.
        """
        self._objects.put_new(keys.name_key(spec.name), MARK)
        while True:
            # The tail is read before the key is looked for: a request with the same key that takes
            # the number after this tail makes our own creation fail, an earlier one is found.
            tail = self._numbers.settled_tail(spec.name)
            if idempotency_digest is not None:
                earlier = self.request_with(spec.name, idempotency_digest)
                if earlier is not None:
                    return earlier
            request = FitRequest(
                **spec.fields(),
                version=tail.number + 1,
                created_at=self._clock(),
                since=tail.since,
                idempotency_digest=idempotency_digest,
            )
            self._objects.put_new(keys.open_key(request.fit_id), MARK)
            for prompt in spec.prompts:
                self._objects.put_new(keys.prompt_key(prompt, request.fit_id), MARK)
            if idempotency_digest is not None:
                self._objects.put_new(
                    keys.idempotency_key(idempotency_digest, request.fit_id), MARK
                )
            if put_document(self._objects, keys.request_key(request.fit_id), request):
                return request

    def delete(self, name: str, expected: Expected = whatever) -> None:
        """Delete every version of an ensemble; their contents stay in the store.

        The deletion takes the next number, so that a request that comes at the same moment is
        either seen, and refuses the deletion, or becomes the first version after it. Fits that have
        ended can get no other outcome, so nothing that a worker still does brings a version back.

        Args:
            name: The ensemble.
            expected: The condition on the digest of the version that serves; while none has
                succeeded, on `name@version` of the newest.

        Raises:
            FitNotFoundError: There is no such ensemble.
            EnsembleDeletedError: It was deleted before.
            FitsUnfinishedError: A fit is queued or running; nothing was written.
            PreconditionFailedError: The ensemble is not as expected; nothing was written.
            StoreFullError, StoreUnavailableError: Nothing was acknowledged.
        """
        while True:
            tail = self._living_tail(name, self._numbers.settled_tail(name))
            fit_ids = [FitId(name, version) for version in tail.living]
            unfinished = [str(fit_id) for fit_id in fit_ids if not self.ended(fit_id)]
            if unfinished:
                raise FitsUnfinishedError(name, unfinished)
            if expected is not whatever:
                self._check(fit_ids[-1], expected)
            number = FitId(name, tail.number + 1)
            deletion = Deletion(name=name, version=number.version, deleted_at=self._clock())
            if put_document(self._objects, keys.request_key(number), deletion):
                return

    def claim_attempt(self, fit_id: FitId, worker: str) -> FitAttempt:
        """Begin the next attempt, or end the fit as dead if too many were lost.

        Raises:
            FitNotFoundError: There is no such fit.
            FitEndedError: The fit has ended, or this call ended it.
            FitHeldError: Another worker made the same claim a moment earlier.
        """
        if self._is_deletion(fit_id):
            raise EnsembleDeletedError(f"{fit_id} marks a deletion")
        state = self.state(fit_id)
        if not state.ended and state.lost >= self._max_attempts:
            self._declare_dead(fit_id, state)
            raise FitEndedError(f"{fit_id} is dead after {state.lost} lost attempts")
        if state.ended:
            raise FitEndedError(f"{fit_id} has ended")
        attempt = FitAttempt(attempt=state.attempt + 1, worker=worker, started_at=self._clock())
        if not put_document(self._objects, keys.attempt_key(fit_id, attempt.attempt), attempt):
            raise FitHeldError(f"attempt {attempt.attempt} of {fit_id} was claimed by another")
        if self.ended(fit_id):
            raise FitEndedError(f"{fit_id} ended while it was being claimed")
        return attempt

    def release_attempt(self, fit_id: FitId, attempt: FitAttempt) -> None:
        """Hand an attempt back unfinished, so that it does not count as lost."""
        self._release(fit_id, attempt, could_not_read=False)

    def release_unread(self, fit_id: FitId, attempt: FitAttempt) -> None:
        """Hand back an attempt that could not read the fit's inputs.

        If it began an hour or more after the first such attempt it counts as lost all the same, so
        that a fit whose inputs can never be read is dead in the end.

        Raises:
            FitNotFoundError: There is no such fit.
        """
        first = self._first_unread(fit_id)
        if first is not None and attempt.started_at - first.started_at >= UNREAD_FOR:
            log = {"fit": str(fit_id), "attempt": attempt.attempt}
            logger.warning("counted as lost: its inputs have been away for an hour", extra=log)
            return
        self._release(fit_id, attempt, could_not_read=True)

    def publish(self, fit_id: FitId, fence: int, outcome: FitOutcome) -> FitOutcome:
        """Record the end of the fit, and return it as it is recorded.

        A write may have succeeded though it seemed to fail: publishing the same outcome again, at
        whatever time, changes nothing.

        Raises:
            FenceLostError: A newer attempt than `fence` exists.
            FitEndedError: The fit already has another outcome.
        """
        newest = self.state(fit_id).attempt
        if newest != fence:
            raise FenceLostError(f"attempt {fence} of {fit_id} was overtaken by attempt {newest}")
        if not put_document(self._objects, keys.outcome_key(fit_id), outcome):
            present = self.outcome(fit_id)
            again = present and present.model_copy(update={"finished_at": outcome.finished_at})
            if present is None or again != outcome:
                raise FitEndedError(f"{fit_id} already has an outcome: {present}")
            outcome = present
        self._objects.delete(keys.open_key(fit_id))
        return outcome

    def publish_result(self, fit_id: FitId, attempt: FitAttempt, docs: FitResultDocs) -> FitOutcome:
        """Store an artifact and its result document, then record the success.

        Raises:
            FenceLostError: A newer attempt exists.
            FitEndedError: The fit already has another outcome.
        """
        outcome = FitOutcome(
            status="succeeded",
            attempt=attempt.attempt,
            started_at=attempt.started_at,
            finished_at=self._clock(),
            artifact_digest=self._blobs.put_bytes(docs.artifact),
            result_digest=self._blobs.put_bytes(docs.result_json()),
        )
        return self.publish(fit_id, attempt.attempt, outcome)

    def publish_failure(self, fit_id: FitId, attempt: FitAttempt, error: FitError) -> FitOutcome:
        """Record that the fit failed for a reason that running it again would not change.

        Raises:
            FenceLostError: A newer attempt exists.
            FitEndedError: The fit already has another outcome.
        """
        outcome = FitOutcome(
            status="failed",
            attempt=attempt.attempt,
            started_at=attempt.started_at,
            finished_at=self._clock(),
            error=error,
        )
        return self.publish(fit_id, attempt.attempt, outcome)

    def cancel(self, fit_id: FitId) -> FitOutcome:
        """End the fit as cancelled, at once, whether or not it is running.

        A worker that runs it finds the outcome at its next beat and stops; whatever it would still
        publish is refused.

        Raises:
            FitNotFoundError: There is no such fit.
            EnsembleDeletedError: It has been deleted.
            FitEndedError: The fit has ended.
        """
        self.check_living(fit_id)
        outcome = self._end_unfinished(fit_id, self.state(fit_id), "cancelled", None)
        if outcome is None:
            raise FitEndedError(f"{fit_id} has already ended")
        return outcome

    def _release(self, fit_id: FitId, attempt: FitAttempt, *, could_not_read: bool) -> None:
        release = FitRelease(
            attempt=attempt.attempt,
            worker=attempt.worker,
            started_at=attempt.started_at,
            could_not_read=could_not_read,
        )
        put_document(self._objects, keys.release_key(fit_id, attempt.attempt), release)

    def _first_unread(self, fit_id: FitId) -> FitRelease | None:
        for number in sorted(self.state(fit_id).released):
            release = self._release_of(fit_id, number)
            if release is not None and release.could_not_read:
                return release
        return None

    def _release_of(self, fit_id: FitId, attempt: int) -> FitRelease | None:
        """How an attempt was handed back; None if that is damaged."""
        try:
            return get_document(self._objects, keys.release_key(fit_id, attempt), FitRelease)
        except CorruptDocumentError as error:
            logger.error("passed over: %s", error)  # noqa: TRY400
            return None

    def _lives(self, name: str, version: int) -> bool:
        return not self._numbers.deleted(FitId(name, version))

    def _check(self, newest: FitId, expected: Expected) -> None:
        """Judge a condition on an ensemble of which no fit is unfinished."""
        serving = self.latest_succeeded(newest.name)
        outcome = None if serving is None else self.outcome(serving)
        current = (outcome and outcome.artifact_digest) or str(newest)
        if not expected(current):
            raise PreconditionFailedError(f"ensemble {newest.name} is {current}", current=current)

    def _declare_dead(self, fit_id: FitId, state: FitState) -> None:
        detail = (
            f"{state.lost} attempts were lost without an outcome (limit {self._max_attempts});"
            " each time the worker died, was cut off, or could not read the fit's inputs"
        )
        error = FitError(
            type=f"{PROBLEM_PREFIX}fit-dead", title="The fit kept losing its worker", detail=detail
        )
        self._end_unfinished(fit_id, state, "dead", error)

    def _started_at(self, fit_id: FitId, number: int) -> datetime | None:
        """When an attempt began; None if there is none of that number, or it is damaged."""
        try:
            attempt = self.attempt(fit_id, number)
        except CorruptDocumentError as error:
            logger.error("its start is not known: %s", error, extra={"fit": str(fit_id)})  # noqa: TRY400
            return None
        return None if attempt is None else attempt.started_at

    def _end_unfinished(
        self, fit_id: FitId, state: FitState, status: OutcomeStatus, error: FitError | None
    ) -> FitOutcome | None:
        """Record an end that no worker publishes; None if there already is one."""
        outcome = FitOutcome(
            status=status,
            attempt=state.attempt,
            started_at=self._started_at(fit_id, state.attempt),
            finished_at=self._clock(),
            error=error,
        )
        if not put_document(self._objects, keys.outcome_key(fit_id), outcome):
            return None
        self._objects.delete(keys.open_key(fit_id))
        return outcome
