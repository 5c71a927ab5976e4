"""Classifying held-out images from many threads, and showing how it went."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from client.api import Client
from client.console import supports_unicode
from client.errors import ClientError
from client.examples import HeldOutImage
from client.replies import Prediction, RowError
from client.wilson import wilson_interval

CONCURRENCY = 8
SHOWN_IMAGES = 12


@dataclass(frozen=True)
class Outcome:
    """The most probable class of each image, and the time it all took."""

    images: Sequence[HeldOutImage]
    best: Sequence[Prediction]
    elapsed_s: float

    @property
    def num_correct(self) -> int:
        """How many images got their true class."""
        return sum(p.label == i.label for i, p in zip(self.images, self.best, strict=True))


def classify_held_out(
    console: Console, client: Client, ensemble: str, images: Sequence[HeldOutImage]
) -> Outcome:
    """Sends one request an image, several at a time.

    Raises:
        ClientError: If one of them fails.
    """

    def best(image: HeldOutImage) -> Prediction:
        (row,) = client.classify(ensemble, [image.data], top_k=1).predictions
        if isinstance(row, RowError):
            raise ClientError(f"{image.name} was not classified: {row.error.detail}")
        return row[0]

    begun_s = time.monotonic()
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        answers = track(
            pool.map(best, images),
            total=len(images),
            description="  classifying",
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        try:
            predictions = list(answers)
        except ClientError:
            pool.shutdown(cancel_futures=True)  # one failure is enough to know
            raise
    return Outcome(images, predictions, time.monotonic() - begun_s)


def print_classification(console: Console, outcome: Outcome) -> None:
    """Prints some of the images, then the accuracy on all of them."""
    right, wrong = ("✓", "✗") if supports_unicode(console) else ("ok", "--")
    table = Table(box=None, padding=(0, 0, 0, 2), header_style="bold")
    for heading in ("truth", "prediction"):
        table.add_column(heading, max_width=28, no_wrap=True)
    table.add_column("probability", justify="right")
    table.add_column("")
    pairs = list(zip(outcome.images, outcome.best, strict=True))
    for image, best in pairs[:SHOWN_IMAGES]:
        correct = image.label == best.label
        mark = Text(right, "bold green") if correct else Text(wrong, "bold red")
        table.add_row(image.label, best.label, f"{best.probability:.1%}", mark)
    console.print(table)
    hidden = len(pairs) - SHOWN_IMAGES
    if hidden > 0:
        console.print(Text(f"  and {hidden} more", style="dim"))
    low, high = wilson_interval(outcome.num_correct, len(pairs))
    console.print(
        Text.assemble(
            "\n  Held-out accuracy: ",
            (f"{outcome.num_correct / len(pairs):.1%}", "bold"),
            f" ({outcome.num_correct} of {len(pairs)}), 95 % interval {low:.1%} - {high:.1%}",
        )
    )
    console.print(
        f"  {len(pairs)} requests in {outcome.elapsed_s:.1f} s, {CONCURRENCY} at a time: "
        f"{len(pairs) / outcome.elapsed_s:.0f} images/s"
    )
