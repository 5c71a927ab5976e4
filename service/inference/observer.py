"""What the parts of classification tell whoever measures them."""

from typing import TYPE_CHECKING, Literal, Protocol

from service.inference.decoding import DecodeReport

if TYPE_CHECKING:  # what measures requests needs no torch
    from service.inference.engine import BatchReport

GivenUp = Literal["deadline", "disconnect"]
"""Why nobody waits for the answer any more."""


class InferenceObserver(Protocol):
    """Told of events as they happen, on any thread; must return at once."""

    def batch_ran(self, report: "BatchReport") -> None:
        """A forward pass ended."""

    def image_decoded(self, report: DecodeReport) -> None:
        """An image was decoded, or found to be none."""

    def artifact_loaded(self, load_s: float) -> None:
        """An artifact was read from the store and copied to the device."""

    def artifact_load_failed(self) -> None:
        """An artifact could not be loaded."""

    def artifact_evicted(self) -> None:
        """An artifact left the device."""

    def images_given_up(self, count: int, why: GivenUp) -> None:
        """The request of some images ended before its answer."""
