"""How fast the engine has been of late."""


class PaceMeter:
    """Sums batches up between two beats. Used on the event loop only."""

    def __init__(self) -> None:
        self._num_images, self._seconds = 0, 0.0

    def observe(self, num_images: int, seconds: float) -> None:
        """Count a finished batch."""
        self._num_images += num_images
        self._seconds += seconds

    def take(self) -> tuple[int, float]:
        """Return the images since the last call and how long they took."""
        taken = self._num_images, self._seconds
        self._num_images, self._seconds = 0, 0.0
        return taken
