import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from prompt_store.aliases import AliasBook, Move
from prompt_store.errors import (
    CorruptDocumentError,
    NameInvalidError,
    NotFoundError,
    PreconditionFailedError,
    StoreUnavailableError,
)
from prompt_store.objects import ObjectStore, open_object_store
from prompt_store.splits import Share, Split
from tests.damage import leave_half

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent


def absent(now: int | None) -> bool:
    return now is None


def whatever(_: int | None) -> bool:
    return True


def at(number: int) -> Callable[[int | None], bool]:
    return lambda now: now == number


@pytest.fixture
def book(objects: ObjectStore, clock: Callable[[], object]) -> AliasBook:
    return AliasBook(objects, "ensembles", clock)


def numbers(book: AliasBook, alias: str = "prod") -> list[int]:
    return [move.number for move in book.history("zoo", alias, None, 1000).items]


def test_an_alias_is_created_moved_and_read(book: AliasBook, clock: Callable[..., object]) -> None:
    first, created = book.move("zoo", "prod", Split.only(1), absent)
    assert (first.number, created, first.moved_at) == (1, True, clock())
    clock.advance(seconds=5)
    second, created = book.move("zoo", "prod", Split.only(2), at(1))
    assert (second.number, created) == (2, False)
    assert second.moved_at - first.moved_at == timedelta(seconds=5)
    assert book.current("zoo", "prod") == second
    assert book.history("zoo", "prod", None, 10).items == (second, first)


def test_a_split_is_kept_as_it_is(book: AliasBook) -> None:
    split = Split.of([Share(version=2, weight=0.9), Share(version=3, weight=0.1)])
    book.move("zoo", "prod", split, absent)
    assert book.current("zoo", "prod").split == split


def test_a_condition_that_does_not_hold_changes_nothing(book: AliasBook, root: Path) -> None:
    for condition in (at(1), lambda now: now is not None):
        with pytest.raises(PreconditionFailedError, match=r"prod of zoo .* does not exist") as none:
            book.move("zoo", "prod", Split.only(1), condition)
        assert none.value.current is None
    book.move("zoo", "prod", Split.only(1), absent)
    before = sorted(root.rglob("*"))
    for condition in (absent, at(2), at(0)):
        with pytest.raises(PreconditionFailedError, match="is at move 1") as wrong:
            book.move("zoo", "prod", Split.only(2), condition)
        assert wrong.value.current == 1
    with pytest.raises(PreconditionFailedError):
        book.delete("zoo", "prod", at(2))
    assert sorted(root.rglob("*")) == before


def test_an_alias_that_points_there_already_is_left_as_it_is(book: AliasBook) -> None:
    first, _ = book.move("zoo", "prod", Split.only(1), absent)
    for condition in (at(1), whatever):
        assert book.move("zoo", "prod", Split.only(1), condition) == (first, False)
    with pytest.raises(PreconditionFailedError):
        book.move("zoo", "prod", Split.only(1), absent)
    assert numbers(book) == [1]


def test_a_move_that_is_there_already_is_brought_to_the_disk(
    book: AliasBook, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer may have been killed before it could make sure of this."""
    book.move("zoo", "prod", Split.only(1), absent)
    synced: list[Path] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    book.move("zoo", "prod", Split.only(1), whatever)
    assert root / "ensembles/zoo/aliases/prod" in synced


def test_a_deleted_alias_is_gone_and_its_numbers_go_on(book: AliasBook) -> None:
    book.move("zoo", "prod", Split.only(1), absent)
    book.delete("zoo", "prod", at(1))
    for call in (
        lambda: book.current("zoo", "prod"),
        lambda: book.delete("zoo", "prod", whatever),
    ):
        with pytest.raises(NotFoundError, match="zoo in ensembles has no longer an alias prod"):
            call()
    for stale in (at(1), at(2)):  # neither the old tag nor that of the deletion moves it
        with pytest.raises(PreconditionFailedError, match="does not exist"):
            book.move("zoo", "prod", Split.only(1), stale)
    again, created = book.move("zoo", "prod", Split.only(1), absent)
    assert (again.number, created) == (3, True)
    assert [move.split for move in book.history("zoo", "prod", None, 9).items] == [
        Split.only(1),
        None,
        Split.only(1),
    ]


def test_an_alias_of_a_deleted_version_is_gone(objects: ObjectStore, clock: object) -> None:
    living = {1, 2}
    book = AliasBook(objects, "prompts", clock, lambda _, version: version in living)
    book.move("zoo", "prod", Split.only(1), absent)
    book.move("zoo", "next", Split.only(2), absent)
    living.remove(1)
    with pytest.raises(NotFoundError, match="no longer an alias prod"):
        book.current("zoo", "prod")
    assert [move.alias for move in book.page("zoo", None, 10).items] == ["next"]
    with pytest.raises(PreconditionFailedError, match="does not exist"):
        book.move("zoo", "prod", Split.only(2), at(1))
    again, created = book.move("zoo", "prod", Split.only(2), absent)
    assert (again.number, created) == (2, True)


@pytest.mark.parametrize("alias", ["", "3", "007", "Prod", "a/b", "..", "a@b", "x" * 65, "prod\n"])
def test_what_cannot_be_an_alias_is_refused(book: AliasBook, alias: str) -> None:
    for call in (
        lambda: book.current("zoo", alias),
        lambda: book.move("zoo", alias, Split.only(1), absent),
        lambda: book.history("zoo", alias, None, 1),
        lambda: book.delete("zoo", alias, whatever),
    ):
        with pytest.raises(NameInvalidError, match="alias"):
            call()


def test_what_never_was_is_not_found(book: AliasBook) -> None:
    book.move("zoo", "prod", Split.only(1), absent)
    for name, alias in (("zoo", "canary"), ("farm", "prod")):
        for call in (book.current, lambda n, a: book.history(n, a, None, 1)):
            with pytest.raises(NotFoundError, match=f"{name} in ensembles has no alias {alias}"):
                call(name, alias)
    assert book.page("farm", None, 1).items == ()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 100])
def test_the_last_of_many_moves_is_found_with_few_looks(
    book: AliasBook, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    moves = [book.move("zoo", "prod", Split.only(i + 1), whatever)[0] for i in range(count)]
    looks: list[str] = []
    size = objects.size

    def counted(key: str) -> int | None:
        looks.append(key)
        return size(key)

    monkeypatch.setattr(objects, "size", counted)
    assert book.current("zoo", "prod") == moves[-1]
    assert len(looks) <= 2 * count.bit_length() + 1
    for known in moves:
        looks.clear()
        found = book.current("zoo", "prod", known=known)
        assert found == moves[-1]
        if known == moves[-1]:
            assert found is known
            assert len(looks) == 1


def test_pages_follow_each_other_without_gap_or_repeat(book: AliasBook) -> None:
    aliases = [f"a{i}" for i in range(7)]
    for alias in aliases:
        book.move("zoo", alias, Split.only(1), absent)
    for version in range(2, 8):
        book.move("zoo", "a0", Split.only(version), whatever)
    book.delete("zoo", "a3", whatever)
    for limit in range(1, 9):
        found: list[str] = []
        cursor = None
        while True:
            page = book.page("zoo", cursor, limit)
            assert 1 <= len(page.items) <= limit
            found += [move.alias for move in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert found == [alias for alias in aliases if alias != "a3"]
        moves: list[Move] = []
        before = None
        while True:
            page = book.history("zoo", "a0", before, limit)
            assert 1 <= len(page.items) <= limit
            moves += page.items
            if page.next_cursor is None:
                break
            before = int(page.next_cursor)
        assert [move.number for move in moves] == [7, 6, 5, 4, 3, 2, 1]
    assert book.history("zoo", "a0", 1, 5).items == ()
    assert [move.number for move in book.history("zoo", "a0", 999, 2).items] == [7, 6]


def test_a_rival_in_between_decides_by_the_condition(book: AliasBook) -> None:
    def raced(condition: Callable[[int | None], bool]) -> Callable[[int | None], bool]:
        rivals = iter([5, 6, 7])

        def judge(now: int | None) -> bool:
            verdict = condition(now)
            rival = next(rivals, None)
            if rival is not None:  # another writer comes in between looking and creating
                book.move("zoo", "prod", Split.only(rival), whatever)
            return verdict

        return judge

    with pytest.raises(PreconditionFailedError, match="is at move 1"):
        book.move("zoo", "prod", Split.only(9), raced(absent))
    now = book.current("zoo", "prod").number
    with pytest.raises(PreconditionFailedError, match=f"is at move {now + 1}"):
        book.move("zoo", "prod", Split.only(9), raced(at(now)))
    move, created = book.move("zoo", "prod", Split.only(9), raced(whatever))
    assert (move.split, created) == (Split.only(9), False)
    assert numbers(book) == list(range(move.number, 0, -1))


def test_a_damaged_move_is_named(book: AliasBook, root: Path) -> None:
    book.move("zoo", "prod", Split.only(1), absent)
    path = root / "ensembles/zoo/aliases/prod/00000001.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"weight":1.0', '"weight":0.0'))
    with pytest.raises(CorruptDocumentError, match=r"prod/00000001.json .*shares\.0\.weight"):
        book.current("zoo", "prod")


def damage(root: Path, alias: str, number: int) -> None:
    leave_half(root / f"ensembles/zoo/aliases/{alias}/{number:08d}.json")


def test_a_damaged_move_hides_no_other_alias_and_no_other_move(
    book: AliasBook, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for alias in ("a", "b", "c"):
        book.move("zoo", alias, Split.only(1), absent)
    book.move("zoo", "c", Split.only(2), at(1))
    damage(root, "b", 1)
    damage(root, "c", 1)
    assert [move.alias for move in book.page("zoo", None, 10).items] == ["a", "c"]
    (record,) = caplog.records
    assert record.message.startswith("left out: the stored document ensembles/zoo/aliases/b/0")
    assert numbers(book, "c") == [2]
    assert book.history("zoo", "c", None, 1).next_cursor == "2"
    assert book.history("zoo", "c", 2, 1).items == ()
    assert numbers(book, "b") == []


@pytest.mark.parametrize("condition", [whatever, at(2)])
def test_an_alias_whose_last_move_is_damaged_can_be_moved_and_deleted(
    book: AliasBook, root: Path, condition: Callable[[int | None], bool]
) -> None:
    for alias in ("a", "b"):
        book.move("zoo", alias, Split.only(1), absent)
        book.move("zoo", alias, Split.only(2), at(1))
        damage(root, alias, 2)
        for refused in (absent, at(1)):  # nobody knows whether it exists
            with pytest.raises(CorruptDocumentError, match=f"{alias}/00000002.json"):
                book.move("zoo", alias, Split.only(3), refused)
            with pytest.raises(CorruptDocumentError, match=f"{alias}/00000002.json"):
                book.delete("zoo", alias, refused)
    moved, created = book.move("zoo", "a", Split.only(2), condition)
    assert (moved.number, created) == (3, False)
    assert book.current("zoo", "a") == moved
    book.delete("zoo", "b", condition)
    with pytest.raises(NotFoundError):
        book.current("zoo", "b")
    assert numbers(book, "a") == numbers(book, "b") == [3, 1]


def test_a_store_that_is_away_is_no_absence(book: AliasBook, root: Path) -> None:
    book.move("zoo", "prod", Split.only(1), absent)
    root.rename(root.with_name("away"))
    root.write_text("not a folder")
    for call in (
        lambda: book.current("zoo", "prod"),
        lambda: book.move("zoo", "prod", Split.only(2), whatever),
        lambda: book.history("zoo", "prod", None, 1),
    ):
        with pytest.raises(StoreUnavailableError):
            call()


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def test_of_processes_that_saw_the_same_move_one_wins(root: Path, book: AliasBook) -> None:
    num_processes, num_wins = 4, 25
    racers = [
        subprocess.Popen(
            [
                *(sys.executable, str(HERE / "racing_moves.py")),
                *(root.as_uri(), str(version), str(num_wins)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for version in range(1, num_processes + 1)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:  # all of them at once
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    outputs = [racer.communicate(timeout=120)[0].splitlines() for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * num_processes

    total = num_processes * num_wins
    won = sorted(tuple(map(int, line.split())) for output in outputs for line in output[:-1])
    assert won == [(seen, seen + 1) for seen in range(total)]  # each saw what it replaced
    assert sum(int(output[-1].split()[1]) for output in outputs) > 0  # there was a race
    for version, output in enumerate(outputs, 1):
        for line in output[:-1]:
            number = int(line.split()[1])
            (move,) = book.history("zoo", "prod", number + 1, 1).items
            assert move.number == number
            assert move.split is not None
            assert set(move.split.weights) == {version, 99}


def test_a_move_killed_anywhere_has_happened_or_not(
    tmp_path: Path, clock: Callable[[], object]
) -> None:
    run = subprocess.run(
        [sys.executable, str(HERE / "killed_moves.py"), str(tmp_path / "stores")],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert run.returncode == 0, run.stderr
    killed = [int(line) for line in run.stdout.split()]
    assert killed == list(range(len(killed)))
    assert len(killed) >= 6  # a temporary file, its mode, a link, its removal and syncs

    seen: list[int] = []
    for number in killed:
        objects = open_object_store((tmp_path / "stores" / str(number)).as_uri())
        book = AliasBook(objects, "ensembles", clock)
        current = book.current("zoo", "prod")
        seen.append(current.number)
        assert current.split == Split.only(current.number)
        # A retry with the tag from before either makes the move, or is told that it was made.
        if current.number == 1:
            assert book.move("zoo", "prod", Split.only(2), at(1))[0].number == 2
        else:
            with pytest.raises(PreconditionFailedError, match="is at move 2"):
                book.move("zoo", "prod", Split.only(2), at(1))
        assert numbers(book) == [2, 1]
    assert seen == sorted(seen)
    assert set(seen) == {1, 2}
