"""Source prompts as the registry keeps them."""

import torch
from torch import Tensor

from prompt_store.blobs import BlobStore
from prompt_store.codec import BackboneShape, PromptLimits, read_prompt


def stored_prompt(blobs: BlobStore, digest: str, shape: BackboneShape | None = None) -> Tensor:
    """Return a prompt (L, P, D), float32.

    Its size was checked when it was stored, by a service that may have had another limit.

    Args:
        blobs: Where it is.
        digest: Of its file.
        shape: The backbone that it must fit, if any.

    Raises:
        NotFoundError, DigestMismatchError: It is gone or damaged.
        InvalidPromptError: It does not fit the backbone.
    """
    data = blobs.get_bytes(digest)
    file = read_prompt(data, PromptLimits(max_bytes=len(data)), shape)
    return torch.from_numpy(file.prompt_embeddings)
