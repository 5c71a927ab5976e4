"""The registries of prompts and of tasks: what a name, a version or a digest stands for."""

from collections.abc import Sequence
from pathlib import Path

from prompt_store.aliases import AliasBook
from prompt_store.blobs import BlobStore
from prompt_store.clock import Clock
from prompt_store.codec import PromptFile
from prompt_store.errors import ConflictError, NotFoundError
from prompt_store.manifests import Manifest, Page, PromptManifest, TaskManifest
from prompt_store.names import AliasReference, check_name, parse_reference
from prompt_store.objects import ObjectStore
from prompt_store.version_series import Entry, Expected, VersionSeries, whatever


class PromptRegistry:
    """Source prompts by name, version and digest.

    Args:
        objects: Where manifests are kept.
        blobs: Where contents are kept.
        clock: Tells when a version was created.

    Attributes:
        aliases: Movable names, each for one version; they are gone when the prompt is deleted.
    """

    def __init__(self, objects: ObjectStore, blobs: BlobStore, clock: Clock) -> None:
        self._blobs = blobs
        self._clock = clock
        self._series = VersionSeries(objects, "prompts", Entry[PromptManifest])
        self.aliases = AliasBook(objects, "prompts", clock, self._lives)

    def check(self, name: str, expected: Expected) -> None:
        """Look whether a `put` would be refused. Raises `PreconditionFailedError` if so."""
        self._series.check(check_name(name), expected)

    def put(
        self,
        name: str,
        content: bytes | Path,
        prompt: PromptFile,
        expected: Expected = whatever,
    ) -> tuple[PromptManifest, bool]:
        """Store a checked prompt file as the next version of `name`.

        Args:
            name: `[a-z0-9][a-z0-9._-]{0,63}`.
            content: The file's bytes, or where they are.
            prompt: What `read_upload` (or `read_prompt`) made of them.
            expected: The latest version, if the caller cares.

        Returns:
            The manifest, and False if a living version of `name` has the very same bytes: the
            manifest is then that version's. Both are on the disk.

        Raises:
            NameInvalidError: The name is malformed; nothing is stored.
            PreconditionFailedError: The latest version is not the expected one.
            ConflictError, StoreFullError, StoreUnavailableError: Nothing was acknowledged.
        """
        check_name(name)
        digest = _put_blob(self._blobs, content)
        size_bytes = self._blobs.size_bytes(digest)

        def build(version: int) -> PromptManifest:
            identity = Manifest(
                name=name,
                version=version,
                digest=digest,
                size_bytes=size_bytes,
                created_at=self._clock(),
            )
            return _describe(prompt, identity)

        return self._series.create(name, digest, build, expected)

    def get(self, name: str, version: int | None = None) -> PromptManifest:
        """Return a version, the latest by default. Raises `NotFoundError`, `NameInvalidError`."""
        return self._series.get(name, version)

    def versions(self, name: str, *, after: int = 0, limit: int = 100) -> Page[PromptManifest]:
        """Return the living versions above `after`, oldest first. Raises `NotFoundError`."""
        return self._series.versions(name, after=after, limit=limit)

    def list(
        self,
        *,
        cursor: str | None = None,
        limit: int = 100,
        label: str | None = None,
        backbone: str | None = None,
    ) -> Page[PromptManifest]:
        """Return the latest version of each name, in order of names.

        Args:
            cursor: `next_cursor` of the page before.
            limit: At most so many, at least 1.
            label: Only prompts whose free metadata has this `key`, or this `key=value`.
            backbone: Only prompts of the backbone with this name or digest.
        """

        def keep(manifest: PromptManifest) -> bool:
            return (
                backbone is None or backbone in (manifest.backbone, manifest.backbone_digest)
            ) and (label is None or _has_label(manifest.labels, label))

        return self._series.page(cursor, limit, keep)

    def resolve(self, reference: str) -> PromptManifest:
        """Return what `name`, `name@3`, `name@alias` or `sha256:<hex>` stands for now.

        Raises:
            NotFoundError: Nothing, or it has been deleted.
            NameInvalidError: The reference has none of these forms.
        """
        parsed = parse_reference(reference)
        if not isinstance(parsed, AliasReference):
            return self._series.resolve(reference)
        split = self.aliases.current(parsed.name, parsed.alias).split
        if split is None or split.version is None:
            raise ConflictError(f"{parsed} in prompts is for several versions; a prompt is one")
        return self.get(parsed.name, split.version)

    def delete(self, name: str, expected: Expected = whatever) -> None:
        """Delete every version of `name`; contents stay for ensembles that were made from them.

        A later `put` continues the numbering. Raises `NotFoundError` if there is nothing,
        `PreconditionFailedError` if the latest version is not the expected one.
        """
        self._series.delete(name, self._clock(), expected)

    def _lives(self, name: str, version: int) -> bool:
        try:
            self._series.get(name, version)
        except NotFoundError:
            return False
        return True


class TaskRegistry:
    """Labelled target images by name, version and digest; the arguments are a prompt registry's."""

    def __init__(self, objects: ObjectStore, blobs: BlobStore, clock: Clock) -> None:
        self._blobs = blobs
        self._clock = clock
        self._series = VersionSeries(objects, "tasks", Entry[TaskManifest])

    def check(self, name: str, expected: Expected) -> None:
        """Look whether a `put` would be refused. Raises `PreconditionFailedError` if so."""
        self._series.check(check_name(name), expected)

    def put(
        self,
        name: str,
        path: Path,
        *,
        format: str,  # noqa: A002 - the field's name in the manifest
        classes: Sequence[str],
        counts: Sequence[int],
        expected: Expected = whatever,
    ) -> tuple[TaskManifest, bool]:
        """Store a checked archive as the next version of `name`.

        Args:
            name: `[a-z0-9][a-z0-9._-]{0,63}`.
            path: The archive, which nobody writes to meanwhile.
            format: What the archive's reader calls its format.
            classes: Class names in index order.
            counts: Images of each class, in the same order.
            expected: The latest version, if the caller cares.

        Returns:
            The manifest, and False if a living version has the same bytes, as for prompts.

        Raises:
            NameInvalidError: The name is malformed; nothing is stored.
            PreconditionFailedError: The latest version is not the expected one.
            ConflictError, StoreFullError, StoreUnavailableError: Nothing was acknowledged.
        """
        check_name(name)
        digest = self._blobs.put_file(path)
        size_bytes = self._blobs.size_bytes(digest)

        def build(version: int) -> TaskManifest:
            return TaskManifest(
                name=name,
                version=version,
                digest=digest,
                size_bytes=size_bytes,
                created_at=self._clock(),
                format=format,
                classes=tuple(classes),
                counts=tuple(counts),
                num_images=sum(counts),
            )

        return self._series.create(name, digest, build, expected)

    def get(self, name: str, version: int | None = None) -> TaskManifest:
        """Return a version, the latest by default. Raises `NotFoundError`, `NameInvalidError`."""
        return self._series.get(name, version)

    def versions(self, name: str, *, after: int = 0, limit: int = 100) -> Page[TaskManifest]:
        """Return the living versions above `after`, oldest first. Raises `NotFoundError`."""
        return self._series.versions(name, after=after, limit=limit)

    def list(self, *, cursor: str | None = None, limit: int = 100) -> Page[TaskManifest]:
        """Return the latest version of each name, in order of names, at most `limit` (≥ 1)."""
        return self._series.page(cursor, limit, lambda _: True)

    def resolve(self, reference: str) -> TaskManifest:
        """Return what `name`, `name@3` or `sha256:<hex>` stands for now; as for prompts."""
        return self._series.resolve(reference)

    def delete(self, name: str, expected: Expected = whatever) -> None:
        """Delete every version of `name`, as for prompts; raises the same."""
        self._series.delete(name, self._clock(), expected)


def _put_blob(blobs: BlobStore, content: bytes | Path) -> str:
    return blobs.put_file(content) if isinstance(content, Path) else blobs.put_bytes(content)


def _has_label(labels: dict[str, str], wanted: str) -> bool:
    key, separator, value = wanted.partition("=")
    return key in labels and (not separator or labels[key] == value)


def _describe(prompt: PromptFile, identity: Manifest) -> PromptManifest:
    depth, num_prompt_tokens, embed_dim = prompt.prompt_embeddings.shape
    return PromptManifest(
        **dict(identity),
        backbone=prompt.metadata.get("backbone", ""),
        backbone_digest=prompt.metadata["backbone_digest"],
        num_prompt_tokens=num_prompt_tokens,
        prompt_depth=depth,
        embed_dim=embed_dim,
        dtype=prompt.dtype,
        classes=prompt.classes,
        has_head=prompt.head_weight is not None,
        labels=prompt.labels,
        license=prompt.metadata.get("license"),
        original_format=prompt.metadata.get("original_format"),
        original_digest=prompt.metadata.get("original_digest"),
    )
