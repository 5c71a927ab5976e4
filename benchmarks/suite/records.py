"""What the suite writes down: the setting, every run of the command, every finished cell."""

import base64
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from benchmarks.reporting.machine import Machine
from benchmarks.suite.cells import Cell, Plan


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Setting(_Record):
    """What all cells of one results folder have in common.

    Attributes:
        format: Of the folder.
        backbone: Its name.
        backbone_digest: `sha256:<hex>`.
        precision: "fp32" or "bf16".
        max_test_images: At most so many test images a task; None = all.
        tuning_epochs: Budget of every variant that tunes.
        prompts: sha256 of each source prompt's file.
    """

    format: Literal[1] = 1
    backbone: str
    backbone_digest: str
    precision: str
    max_test_images: int | None
    tuning_epochs: int
    prompts: dict[str, str]


class RunRecord(_Record):
    """One start of the command.

    Attributes:
        run: Its identifier, to which its cells refer.
        command: As it was typed.
        started_at: ISO 8601, UTC.
        machine: Where it ran.
        plan: The cells that it was asked for, all shards together.
    """

    run: str
    command: str
    started_at: str
    machine: Machine
    plan: Plan


class Place(_Record):
    """A candidate of a fit.

    Attributes:
        method: How its prompt was made.
        source: For a single source.
        tuned: Whether its prompt was tuned.
        accuracy: On the validation part.
        log_loss: On the validation part, in nats.
        cross_fit_accuracy: Of its cross-fitted predictions of all images of the fit.
        cross_fit_log_loss: Of the same, without the only images of their class.
        test_accuracy: Shows what the choice among candidates was worth; nothing is chosen by it.
    """

    method: str
    source: str | None
    tuned: bool
    accuracy: float
    log_loss: float
    cross_fit_accuracy: float
    cross_fit_log_loss: float
    test_accuracy: float


class CellRecord(_Record):
    """A finished cell.

    Attributes:
        cell: Which.
        options: Of the fit, by name.
        sources: Names of the source prompts, as drawn.
        task_digest: Of the target task.
        num_classes: C.
        num_images: Images that the fit saw, validation included.
        test_accuracy: On the test images, in [0, 1].
        test_log_loss: In nats.
        test_ece: Expected calibration error, in [0, 1].
        test_correct: Whether each test image was classified correctly; see `pack_correct`.
        num_test: Test images.
        chosen: The candidate that was tested.
        leaderboard: All candidates of the fit, best first.
        weights: alpha of the method by source; empty if it combines none.
        fit_s: Seconds of the fit. Features from the cache cost nothing, so this is no measure of
            a fit's speed.
        run: Identifier of the run that computed it.
    """

    cell: Cell
    options: dict[str, Any]
    sources: tuple[str, ...]
    task_digest: str
    num_classes: int
    num_images: int
    test_accuracy: float
    test_log_loss: float
    test_ece: float
    test_correct: str
    num_test: int
    chosen: Place
    leaderboard: tuple[Place, ...]
    weights: dict[str, float]
    fit_s: float
    run: str

    def correct(self) -> np.ndarray:
        """Return whether each test image was classified correctly, (num_test,) bool."""
        packed = np.frombuffer(base64.b64decode(self.test_correct), np.uint8)
        return np.unpackbits(packed, count=self.num_test).astype(bool)

    def untuned(self, method: str) -> Place | None:
        """Return the best untuned candidate of a method; None if there is none."""
        places = (p for p in self.leaderboard if p.method == method and not p.tuned)
        return next(places, None)

    def tested(self, place: Place) -> float:
        """Return a candidate's test accuracy in full: leaderboards are written with six decimals.

        With those, 1/300 thrice is not as much as 0, 1/300 and 2/300.
        """
        return round(place.test_accuracy * self.num_test) / self.num_test


class FailureRecord(_Record):
    """A cell whose fit refused its input; it is tried again by the next run."""

    cell: Cell
    error: str
    run: str


def pack_correct(correct: np.ndarray) -> str:
    """Pack (n,) booleans eight to a byte, in base64."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode()
