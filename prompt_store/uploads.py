"""What a prompt may be uploaded as."""

from pathlib import Path

from prompt_store.codec import (
    PROMPT_DTYPES,
    PROMPT_TENSORS,
    BackboneShape,
    PromptFile,
    PromptLimits,
    read_prompt,
)
from prompt_store.peft import import_peft, is_peft
from prompt_store.tensor_file import parse_tensor_file, read_limited
from prompt_store.vpt import VPT_TENSORS, import_vpt


def read_upload(
    source: bytes | Path, limits: PromptLimits, backbone: BackboneShape
) -> tuple[bytes, PromptFile]:
    """Read an uploaded prompt in any layout that is understood.

    Args:
        source: The uploaded bytes, or where they are.
        limits: What the upload may not exceed.
        backbone: What the prompt must fit.

    Returns:
        The bytes to store (the upload's own, or the importer's) and what they hold.

    Raises:
        PromptTooLargeError: The upload is above `max_bytes`; it was not read.
        InvalidPromptError: Anything else is wrong with it.
    """
    data = read_limited(source, limits.max_bytes)
    if is_peft(data):
        return import_peft(data, limits, backbone)
    file = parse_tensor_file(
        data,
        max_header_bytes=limits.max_header_bytes,
        dtypes=PROMPT_DTYPES,
        names=(*PROMPT_TENSORS, *VPT_TENSORS),
    )
    if any(name in file.specs for name in VPT_TENSORS):
        return import_vpt(data, limits, backbone)
    return data, read_prompt(data, limits, backbone)
