"""Import of prompts that Hugging Face's PEFT has saved.

`save_pretrained` of a model with prompt tuning leaves a folder with `adapter_model.safetensors`,
whose one tensor `prompt_embeddings` (P, D) holds the tokens before the first block, and
`adapter_config.json`. Both come together in a zip file; the README.md that PEFT writes beside them
is not looked at.

Such files name their base model, and say nothing of its weights. Without a `backbone_digest` in the
tensor file's metadata the backbone served here is assumed, provided that the shape fits, and the
label `backbone_digest_assumed` says so.
"""

import io
import json
import zipfile
from typing import Any, cast

from prompt_store.codec import (
    PROMPT_DTYPES,
    BackboneShape,
    PromptFile,
    PromptLimits,
    check_backbone_digest,
    check_prompt_shape,
    read_prompt,
    write_prompt,
)
from prompt_store.errors import InvalidPromptError, PromptTooLargeError
from prompt_store.names import digest_of, shown
from prompt_store.tensor_file import parse_tensor_file

MODEL, CONFIG = "adapter_model.safetensors", "adapter_config.json"
IGNORED = frozenset({"README.md"})
PEFT_TYPE = "PROMPT_TUNING"
MAX_CONFIG_BYTES = 65_536
MAX_ENTRIES = 16
_ZIP_MAGIC = b"PK\x03\x04"
_DIRECTORY_ENTRY = b"PK\x01\x02"
_TENSOR = "prompt_embeddings"
# zipfile inflates these two piece by piece; bzip2 and LZMA it would expand without a bound.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def is_peft(data: bytes) -> bool:
    """Whether an upload is a zip file, which is how adapters come."""
    return data.startswith(_ZIP_MAGIC)


def import_peft(
    data: bytes, limits: PromptLimits, backbone: BackboneShape
) -> tuple[bytes, PromptFile]:
    """Convert a zipped adapter; F16 stays F16, everything else becomes F32.

    Args:
        data: The zip file.
        limits: What neither the files in it nor the converted one may exceed.
        backbone: What the prompt must fit.

    Returns:
        The converted file's bytes and what they hold; the metadata keeps the original's digest.

    Raises:
        PromptTooLargeError: A file in it is above its limit.
        InvalidPromptError: A file is missing or damaged, the adapter is not one of prompt tuning,
            or as `read_prompt`.
    """
    model, config = _unpack(data, limits)
    file = parse_tensor_file(
        model, max_header_bytes=limits.max_header_bytes, dtypes=PROMPT_DTYPES, names=(_TENSOR,)
    )
    if _TENSOR not in file.specs:
        raise InvalidPromptError(f"{MODEL} holds no {_TENSOR}", field=_TENSOR)
    shape = file.specs[_TENSOR].shape
    _check_config(config, shape)
    assumed = {"backbone_digest": backbone.digest, "backbone_digest_assumed": "true"}
    metadata = {
        **({} if "backbone_digest" in file.metadata else assumed),
        **_base_model(config),
        **file.metadata,
        "original_format": "peft",
        "original_digest": digest_of(data),
    }
    check_backbone_digest(metadata, backbone)
    check_prompt_shape(_TENSOR, (1, *shape), limits, backbone)
    prompt = PromptFile(prompt_embeddings=file.arrays()[_TENSOR][None], metadata=metadata)
    is_f16 = file.specs[_TENSOR].dtype == "F16"
    converted = write_prompt(prompt, "F16" if is_f16 else "F32", limits=limits)
    return converted, read_prompt(converted, limits, backbone)


def _unpack(data: bytes, limits: PromptLimits) -> tuple[bytes, dict[str, Any]]:
    """The tensor file's bytes and the parsed configuration."""
    num_entries = data.count(_DIRECTORY_ENTRY)  # before zipfile makes objects of them
    if num_entries > MAX_ENTRIES:
        raise InvalidPromptError(
            f"the zip file has {num_entries} entries; the limit is {MAX_ENTRIES}",
            field="file",
            limit=MAX_ENTRIES,
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_names(archive.namelist())
            model = _read(archive, MODEL, limits.max_bytes)
            config = _read(archive, CONFIG, MAX_CONFIG_BYTES)
    except InvalidPromptError:
        raise
    # zipfile raises nearly anything on a damaged or encrypted file.
    except Exception as error:
        raise InvalidPromptError(
            f"the zip file cannot be read: {shown(str(error))}", field="file"
        ) from error
    return model, _parsed(config)


def _check_names(names: list[str]) -> None:
    for name in (MODEL, CONFIG):
        if names.count(name) != 1:
            raise InvalidPromptError(
                f"the zip file holds {name} {names.count(name)} times; a PEFT adapter has "
                f"{MODEL} and {CONFIG} once, not in a folder",
                field=name,
            )
    others = set(names) - {MODEL, CONFIG} - IGNORED
    if others:
        raise InvalidPromptError(
            f"the zip file holds {shown(min(others))}, which no PEFT adapter has", field="file"
        )


def _read(archive: zipfile.ZipFile, name: str, max_bytes: int) -> bytes:
    """Unpack one entry, whatever size its header claims."""
    method = archive.getinfo(name).compress_type
    if method not in _METHODS:
        raise InvalidPromptError(
            f"{name} is compressed with method {method}; stored and deflated are read", field=name
        )
    with archive.open(name) as entry:
        content = entry.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise PromptTooLargeError(
            f"{name} has more than {max_bytes} bytes, which is the limit",
            field=name,
            limit=max_bytes,
        )
    return content


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidPromptError(
            f"{CONFIG} is not JSON: {shown(str(error))}", field=CONFIG
        ) from error
    if not isinstance(config, dict):
        raise InvalidPromptError(f"{CONFIG} is not a JSON object", field=CONFIG)
    return cast("dict[str, Any]", config)


def _check_config(config: dict[str, Any], shape: tuple[int, ...]) -> None:
    """Check that the adapter is a prompt, of as many tokens as its configuration says."""
    peft_type = config.get("peft_type")
    if peft_type != PEFT_TYPE:
        raise InvalidPromptError(
            f"peft_type is {shown(peft_type)}; only {PEFT_TYPE} is a prompt that can be used",
            field="peft_type",
        )
    if len(shape) != 2:  # noqa: PLR2004 - (P, D)
        raise InvalidPromptError(
            f"{_TENSOR} has {len(shape)} dimensions; PEFT's has 2, (P, D)", field=_TENSOR
        )
    for key, extent in (("num_virtual_tokens", shape[0]), ("token_dim", shape[1])):
        declared = config.get(key)
        if declared is not None and declared != extent:
            raise InvalidPromptError(
                f"{key} is {shown(declared)}, but {_TENSOR} is {list(shape)}", field=key
            )


def _base_model(config: dict[str, Any]) -> dict[str, str]:
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        return {}
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InvalidPromptError(
            f"base_model_name_or_path is not Unicode text: {shown(name)}",
            field="base_model_name_or_path",
        ) from error
    return {"base_model": name}
