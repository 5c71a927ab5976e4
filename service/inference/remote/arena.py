"""The memory that a front shares with the engine's process: one slot an image.

The memory has no name (`memfd_create`): it is gone when the last process that maps it is gone,
however that ended. Pages come into being when they are first written, and the slot that was freed
last is taken first. The pages of slots that were not needed of late are given back, so a quiet
front holds little of it, also after a burst.
"""

import fcntl
import logging
import mmap
import os
from collections.abc import Sequence
from itertools import islice, takewhile

import numpy as np

from service.inference.remote.errors import ProtocolError
from service.inference.remote.messages import Attach, Pixels

logger = logging.getLogger(__name__)

CHANNELS = 3
FLOAT, UINT8 = np.dtype(np.float32), np.dtype(np.uint8)
MAX_GIVEN_BACK = 8
"""Slots whose pages are given back at a time: some 0.3 ms each at 224 px, on the event loop."""


def slot_bytes_for(image_size_px: int) -> int:
    """Return the room of one slot: a float32 image, rounded up to whole pages."""
    size = CHANNELS * image_size_px**2 * FLOAT.itemsize
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


class PixelArena:
    """A front's side: writes pixels into slots. Not thread-safe.

    Args:
        image_size_px: Side of an image.
        num_slots: Images that may be with the engine at once.
    """

    def __init__(self, image_size_px: int, num_slots: int) -> None:
        self.num_slots = num_slots
        self.slot_bytes = slot_bytes_for(image_size_px)
        self.shape = (CHANNELS, image_size_px, image_size_px)
        self.descriptor = os.memfd_create("hgprompt-pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, num_slots * self.slot_bytes)
            # Otherwise this process could shrink it under the engine's feet, which is fatal there.
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)
            self._memory = mmap.mmap(self.descriptor, num_slots * self.slot_bytes)
        except OSError:
            os.close(self.descriptor)
            raise
        self._free = list(reversed(range(num_slots)))
        self._round = 0
        self._can_give_back = True
        self._idle: dict[int, int] = {}
        """Free slots that have pages, and the round in which each was freed: first freed first."""

    @property
    def num_free(self) -> int:
        """Slots that nobody holds."""
        return len(self._free)

    def put(self, images: Sequence[np.ndarray]) -> tuple[Pixels, ...] | None:
        """Copy images into slots; None if there are not enough.

        Args:
            images: (3, H, W) each, uint8 or float32.
        """
        if len(images) > len(self._free):
            return None
        for image in images:
            if image.shape != self.shape or image.dtype not in (FLOAT, UINT8):
                raise ValueError(f"pixels are {image.dtype}{image.shape}; expected {self.shape}")
        return tuple(self._put(image) for image in images)

    def free(self, rows: Sequence[Pixels]) -> None:
        """Take slots back."""
        self._free.extend(row.slot for row in rows)
        if self._can_give_back:
            self._idle.update((row.slot, self._round) for row in rows)

    def give_back(self) -> None:
        """Give the system the pages of some slots that were free ever since the last call.

        The slots stay free. Where the system does not take them they keep their pages, for good.
        """
        if not self._can_give_back:
            return
        long_free = takewhile(lambda slot: self._idle[slot] < self._round, self._idle)
        try:
            for slot in list(islice(long_free, MAX_GIVEN_BACK)):
                self._memory.madvise(mmap.MADV_REMOVE, slot * self.slot_bytes, self.slot_bytes)
                del self._idle[slot]
        except OSError:
            logger.warning("the system takes no shared memory back", exc_info=True)
            self._can_give_back = False
            self._idle.clear()
        self._round += 1

    def close_descriptor(self) -> None:
        """Keep the memory, without the descriptor that was passed on."""
        os.close(self.descriptor)

    def _put(self, image: np.ndarray) -> Pixels:
        slot = self._free.pop()
        self._idle.pop(slot, None)
        view = np.frombuffer(
            self._memory, image.dtype, count=image.size, offset=slot * self.slot_bytes
        )
        np.copyto(view.reshape(self.shape), image)
        return Pixels(slot, is_float=image.dtype == FLOAT)


class ArenaView:
    """The engine's side: reads pixels from slots, without a copy.

    Args:
        descriptor: Of the front's memory; may be closed afterwards.
        attach: What the front says of it.
        image_size_px: Side of an image.

    Raises:
        ProtocolError: The memory is not what the front says, or could vanish.
    """

    def __init__(self, descriptor: int, attach: Attach, image_size_px: int) -> None:
        size = attach.num_slots * attach.slot_bytes
        if attach.slot_bytes < slot_bytes_for(image_size_px):
            raise ProtocolError(f"slots of {attach.slot_bytes} bytes for {image_size_px} px")
        try:
            sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
            found = os.fstat(descriptor).st_size
            if not sealed or found != size:
                raise ProtocolError(f"memory of {found} bytes, sealed {sealed}; expected {size}")
            self._memory = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
        except OSError as error:
            raise ProtocolError(f"the descriptor is of no use: {error}") from error
        self._attach = attach
        self._shape = (CHANNELS, image_size_px, image_size_px)

    def image(self, row: Pixels) -> np.ndarray:
        """Return the pixels (3, H, W) of a slot, read-only; the memory stays while it is in use.

        Raises:
            ProtocolError: There is no such slot.
        """
        if row.slot >= self._attach.num_slots:
            raise ProtocolError(f"slot {row.slot} of {self._attach.num_slots}")
        count = CHANNELS * self._shape[1] * self._shape[2]
        dtype, offset = FLOAT if row.is_float else UINT8, row.slot * self._attach.slot_bytes
        return np.frombuffer(self._memory, dtype, count=count, offset=offset).reshape(self._shape)
