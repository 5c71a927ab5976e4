import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import FrameType

import pytest

from prompt_store.durable_files import TEMPORARY_FOLDER
from prompt_store.errors import NameInvalidError, NotFoundError, StoreUnavailableError
from prompt_store.objects import ObjectStore, open_object_store
from prompt_store.store_identity import PREFIX

BAD_KEYS = ["", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", ".tmp/x", "a b", "a\n", "a" * 513]


def test_an_object_is_created_once(objects: ObjectStore) -> None:
    assert objects.put_new("a/b@3.json", b"first")
    assert not objects.put_new("a/b@3.json", b"second")
    assert objects.get("a/b@3.json") == b"first"
    assert objects.size("a/b@3.json") == 5


def test_a_file_is_stored_as_its_bytes_are(objects: ObjectStore, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "source").write_bytes(content)
    assert objects.put_file("big", tmp_path / "source")
    assert not objects.put_file("big", tmp_path / "source")
    assert b"".join(objects.chunks("big")) == content


def test_an_empty_object_is_an_object(objects: ObjectStore) -> None:
    assert objects.put_new("empty", b"")
    assert objects.get("empty") == b""
    assert objects.size("empty") == 0


def test_what_is_missing_is_named(objects: ObjectStore) -> None:
    with pytest.raises(NotFoundError, match="no object nothing/here"):
        objects.get("nothing/here")
    with pytest.raises(NotFoundError, match="no object nothing/here"):
        list(objects.chunks("nothing/here"))
    assert objects.size("nothing/here") is None


def test_keys_are_listed_sorted_below_a_folder(objects: ObjectStore) -> None:
    for key in ("a/2", "a/10", "a/1/x", "ab/1", "b"):
        objects.put_new(key, b"")
    assert objects.list("a") == ["a/1/x", "a/10", "a/2"]
    assert objects.list("a", start_after="a/1/x") == ["a/10", "a/2"]
    assert objects.list("a", start_after="a/1/x", limit=1) == ["a/10"]
    assert objects.list("nothing") == []


def test_children_are_folders_only(objects: ObjectStore) -> None:
    for key in ("a/y/1", "a/x/1", "a/x/2", "a/file"):
        objects.put_new(key, b"")
    assert objects.children("a") == ["x", "y"]
    assert objects.children("nothing") == []


def test_what_cannot_be_a_key_is_not_listed(root: Path, objects: ObjectStore) -> None:
    objects.put_new("a/x/1", b"")
    for stray in ("a/x/2#1", "a/x/.DS_Store", "a/x/no key", "a/.snapshot/1", "a/y#1/1"):
        (root / stray).parent.mkdir(exist_ok=True)
        (root / stray).write_bytes(b"")
    assert objects.list("a") == ["a/x/1"]
    assert objects.children("a") == ["x"]
    assert objects.list("a/x/1") == objects.children("a/x/1") == []


def test_listing_asks_nothing_of_each_entry(objects: ObjectStore, root: Path) -> None:
    """The names are enough, and every look at a file takes longer than reading its name."""
    objects.put_new("a/first/1", b"")
    for number in range(2000):
        (root / f"a/{number:08d}").mkdir()
        (root / f"a/first/{number:08d}.json").write_bytes(b"")
    looks: list[str] = []

    def record(_: FrameType, event: str, function: object) -> None:
        if event == "c_call":
            looks.append(getattr(function, "__name__", ""))

    sys.setprofile(record)
    try:
        assert len(objects.list("a/first")) == 2001
        assert len(objects.children("a")) == 2001
    finally:
        sys.setprofile(None)
    assert looks.count("scandir") == 2
    assert not {"stat", "lstat", "list_with_delimiter"} & set(looks)


def test_a_mark_can_be_deleted_twice(objects: ObjectStore) -> None:
    objects.put_new("mark", b"")
    objects.delete("mark")
    objects.delete("mark")
    assert objects.size("mark") is None


@pytest.mark.parametrize("key", BAD_KEYS)
def test_malformed_keys_reach_no_file(objects: ObjectStore, key: str) -> None:
    for call in (objects.get, objects.size, objects.list, objects.children, objects.delete):
        with pytest.raises(NameInvalidError, match="is not segments of"):
            call(key)
    with pytest.raises(NameInvalidError, match="is not segments of"):
        objects.put_new(key, b"")


def test_of_many_threads_one_creates(objects: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: objects.put_new("k", b"%d" % n), range(32)))
    assert won.count(True) == 1
    assert objects.get("k") == b"%d" % won.index(True)


@pytest.mark.parametrize(
    "url", ["", "/data", "s3://bucket/x", "memory:///", "file://", "file:///", "file://host/data"]
)
def test_other_urls_are_refused_by_name(url: str) -> None:
    with pytest.raises(StoreUnavailableError, match="is not of the form file:///absolute/folder"):
        open_object_store(url)


def test_a_url_may_hold_escapes(tmp_path: Path) -> None:
    root = tmp_path / "with space"
    open_object_store(root.as_uri()).put_new("a", b"x")
    assert (root / "a").read_bytes() == b"x"


def test_a_store_that_is_a_file_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailableError, match="cannot open"):
        open_object_store((tmp_path / "file").as_uri())


def test_opening_probes_and_leaves_nothing_behind(root: Path, objects: ObjectStore) -> None:
    assert objects.list("probes") == []
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_the_probe_refuses_a_store_that_overwrites(root: Path) -> None:
    class OverwritingStore(ObjectStore):
        """Behaves as some S3 gateways do: the condition is ignored."""

        def put_new(self, key: str, data: bytes) -> bool:
            path = root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            return True

    root.mkdir()
    with pytest.raises(StoreUnavailableError, match=r"overwrites existing objects.*\(True, True\)"):
        OverwritingStore(root).probe()


def test_opening_removes_what_killed_writers_left_a_day_ago(
    root: Path, objects: ObjectStore
) -> None:
    objects.put_new("a", b"")
    left = root / TEMPORARY_FOLDER / "put-left"
    left.write_bytes(b"half")
    open_object_store(root.as_uri())
    assert left.exists()
    os.utime(left, (1, 1))
    open_object_store(root.as_uri())
    assert not left.exists()


def test_a_store_that_vanished_is_unavailable(tmp_path: Path) -> None:
    store = open_object_store((tmp_path / "s").as_uri())
    shutil.rmtree(tmp_path / "s")
    (tmp_path / "s").write_bytes(b"")
    with pytest.raises(StoreUnavailableError, match="cannot write a/b"):
        store.put_new("a/b", b"")


def test_nothing_is_written_or_missing_while_the_volume_is_not_mounted(
    root: Path, objects: ObjectStore
) -> None:
    objects.put_new("a/b", b"kept")
    objects.put_new("mark", b"")
    root.rename(root.with_name("volume"))
    root.mkdir()  # the mount point
    calls: list[Callable[[], object]] = [
        objects.probe,
        partial(objects.put_new, "c", b""),
        partial(objects.mend, "a/b", lambda file: file.write(b"")),
        partial(objects.sync, "a/b"),
        partial(objects.get, "a/b"),
        lambda: list(objects.chunks("a/b")),
        partial(objects.size, "a/b"),
        partial(objects.list, "a"),
        partial(objects.children, "a"),
        partial(objects.delete, "mark"),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailableError, match="volume is not mounted"):
            call()
    assert list(root.iterdir()) == []
    root.rmdir()
    for call in calls:
        with pytest.raises(StoreUnavailableError, match="volume is not mounted"):
            call()
    assert not root.exists()
    root.with_name("volume").rename(root)
    objects.probe()
    assert objects.get("a/b") == b"kept"
    assert objects.size("mark") == 0


def test_the_folders_that_lead_to_a_new_store_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    root = tmp_path / "var" / "lib" / "store"
    open_object_store(root.as_uri())
    assert {tmp_path, tmp_path / "var", tmp_path / "var/lib", root} <= set(synced)
    synced.clear()
    open_object_store(root.as_uri())  # it has its identity, so they are on the disk
    assert root in synced
    assert root.parent not in synced


def test_another_store_in_its_place_is_not_written_to(root: Path, objects: ObjectStore) -> None:
    root.rename(root.with_name("volume"))
    open_object_store(root.as_uri()).put_new("other", b"")
    with pytest.raises(StoreUnavailableError, match="or another one is"):
        objects.put_new("a", b"")


def test_a_store_from_before_identities_gets_one(root: Path) -> None:
    (root / "prompts").mkdir(parents=True)
    (root / "prompts" / "a").write_bytes(b"old")
    for _ in range(2):
        assert open_object_store(root.as_uri()).get("prompts/a") == b"old"
    assert len(list(root.glob(f"{PREFIX}*"))) == 1


def test_processes_that_open_a_new_store_at_once_share_it(root: Path) -> None:
    script = """if True:
        import sys
        from prompt_store.objects import open_object_store
        input()
        objects = open_object_store(sys.argv[1])
        objects.put_new(sys.argv[2], b"")
        input()
        objects.put_new(sys.argv[2] + "-later", b"")"""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", script, root.as_uri(), f"all/{number}"],
            stdin=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        racer.communicate("go\n")
    assert [racer.returncode for racer in racers] == [0] * 4
    assert len(open_object_store(root.as_uri()).list("all")) == 8
