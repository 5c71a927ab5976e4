"""The bare loop: the backbone called on ready pixels, with nothing around it."""

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from backbones.info import LoadedBackbone
from benchmarks.serving.records import BareRun
from benchmarks.serving.tenants import make_artifact
from images.decoding import ImageLimits, decode_image
from images.preprocessing import preprocess
from service.inference.engine_parts import default_max_batch_size

BATCH_SIZES = {"cpu": (1, 2, 4, 8, 16, 32, 64), "cuda": (1, 2, 4, 8, 16, 32, 64, 128, 256)}
"""That are tried, by device."""

CAPTURE_PASSES = 3
"""Before a graph is captured, so that libraries choose their kernels outside of it."""


class BareLoop:
    """The backbone under one tenant's prompt.

    Args:
        loaded: The backbone, on its device.
        pictures: Encoded images; they are decoded here, once.
    """

    def __init__(self, loaded: LoadedBackbone, pictures: Sequence[bytes]) -> None:
        self._loaded = loaded
        self._pictures = pictures
        self._decoded = torch.stack([self._decode(picture) for picture in pictures])
        prompt = make_artifact(loaded.info, 0).prompt_embeddings
        self._prompt = torch.from_numpy(prompt).to(loaded.vit.device)  # (L, P, D)

    def best_batch_size(self, *, duration_s: float) -> tuple[int, dict[int, float]]:
        """Return the fastest batch size, and images per second of each."""
        sizes = BATCH_SIZES[self._prompt.device.type]
        for batch_size in sizes:
            self.run(batch_size, duration_s=0.0)  # warm up
        rates = {size: self.run(size, duration_s=duration_s).throughput for size in sizes}
        return max(rates, key=lambda size: rates[size]), rates

    def run(self, batch_size: int, *, duration_s: float) -> BareRun:
        """Call the backbone again and again for some seconds, at least twice."""
        pixels = self._batch(batch_size)
        count = 0
        with torch.inference_mode():
            one_pass = self._pass(pixels)
            self._synchronise()
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            while count < 2 or time.perf_counter() - wall_s < duration_s:  # noqa: PLR2004
                one_pass()
                self._synchronise()
                count += 1
        return _run_since(wall_s, cpu_s, count * batch_size)

    def run_on_each_core(self, *, duration_s: float) -> BareRun | None:
        """Run a loop of one thread on each core, side by side; None on a GPU."""
        if self._prompt.device.type != "cpu":
            return None
        num_threads = torch.get_num_threads()
        batch_size = default_max_batch_size(self._prompt.device)
        wall_s, cpu_s = time.perf_counter(), time.process_time()

        def loop() -> int:
            torch.set_num_threads(1)
            return self.run(batch_size, duration_s=duration_s).images

        with ThreadPoolExecutor(num_threads) as cores:
            loops = [cores.submit(loop) for _ in range(num_threads)]
            images = sum(each.result() for each in loops)
        found = _run_since(wall_s, cpu_s, images)
        torch.set_num_threads(num_threads)
        return found

    def single_ms(self, *, duration_s: float) -> tuple[float, float]:
        """Return the median milliseconds to decode one image, and of its forward pass."""
        decode_ms: list[float] = []
        forward_ms: list[float] = []
        end_s = time.perf_counter() + duration_s
        with torch.inference_mode():
            while time.perf_counter() < end_s:
                picture = self._pictures[len(decode_ms) % len(self._pictures)]
                start_s = time.perf_counter()
                pixels = self._decode(picture)
                decoded_s = time.perf_counter()
                self._loaded.vit(pixels.unsqueeze(0).to(self._prompt.device), self._prompt)
                self._synchronise()
                decode_ms.append(1e3 * (decoded_s - start_s))
                forward_ms.append(1e3 * (time.perf_counter() - decoded_s))
        return statistics.median(decode_ms), statistics.median(forward_ms)

    def _pass(self, pixels: Tensor) -> Callable[[], object]:
        """One call of the backbone; on a GPU, the replay of a graph, as fast as it goes there."""
        if self._prompt.device.type == "cpu":
            return lambda: self._loaded.vit(pixels, self._prompt)
        for _ in range(CAPTURE_PASSES):
            self._loaded.vit(pixels, self._prompt)
        self._synchronise()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._loaded.vit(pixels, self._prompt)
        return graph.replay

    def _batch(self, batch_size: int) -> Tensor:
        indices = torch.arange(batch_size) % len(self._decoded)
        return self._decoded[indices].to(self._prompt.device)

    def _decode(self, picture: bytes) -> Tensor:
        image = decode_image(picture, ImageLimits())
        return torch.from_numpy(preprocess(image, self._loaded.info.preprocessing))

    def _synchronise(self) -> None:
        if self._prompt.device.type == "cuda":
            torch.cuda.synchronize()


def _run_since(wall_s: float, cpu_s: float, images: int) -> BareRun:
    """What was done since these readings of the clocks of the wall and of this process."""
    elapsed_s = time.perf_counter() - wall_s
    return BareRun(images=images, throughput=images / elapsed_s, cpu_s=time.process_time() - cpu_s)
