import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from prompt_store.errors import (
    CorruptDocumentError,
    NameInvalidError,
    NotFoundError,
    PreconditionFailedError,
)
from prompt_store.manifests import Page, TaskManifest
from prompt_store.names import digest_of
from prompt_store.objects import ObjectStore
from prompt_store.version_series import Entry, VersionSeries
from tests.damage import leave_half

NOW = datetime(2026, 1, 2, tzinfo=UTC)
Put = Callable[[str, bytes], tuple[TaskManifest, bool]]


@pytest.fixture
def series(objects: ObjectStore) -> VersionSeries[TaskManifest]:
    return VersionSeries(objects, "tasks", Entry[TaskManifest])


def builder(name: str, content: bytes) -> Callable[[int], TaskManifest]:
    def build(version: int) -> TaskManifest:
        return TaskManifest(
            name=name,
            version=version,
            digest=digest_of(content),
            size_bytes=len(content),
            created_at=NOW,
            format="zip",
            classes=("a", "b"),
            counts=(1, 2),
            num_images=3,
        )

    return build


@pytest.fixture
def put(series: VersionSeries[TaskManifest]) -> Put:
    return lambda name, content: series.create(name, digest_of(content), builder(name, content))


def test_versions_count_from_one(series: VersionSeries[TaskManifest], put: Put) -> None:
    first, created = put("a", b"1")
    second, _ = put("a", b"2")
    other, _ = put("b", b"1")
    assert created
    assert (first.version, second.version, other.version) == (1, 2, 1)
    assert series.get("a") == second
    assert series.get("a", 1) == first
    assert series.versions("a") == Page(items=(first, second), next_cursor=None)
    assert series.versions("a", limit=1) == Page(items=(first,), next_cursor="1")
    assert series.versions("a", after=1, limit=1) == Page(items=(second,), next_cursor=None)


def test_identical_bytes_are_the_existing_version(put: Put) -> None:
    first, _ = put("a", b"1")
    put("a", b"2")
    assert put("a", b"1") == (first, False)


def test_deleting_hides_every_version_and_numbering_goes_on(
    series: VersionSeries[TaskManifest], put: Put
) -> None:
    put("a", b"1")
    put("a", b"2")
    series.delete("a", NOW)
    for call in (series.get, series.versions, series.resolve, lambda n: series.delete(n, NOW)):
        with pytest.raises(NotFoundError, match="a has been deleted from tasks"):
            call("a")
    with pytest.raises(NotFoundError, match="a has been deleted"):
        series.resolve("a@1")
    with pytest.raises(NotFoundError, match="nothing in tasks with digest"):
        series.resolve(digest_of(b"1"))

    again, created = put("a", b"1")
    assert (again.version, created) == (4, True)  # 3 marks the deletion
    assert series.versions("a").items == (again,)
    assert series.resolve(digest_of(b"1")) == again
    for gone in (1, 2, 3):
        with pytest.raises(NotFoundError, match=f"a@{gone} in tasks has been deleted"):
            series.get("a", gone)


def test_what_never_was_is_not_found(series: VersionSeries[TaskManifest], put: Put) -> None:
    put("a", b"1")
    with pytest.raises(NotFoundError, match="b is not in tasks"):
        series.get("b")
    with pytest.raises(NotFoundError, match="a@2 is not in tasks"):
        series.get("a", 2)
    with pytest.raises(NameInvalidError):
        series.get("a/../b")
    with pytest.raises(NameInvalidError, match="version 0 is not within"):
        series.get("a", 0)


def test_references_resolve(series: VersionSeries[TaskManifest], put: Put) -> None:
    first, _ = put("b", b"1")
    second, _ = put("b", b"2")
    twin, _ = put("a", b"2")
    assert series.resolve("b") == second
    assert series.resolve("b@1") == first
    assert series.resolve(digest_of(b"1")) == first
    assert series.resolve(digest_of(b"2")) == twin  # the first name answers
    series.delete("a", NOW)
    assert series.resolve(digest_of(b"2")) == second


def test_pages_follow_each_other_without_gap_or_repeat(
    series: VersionSeries[TaskManifest], put: Put
) -> None:
    names = [f"n{i}" for i in range(7)]
    for name in names:
        put(name, name.encode())
    series.delete("n3", NOW)
    for limit in range(1, 9):
        found, cursor = [], None
        while True:
            page = series.page(cursor, limit, lambda _: True)
            assert 1 <= len(page.items) <= limit
            found += [manifest.name for manifest in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert found == [name for name in names if name != "n3"]


def test_a_page_counts_only_what_is_kept(series: VersionSeries[TaskManifest], put: Put) -> None:
    for name in "abcd":
        put(name, name.encode())
    page = series.page(None, 1, lambda manifest: manifest.name in "bd")
    assert ([m.name for m in page.items], page.next_cursor) == (["b"], "b")
    page = series.page("b", 1, lambda manifest: manifest.name in "bd")
    assert ([m.name for m in page.items], page.next_cursor) == (["d"], None)
    assert series.page(None, 5, lambda _: False).items == ()
    with pytest.raises(NameInvalidError):
        series.page("not a cursor", 1, lambda _: True)


def test_an_index_without_its_version_is_not_believed(
    objects: ObjectStore, series: VersionSeries[TaskManifest], put: Put
) -> None:
    # What a writer leaves that was killed before its manifest, or that lost the race for number 1.
    digits = digest_of(b"lost").removeprefix("sha256:")
    objects.put_new(f"tasks-by-digest/{digits}/a/00000001", b"")
    objects.put_new(f"tasks-by-digest/{digits}/never/00000001", b"")
    with pytest.raises(NotFoundError):
        series.resolve(digest_of(b"lost"))
    put("a", b"won")
    with pytest.raises(NotFoundError):
        series.resolve(digest_of(b"lost"))
    retried, created = put("a", b"lost")
    assert (retried.version, created) == (2, True)
    assert series.resolve(digest_of(b"lost")) == retried


def test_a_lost_race_takes_the_next_number(series: VersionSeries[TaskManifest], put: Put) -> None:
    rivals = iter([b"r1", b"r2"])

    def build(version: int) -> TaskManifest:
        rival = next(rivals, None)
        if rival is not None:  # another writer comes in between looking and creating
            put("a", rival)
        return builder("a", b"mine")(version)

    mine, created = series.create("a", digest_of(b"mine"), build)
    assert (mine.version, created) == (3, True)


def test_a_race_lost_to_the_same_bytes_ends_in_the_rivals_version(
    series: VersionSeries[TaskManifest], put: Put
) -> None:
    def build(version: int) -> TaskManifest:
        put("a", b"same")
        return builder("a", b"same")(version)

    manifest, created = series.create("a", digest_of(b"same"), build)
    assert (manifest.version, created) == (1, False)
    assert len(series.versions("a").items) == 1


def test_stray_files_are_no_versions(
    root: Path, series: VersionSeries[TaskManifest], put: Put
) -> None:
    first, _ = put("a", b"1")
    (root / "tasks/a/versions/.DS_Store").write_bytes(b"")
    (root / "tasks/a/versions/notes.txt").write_bytes(b"")
    assert series.versions("a").items == (first,)
    assert put("a", b"2")[0].version == 2


def test_a_damaged_manifest_is_named(
    root: Path, series: VersionSeries[TaskManifest], put: Put
) -> None:
    put("a", b"1")
    path = root / "tasks/a/versions/00000001.json"
    document = json.loads(path.read_bytes())
    document["manifest"]["digest"] = "sha256:zz"
    path.chmod(0o644)
    path.write_text(json.dumps(document))
    with pytest.raises(CorruptDocumentError, match=r"versions/00000001.json .*manifest.digest"):
        series.get("a")


@pytest.mark.parametrize(
    "stored", [b"", b"\xff\x00", b'{"since": 0,', b'{"since": 0, "manifest": {}}']
)
def test_a_damaged_manifest_takes_no_other_one_out_of_the_lists(
    root: Path,
    series: VersionSeries[TaskManifest],
    put: Put,
    caplog: pytest.LogCaptureFixture,
    stored: bytes,
) -> None:
    for name, content in (("a", b"1"), ("b", b"2"), ("b", b"3"), ("c", b"4"), ("c", b"5")):
        put(name, content)
    for damaged in ("b/versions/00000002", "c/versions/00000001"):
        path = root / f"tasks/{damaged}.json"
        path.chmod(0o644)
        path.write_bytes(stored)

    def listed(cursor: str | None, limit: int = 100) -> tuple[list[str], str | None]:
        page = series.page(cursor, limit, lambda _: True)
        return [f"{item.name}@{item.version}" for item in page.items], page.next_cursor

    assert listed(None) == (["a@1", "c@2"], None)
    (record,) = caplog.records
    assert record.message.startswith("left out: the manifest of b@2 in tasks is damaged")
    assert listed(None, 1) == (["a@1"], "a")
    assert listed("a", 1) == (["c@2"], None)
    # What is damaged may be a deletion, so nothing of the name is shown.
    for call in (series.get, series.versions, partial(series.get, version=1)):
        with pytest.raises(CorruptDocumentError, match="manifest of b@2 in tasks is damaged"):
            call("b")
    caplog.clear()
    assert [item.version for item in series.versions("c").items] == [2]
    (record,) = caplog.records
    assert record.message.startswith("left out: the manifest of c@1 in tasks is damaged")
    with pytest.raises(CorruptDocumentError, match="manifest of c@1 in tasks is damaged"):
        series.get("c", 1)


def test_a_damaged_manifest_does_not_hide_whole_ones_of_its_digest(
    root: Path,
    series: VersionSeries[TaskManifest],
    put: Put,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("b", b"2"), ("c", b"1"), ("d", b"3")):
        put(name, content)
    for damaged in ("a", "b", "d"):
        leave_half(root / f"tasks/{damaged}/versions/00000001.json")
    assert series.resolve(digest_of(b"1")) == series.get("c")
    assert [record.message.partition(" is damaged")[0] for record in caplog.records] == [
        f"left out: the manifest of {name}@1 in tasks" for name in "ab"
    ]
    # Nobody else has what d@1 was, so that is not said to be missing.
    with pytest.raises(CorruptDocumentError, match="manifest of d@1 in tasks is damaged"):
        series.resolve(digest_of(b"3"))
    leave_half(root / "tasks/c/versions/00000001.json")
    with pytest.raises(CorruptDocumentError, match="manifest of a@1 in tasks is damaged"):
        series.resolve(digest_of(b"1"))


def test_the_bytes_of_a_damaged_version_can_be_put_again(
    root: Path, series: VersionSeries[TaskManifest], put: Put
) -> None:
    put("a", b"1")
    put("a", b"2")
    leave_half(root / "tasks/a/versions/00000001.json")
    again, created = put("a", b"1")
    assert (again.version, created) == (3, True)
    assert put("a", b"1") == (again, False)
    assert series.resolve(digest_of(b"1")) == again


def test_a_writer_who_expects_another_state_changes_nothing(
    series: VersionSeries[TaskManifest], put: Put, objects: ObjectStore
) -> None:
    seen: list[str | None] = []

    def refuse(current: str | None) -> bool:
        seen.append(current)
        return False

    def create() -> None:
        series.create("a", digest_of(b"2"), builder("a", b"2"), refuse)

    for call in (create, lambda: series.check("a", refuse)):
        with pytest.raises(PreconditionFailedError, match="a in tasks does not exist") as missing:
            call()
        assert missing.value.current is None
    assert objects.list("tasks") == []
    first, _ = put("a", b"1")
    before = objects.list("tasks")
    for call in (
        create,
        lambda: series.check("a", refuse),
        lambda: series.delete("a", NOW, refuse),
    ):
        with pytest.raises(PreconditionFailedError, match=f"a in tasks is {first.digest}") as lost:
            call()
        assert lost.value.current == first.digest
    assert seen == [None, None, first.digest, first.digest, first.digest]
    assert objects.list("tasks") == before
    series.delete("a", NOW)
    with pytest.raises(PreconditionFailedError, match="does not exist"):
        create()
    with pytest.raises(NotFoundError):
        series.delete("a", NOW, refuse)


def test_what_a_writer_expects_is_judged_again_after_a_lost_race(
    series: VersionSeries[TaskManifest], put: Put
) -> None:
    first, _ = put("a", b"1")

    def overtaken(current: str | None) -> bool:
        """The state is as expected when it is looked at, and not when it is written."""
        met = current == first.digest
        if met:
            put("a", b"2")
        return met

    with pytest.raises(PreconditionFailedError, match=digest_of(b"2")):
        series.create("a", digest_of(b"3"), builder("a", b"3"), overtaken)
    assert [version.digest for version in series.versions("a").items] == [
        digest_of(b"1"),
        digest_of(b"2"),
    ]


def test_a_deletion_is_judged_again_after_a_lost_race(
    series: VersionSeries[TaskManifest], put: Put
) -> None:
    first, _ = put("a", b"1")

    def overtaken(current: str | None) -> bool:
        met = current == first.digest
        if met:
            put("a", b"2")
        return met

    with pytest.raises(PreconditionFailedError, match=digest_of(b"2")):
        series.delete("a", NOW, overtaken)
    assert series.get("a").digest == digest_of(b"2")
