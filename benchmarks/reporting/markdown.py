"""Markdown tables."""

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column is text and whose others are figures."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def folded(summary: str, text: str) -> str:
    """Return text that is shown once its summary is clicked."""
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"
