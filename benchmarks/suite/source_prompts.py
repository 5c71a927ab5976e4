"""The source prompts of a target task."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from backbones.info import BackboneInfo
from benchmarks.suite.errors import SuiteError
from benchmarks.suite.task_groups import GROUPS, share_images
from prompt_store.codec import BackboneShape, PromptLimits, read_prompt


@dataclass(frozen=True)
class SourcePrompt:
    """A trained prompt (L, P, D) as its file holds it.

    Attributes:
        name: The file's name without its suffix.
        task: The task it was trained on.
        digest: sha256 of the file, in hexadecimal.
        prompt: (L, P, D), float32.
    """

    name: str
    task: str
    digest: str
    prompt: Tensor


def load_source_prompts(
    folder: Path, backbone: BackboneInfo, tasks: Collection[str]
) -> list[SourcePrompt]:
    """Read all `*.safetensors` of a folder, by name.

    Which target a prompt must not serve follows from the name of its task alone, so that has to be
    a name that the suite knows.

    Args:
        folder: Of the files; each says in its metadata, or else by its name, what its task is.
        backbone: That they are for.
        tasks: Names that are known besides those of `task_groups`.

    Raises:
        SuiteError: There is none, or one says a task that is not known.
        PromptStoreError: One is invalid or was trained on another backbone.
    """
    shape = BackboneShape(
        digest=backbone.digest, embed_dim=backbone.embed_dim, depth=backbone.depth
    )
    prompts: list[SourcePrompt] = []
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        file = read_prompt(data, PromptLimits(), shape)
        task = file.metadata.get("task", path.stem)
        if task not in GROUPS and task not in tasks:
            known = ", ".join(sorted({*GROUPS, *tasks}))
            raise SuiteError(
                f"{path} was trained on the task {task!r}, which this suite does not know, so "
                "which targets have the same images cannot be told. Train it with "
                f"`--task-name TASK`; prompt and file may have any name. Known tasks: {known}"
            )
        prompts.append(
            SourcePrompt(
                name=path.stem,
                task=task,
                digest=hashlib.sha256(data).hexdigest(),
                prompt=torch.from_numpy(file.prompt_embeddings),
            )
        )
    if not prompts:
        raise SuiteError(f"{folder} holds no *.safetensors; at least 1 source prompt is needed")
    return prompts


def allowed_sources(target: str, prompts: Sequence[SourcePrompt]) -> list[SourcePrompt]:
    """Return the prompts that have not seen the target's images."""
    return [p for p in prompts if not share_images(p.task, target)]


def draw_sources(
    target: str, prompts: Sequence[SourcePrompt], num_sources: int, seed: int
) -> list[SourcePrompt]:
    """Draw M of the allowed sources; the draws of one seed are nested.

    The order is that of a hash of seed, target and name, so another prompt in the folder does
    not reorder the rest.

    Raises:
        SuiteError: Fewer than `num_sources` are allowed.
    """
    allowed = allowed_sources(target, prompts)
    if len(allowed) < num_sources:
        raise SuiteError(f"{target}: {len(allowed)} sources are allowed, {num_sources} are needed")

    def place(prompt: SourcePrompt) -> bytes:
        return hashlib.blake2b(f"{seed}/{target}/{prompt.name}".encode()).digest()

    return sorted(allowed, key=place)[:num_sources]
