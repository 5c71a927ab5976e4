"""Every message between a front and the engine's process, as MessagePack.

A front connects and is welcomed; it attaches the memory that its pixels will lie in, and then sends
`Compute` and `Cancel`. Each `Compute` is answered by exactly one of `Answer`, `Failed` and
`Released`: only then may its slots be used again. `Unload` has no reply. `Beat` comes all the time.
"""

from typing import Annotated

import msgspec

from backbones.info import BackboneInfo

PROTOCOL_VERSION = 3
MAX_ROWS = 4096

Id = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
Slot = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
FieldValue = str | int | float | bool | None


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message; on the wire an array that starts with its tag."""


class Welcome(Message, tag="welcome", frozen=True):
    """The engine's first words.

    Attributes:
        version: `PROTOCOL_VERSION` of the engine's process.
        backbone: What it runs.
        beat_s: How often a `Beat` will come.
    """

    version: int
    backbone: BackboneInfo
    beat_s: Annotated[float, msgspec.Meta(gt=0)]


class Attach(Message, tag="attach", frozen=True):
    """The front's first words; a file descriptor of its arena comes with them.

    Attributes:
        name: The front's name, for the log.
        num_slots: Images that the arena has room for.
        slot_bytes: Room for one image.
    """

    name: Annotated[str, msgspec.Meta(max_length=64)]
    num_slots: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
    slot_bytes: Annotated[int, msgspec.Meta(ge=1, le=1 << 32)]


class Pixels(Message, frozen=True):
    """Where one image lies: float32 and normalised, or uint8."""

    slot: Slot
    is_float: bool


class Compute(Message, tag="compute", frozen=True):
    """Compute images under an artifact; see `EngineClient.compute`.

    Attributes:
        id: Chosen by the front, not in use.
        digest: The artifact.
        rows: The images.
        deadline_s: On the system's monotonic clock, which every process reads alike.
        wants_features: Whether the results carry features.
        knows_classes: Whether the front has the artifact's labels already.
        tenant: Whose share of the engine they take.
    """

    id: Id
    digest: Annotated[str, msgspec.Meta(max_length=256)]
    rows: Annotated[tuple[Pixels, ...], msgspec.Meta(max_length=MAX_ROWS)]
    deadline_s: Annotated[float, msgspec.Meta(ge=0, le=1e15)]  # refuses NaN, which is never due
    wants_features: bool
    knows_classes: bool
    tenant: Annotated[str, msgspec.Meta(max_length=256)] | None = None


class Cancel(Message, tag="cancel", frozen=True):
    """Nobody waits for this answer any more."""

    id: Id


class Unload(Message, tag="unload", frozen=True):
    """Let an artifact go from the device, unless it is in use; has no reply."""

    digest: Annotated[str, msgspec.Meta(max_length=256)]


class Failure(Message, tag="failure", frozen=True):
    """An error, by the name of its class; see `failures`."""

    kind: str
    message: str
    fields: dict[str, FieldValue]


class Result(Message, tag="result", frozen=True):
    """`RowResult`, arrays as the bytes of float32."""

    probabilities: bytes
    digest: str
    queue_s: float
    forward_s: float
    batch_size: int
    features: bytes | None


class Answer(Message, tag="answer", frozen=True):
    """The outcomes of a `Compute`, in order; `classes` unless the front has them."""

    id: Id
    classes: tuple[str, ...] | None
    rows: tuple[Result | Failure, ...]


class Failed(Message, tag="failed", frozen=True):
    """A `Compute` that has no outcomes at all."""

    id: Id
    failure: Failure


class Released(Message, tag="released", frozen=True):
    """A cancelled `Compute` whose pixels nobody reads any more."""

    id: Id


class Beat(Message, tag="beat", frozen=True):
    """A sign of life.

    Attributes:
        healthy: Whether the engine's threads work.
        num_images: Images computed since the last beat.
        forward_s: How long that took.
    """

    healthy: bool
    num_images: int
    forward_s: float


FromFront = Compute | Cancel | Unload
FromEngine = Answer | Failed | Released | Beat
