import io

import pytest
from rich.console import Console

from client.console import bar, list_table, make_console, print_list, size, supports_unicode


@pytest.mark.parametrize(
    ("fraction", "drawn"),
    [(0.0, ""), (1.0, "████"), (0.5, "██"), (0.28125, "█▏"), (-1.0, ""), (7.0, "████")],
)
def test_bars_are_drawn_in_eighths(fraction: float, drawn: str) -> None:
    assert bar(fraction, 4, unicode=True) == drawn


def test_bars_have_a_plain_form() -> None:
    assert bar(0.5, 4, unicode=False) == "##"


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (97_447_603, "97.4 MB"), (2e12, "2000.0 GB")],
)
def test_sizes_are_decimal(num_bytes: int, text: str) -> None:
    assert size(num_bytes) == text


@pytest.mark.parametrize(("encoding", "expected"), [("utf-8", True), ("ascii", False)])
def test_unicode_is_used_only_where_it_can_be_written(encoding: str, *, expected: bool) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    assert supports_unicode(Console(file=file)) == expected


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    make_console().print("[red]a[/red] :smile: 12")
    assert capsys.readouterr().out == "[red]a[/red] :smile: 12\n"


def test_an_empty_table_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    print_list(make_console(), list_table("name"), "nothing here")
    assert capsys.readouterr().out == "nothing here\n"
