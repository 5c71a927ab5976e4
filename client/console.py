"""How the command line writes: 80 columns, no surprises in log files, no Unicode where it fails."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

MAX_LINE_CHARS = 10_000  # in files and pipes, where a cut name is worse than a long line


def make_console() -> Console:
    """A console that prints what it is given: no markup, no guessed colours, no emoji codes."""
    return Console(markup=False, highlight=False, emoji=False)


def supports_unicode(console: Console) -> bool:
    """Whether bars and check marks can be written."""
    return console.encoding.lower().startswith("utf")


def bar(fraction: float, width: int, *, unicode: bool) -> str:
    """A horizontal bar `width` characters wide at fraction 1, in eighths where possible."""
    fraction = min(max(fraction, 0.0), 1.0)
    if not unicode:
        return "#" * round(fraction * width)
    eighths = round(fraction * width * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def list_table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table for lists; the columns in `right` are numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    return table


def print_list(console: Console, table: Table, empty: str) -> None:
    """Prints a table, or a sentence if it has no rows; only a terminal's width cuts anything."""
    if not table.row_count:
        console.print(Text(empty, style="dim"))
        return
    if not console.is_terminal:
        unlimited = console.options.update(max_width=MAX_LINE_CHARS)
        console.width = console.measure(table, options=unlimited).maximum
    console.print(table)


def short_digest(digest: str | None) -> str:
    """Enough of a digest to recognise it by."""
    return "-" if digest is None else digest.removeprefix("sha256:")[:12]


def size(num_bytes: int) -> str:
    """A size for people."""
    amount = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:  # noqa: PLR2004  SI units
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"
