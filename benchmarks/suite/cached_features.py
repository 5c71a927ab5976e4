"""Features on disk and in memory, so that cells share the forward passes.

Plain features and those of sources are the same for all seeds, shots and numbers of sources: they
are kept on disk.
One file a target task and prompt, `<folder>/<prompt digest>.safetensors`:

    images    (n, 16) uint8      BLAKE2b of the image's pixels
    features  (n, D)  float32    its features under the prompt

A file is only ever replaced whole. Two processes that write the same one lose at most each
other's rows, which are then computed again.

Composites are shared by few cells, such as the uniform mean's by those of all methods and shots of
one seed: the latest are kept in memory.
"""

import hashlib
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.suite.errors import SuiteError
from ensemble.features import extract_features
from ensemble.prompted_vit import PromptedViT

NO_PROMPT = "none"
_DIGEST_BYTES = 16
MAX_COMPOSITES = 64


@dataclass(frozen=True)
class _Rows:
    """Features (n, D) by image."""

    places: dict[bytes, int]
    features: Tensor


_NO_ROWS = _Rows({}, torch.empty(0))


class CachedFeatures:
    """`ensemble.features.extract_features`, remembering what it has computed.

    Plain features and those of sources are remembered for good, those of the latest 64 other
    prompts (composites, tuned ones) as long as this object lives.

    Args:
        folder: Of one target task, one backbone, one precision and one kind of device.
        sources: The prompts (L, P, D) whose features are kept.
    """

    def __init__(self, folder: Path, sources: Iterable[Tensor]) -> None:
        self.folder = folder
        self._kept = {prompt_digest(source) for source in sources} | {NO_PROMPT}
        self._in_memory: dict[str, _Rows] = {}
        self._composites: OrderedDict[str, _Rows] = OrderedDict()

    def __call__(
        self,
        vit: PromptedViT,
        pixels: Tensor,
        prompts: Sequence[Tensor | None],
        *,
        batch_size: int,
        on_batch: Callable[[int], None] = lambda _: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[Tensor]:
        """Return features (N, D) under each prompt; see `extract_features`.

        Raises:
            FitStoppedError: `should_stop` returned true.
            SuiteError: A file of the cache is damaged.
        """
        images = image_digests(pixels)
        digests = [prompt_digest(prompt) for prompt in prompts]
        rows = [self._known(digest, images) for digest in digests]
        absent = [tuple(i for i, name in enumerate(images) if name not in r.places) for r in rows]
        on_batch(sum(len(images) - len(missing) for missing in absent))
        # Prompts that lack the same images go through the backbone together.
        for missing in dict.fromkeys(absent):
            if not missing:
                continue
            alike = [j for j, other in enumerate(absent) if other == missing]
            computed = extract_features(
                vit,
                pixels[list(missing)],
                [prompts[j] for j in alike],
                batch_size=batch_size,
                on_batch=on_batch,
                should_stop=should_stop,
            )
            names = [images[i] for i in missing]
            for j, features in zip(alike, computed, strict=True):
                rows[j] = _merged(rows[j], names, features)
                if digests[j] in self._kept:
                    self._write(digests[j], names, features)
                self._remember(digests[j], rows[j])
        return [r.features[[r.places[name] for name in images]] for r in rows]

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}.safetensors"

    def _known(self, digest: str, images: Sequence[bytes]) -> _Rows:
        """Rows of a prompt, read from its file if an image is not among those in memory."""
        rows = (self._in_memory if digest in self._kept else self._composites).get(digest, _NO_ROWS)
        if digest not in self._kept or all(name in rows.places for name in images):
            return rows
        rows = self._read(digest)
        self._remember(digest, rows)
        return rows

    def _remember(self, digest: str, rows: _Rows) -> None:
        if digest in self._kept:
            self._in_memory[digest] = rows
            return
        self._composites[digest] = rows
        self._composites.move_to_end(digest)
        while len(self._composites) > MAX_COMPOSITES:
            self._composites.popitem(last=False)

    def _read(self, digest: str) -> _Rows:
        path = self._path(digest)
        if not path.exists():
            return _NO_ROWS
        try:
            stored = load_file(path)
        except SafetensorError as error:
            raise SuiteError(f"{path} is damaged ({error}); delete it") from error
        names = [row.tobytes() for row in stored["images"].numpy()]
        return _Rows({name: i for i, name in enumerate(names)}, stored["features"])

    def _write(self, digest: str, names: Sequence[bytes], features: Tensor) -> None:
        """Add rows to a file, keeping what another process may have added meanwhile."""
        rows = _merged(self._read(digest), names, features)
        order = list(rows.places)
        images = np.frombuffer(b"".join(order), np.uint8).reshape(-1, _DIGEST_BYTES)
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".partial", delete=False) as file:
            partial = Path(file.name)
        tensors = {
            "images": torch.from_numpy(images.copy()),
            "features": rows.features[[rows.places[name] for name in order]],
        }
        save_file(tensors, partial)
        partial.replace(self._path(digest))


def prompt_digest(prompt: Tensor | None) -> str:
    """Return a name that is equal for prompts of equal features.

    The order of a layer's tokens is left out: they carry no position embedding, so features do
    not depend on it, and fits permute them. A prompt of no tokens is no prompt.

    Args:
        prompt: None or (L, P, D).
    """
    if prompt is None or prompt.shape[1] == 0:
        return NO_PROMPT
    array = prompt.detach().cpu().float().numpy() + np.float32(0.0)  # -0.0 becomes 0.0
    blake2b = hashlib.blake2b(str(array.shape).encode(), digest_size=_DIGEST_BYTES)
    for layer in array:
        for token in sorted(token.tobytes() for token in layer):
            blake2b.update(token)
    return blake2b.hexdigest()


def image_digests(pixels: Tensor) -> list[bytes]:
    """Return the BLAKE2b digest of each of the images (N, 3, H, W)."""
    arrays = pixels.cpu().contiguous().numpy()
    return [hashlib.blake2b(image, digest_size=_DIGEST_BYTES).digest() for image in arrays]


def _merged(rows: _Rows, names: Sequence[bytes], features: Tensor) -> _Rows:
    """Rows with others added; an image that is there already keeps its features."""
    start = len(rows.features)
    places = {name: start + i for i, name in enumerate(names)} | rows.places
    together = torch.cat((rows.features, features)) if start else features
    return _Rows(places, together)
