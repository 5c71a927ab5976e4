"""Run by `test_aliases`: win a number of compare-and-swaps of one alias, printing every move won.

Usage: python racing_moves.py STORE_URL VERSION COUNT
"""

import sys
from datetime import UTC, datetime

from prompt_store.aliases import AliasBook
from prompt_store.errors import NotFoundError, PreconditionFailedError
from prompt_store.objects import open_object_store
from prompt_store.splits import Share, Split


def last_move(book: AliasBook) -> int | None:
    try:
        return book.current("zoo", "prod").number
    except NotFoundError:
        return None


def main(url: str, version: int, count: int) -> None:
    book = AliasBook(open_object_store(url), "ensembles", lambda: datetime.now(UTC))
    print("ready", flush=True)  # noqa: T201 - the parent reads it
    sys.stdin.readline()
    won = lost = 0
    while won < count:
        seen = last_move(book)
        weight = (won + 1) / (count + 1)
        shares = [Share(version=version, weight=weight), Share(version=99, weight=1 - weight)]
        try:
            move, _ = book.move("zoo", "prod", Split.of(shares), lambda now, seen=seen: now == seen)
        except PreconditionFailedError:
            lost += 1
            continue
        won += 1
        print(seen or 0, move.number, flush=True)  # noqa: T201
    print("lost", lost, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
