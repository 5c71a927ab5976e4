from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prompt_store.blobs import BlobStore
from prompt_store.codec import PromptFile, PromptLimits, read_prompt, write_prompt
from prompt_store.errors import ConflictError, NameInvalidError, NotFoundError
from prompt_store.manifests import PromptManifest
from prompt_store.names import digest_of
from prompt_store.registry import PromptRegistry, TaskRegistry
from prompt_store.splits import Share, Split

MakePrompt = Callable[..., tuple[bytes, PromptFile]]


def test_a_manifest_says_what_the_file_holds(
    prompts: PromptRegistry, blobs: BlobStore, clock: Callable[[], object], make_prompt: MakePrompt
) -> None:
    _, prompt = make_prompt(
        backbone="vit", classes='["cat","dog"]', license="MIT", site="north", original_format="vpt"
    )
    prompt = replace(prompt, head_weight=np.ones((2, 6), np.float32))
    data = write_prompt(prompt, "F16")
    manifest, created = prompts.put("pets", data, read_prompt(data, PromptLimits()))
    assert created
    assert manifest == PromptManifest(
        name="pets",
        version=1,
        digest=digest_of(data),
        size_bytes=len(data),
        created_at=clock(),
        backbone="vit",
        backbone_digest=prompt.metadata["backbone_digest"],
        num_prompt_tokens=4,
        prompt_depth=1,
        embed_dim=6,
        dtype="F16",
        classes=("cat", "dog"),
        has_head=True,
        labels={"site": "north"},
        license="MIT",
        original_format="vpt",
    )
    assert prompts.get("pets") == prompts.resolve("pets@1") == manifest
    assert blobs.get_bytes(manifest.digest) == data


def test_a_manifest_needs_only_what_every_file_has(
    prompts: PromptRegistry, make_prompt: MakePrompt
) -> None:
    manifest, _ = prompts.put("plain", *make_prompt())
    assert (manifest.backbone, manifest.classes, manifest.license) == ("", None, None)
    assert (manifest.has_head, manifest.labels, manifest.original_digest) == (False, {}, None)


def test_content_may_come_as_a_file(
    prompts: PromptRegistry, blobs: BlobStore, make_prompt: MakePrompt, tmp_path: Path
) -> None:
    data, prompt = make_prompt()
    (tmp_path / "upload").write_bytes(data)
    manifest, _ = prompts.put("a", tmp_path / "upload", prompt)
    assert blobs.get_bytes(manifest.digest) == data
    assert prompts.put("a", data, prompt) == (manifest, False)


def test_nothing_is_stored_under_a_malformed_name(
    root: Path, prompts: PromptRegistry, tasks: TaskRegistry, make_prompt: MakePrompt
) -> None:
    with pytest.raises(NameInvalidError):
        prompts.put("../a", *make_prompt())
    with pytest.raises(NameInvalidError):
        tasks.put("../a", root, format="zip", classes=(), counts=())
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_lists_filter_by_label_and_backbone(
    prompts: PromptRegistry, make_prompt: MakePrompt
) -> None:
    prompts.put("a", *make_prompt(1, site="north", backbone="vit"))
    prompts.put("b", *make_prompt(2, site="south"))
    prompts.put("c", *make_prompt(3))
    digest = prompts.get("c").backbone_digest

    def names(**filters: str) -> list[str]:
        return [manifest.name for manifest in prompts.list(**filters).items]

    assert names() == names(backbone=digest) == ["a", "b", "c"]
    assert names(label="site") == ["a", "b"]
    assert names(label="site=south") == ["b"]
    assert names(label="site=") == []
    assert names(backbone="vit") == names(backbone="vit", label="site=north") == ["a"]
    assert names(backbone="vit", label="site=south") == []


def test_deleting_keeps_the_content_for_those_who_refer_to_it(
    prompts: PromptRegistry, blobs: BlobStore, make_prompt: MakePrompt
) -> None:
    data, prompt = make_prompt()
    manifest, _ = prompts.put("a", data, prompt)
    prompts.delete("a")
    with pytest.raises(NotFoundError):
        prompts.resolve("a")
    assert prompts.list().items == ()
    assert blobs.get_bytes(manifest.digest) == data


def test_threads_that_put_one_name_get_distinct_versions(
    prompts: PromptRegistry, blobs: BlobStore, make_prompt: MakePrompt
) -> None:
    uploads = [make_prompt(seed) for seed in range(12)]
    with ThreadPoolExecutor(6) as pool:
        manifests = [m for m, _ in pool.map(lambda upload: prompts.put("a", *upload), uploads)]
    assert sorted(manifest.version for manifest in manifests) == list(range(1, 13))
    for (data, _), manifest in zip(uploads, manifests, strict=True):
        assert prompts.get("a", manifest.version) == manifest
        assert blobs.get_bytes(manifest.digest) == data


def test_threads_that_put_the_same_bytes_make_one_version(
    prompts: PromptRegistry, make_prompt: MakePrompt
) -> None:
    upload = make_prompt()
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: prompts.put("a", *upload), range(12)))
    assert {manifest.version for manifest, _ in answers} == {1}
    assert [created for _, created in answers].count(True) == 1
    assert len(prompts.versions("a").items) == 1


def test_a_task_is_described_and_resolved(
    tasks: TaskRegistry, blobs: BlobStore, tmp_path: Path
) -> None:
    archive = tmp_path / "pets.zip"
    archive.write_bytes(b"PK...")
    fields = {"format": "zip", "classes": ["cat", "dog"], "counts": [3, 4]}
    manifest, created = tasks.put("pets", archive, **fields)
    assert created
    assert (manifest.version, manifest.num_images, manifest.size_bytes) == (1, 7, 5)
    assert (manifest.classes, manifest.counts, manifest.format) == (("cat", "dog"), (3, 4), "zip")
    assert tasks.put("pets", archive, **fields) == (manifest, False)
    assert tasks.get("pets") == tasks.resolve(manifest.digest) == manifest
    assert tasks.versions("pets").items == tasks.list().items == (manifest,)
    assert blobs.get_bytes(manifest.digest) == b"PK..."
    tasks.delete("pets")
    assert tasks.list().items == ()


def test_prompts_and_tasks_do_not_see_each_other(
    prompts: PromptRegistry, tasks: TaskRegistry, make_prompt: MakePrompt
) -> None:
    manifest, _ = prompts.put("a", *make_prompt())
    with pytest.raises(NotFoundError, match="a is not in tasks"):
        tasks.get("a")
    with pytest.raises(NotFoundError):
        tasks.resolve(manifest.digest)


def test_an_alias_of_a_prompt_resolves_to_what_it_points_at_now(
    prompts: PromptRegistry, make_prompt: MakePrompt
) -> None:
    first, _ = prompts.put("a", *make_prompt(1))
    second, _ = prompts.put("a", *make_prompt(2))
    with pytest.raises(NotFoundError, match="a in prompts has no alias prod"):
        prompts.resolve("a@prod")
    prompts.aliases.move("a", "prod", Split.only(1), lambda now: now is None)
    assert prompts.resolve("a@prod") == first
    prompts.aliases.move("a", "prod", Split.only(2), lambda now: now == 1)
    assert prompts.resolve("a@prod") == second
    halves = Split.of([Share(version=1, weight=0.5), Share(version=2, weight=0.5)])
    prompts.aliases.move("a", "both", halves, lambda now: now is None)
    with pytest.raises(ConflictError, match="a@both in prompts is for several versions"):
        prompts.resolve("a@both")


def test_the_aliases_of_a_deleted_prompt_are_gone(
    prompts: PromptRegistry, make_prompt: MakePrompt
) -> None:
    prompts.put("a", *make_prompt(1))
    prompts.aliases.move("a", "prod", Split.only(1), lambda now: now is None)
    prompts.delete("a")
    again, _ = prompts.put("a", *make_prompt(1))
    with pytest.raises(NotFoundError, match="no longer an alias prod"):
        prompts.resolve("a@prod")
    prompts.aliases.move("a", "prod", Split.only(again.version), lambda now: now is None)
    assert prompts.resolve("a@prod") == again


def test_tasks_have_no_aliases(tasks: TaskRegistry) -> None:
    with pytest.raises(NameInvalidError, match="pets@prod: there are no aliases in tasks"):
        tasks.resolve("pets@prod")
