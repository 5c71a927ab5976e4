"""Image bytes to pixels, on a bounded pool of threads beside the event loop."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from images.decoding import ImageLimits, decode_image
from images.preprocessing import Preprocessing, preprocess


class DecodePool:
    """Decodes and resizes images; Pillow releases the interpreter lock meanwhile.

    Args:
        num_threads: Images decoded at a time.
        limits: What an image may be.
        preprocessing: The backbone's evaluation transform.
    """

    def __init__(self, num_threads: int, limits: ImageLimits, preprocessing: Preprocessing) -> None:
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
        self._limits = limits
        self._preprocessing = preprocessing

    async def pixels(self, data: bytes) -> np.ndarray:
        """Return (3, H, W) uint8.

        Raises:
            ImageDecodeError: The bytes are not an image within the limits.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._decode, data)

    def close(self) -> None:
        """End the threads once they are done."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _decode(self, data: bytes) -> np.ndarray:
        return preprocess(decode_image(data, self._limits), self._preprocessing)
