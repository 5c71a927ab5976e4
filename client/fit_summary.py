"""What a fit found, as text for an 80-column terminal."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.console import bar, supports_unicode
from client.replies import FitResult, LeaderboardRow

ALPHA_BAR_WIDTH = 40
ACCURACY_BAR_WIDTH = 20
MAX_NAME_WIDTH = 24
METHOD_LABELS = {
    "hgprompt": "HGPrompt ensemble",
    "none": "no prompt",
    "vpt": "random prompt (VPT)",
    "single": "single source",
    "mean": "mean of all sources",
    "spot": "similar sources (SPoT)",
    "panda": "PANDA",
    "h_ensemble": "H-ensemble",
    "logme": "best by LogME",
}
SOURCE_LABELS = {
    "single": "best single ({})",
    "panda": "PANDA from {}",
    "spot": "nearest by SPoT ({})",
    "logme": "best by LogME ({})",
}
"""Where the source is known; of the single ones only the best is shown."""


def print_findings(console: Console, result: FitResult) -> None:
    """Prints weights, leaderboard and verdict."""
    if result.weights:
        console.print(Text("Learned weights (alpha)", style="bold"))
        print_weights(console, result.weights)
        console.print()
    console.print(Text("Validation accuracy", style="bold"))
    print_leaderboard(console, result)
    console.print()
    print_verdict(console, result)


def print_weights(console: Console, weights: dict[str, float]) -> None:
    """Prints alpha as bars, the heaviest source first."""
    table = Table.grid(padding=(0, 0, 0, 2), pad_edge=True)
    table.add_column(max_width=MAX_NAME_WIDTH, no_wrap=True)
    table.add_column(justify="right")
    table.add_column()
    heaviest = max(weights.values(), default=0.0)
    for source, weight in sorted(weights.items(), key=lambda item: -item[1]):
        scaled = weight / heaviest if heaviest > 0 else 0.0
        drawn = bar(scaled, ALPHA_BAR_WIDTH, unicode=supports_unicode(console))
        table.add_row(source, f"{weight:.3f}", Text(drawn, style="cyan"))
    console.print(table)


def print_leaderboard(console: Console, result: FitResult) -> None:
    """Prints the validation accuracy of each way to make the prompt, best first."""
    table = Table(box=None, padding=(0, 0, 0, 2), header_style="bold")
    for heading in ("method", "accuracy", "95 % interval", ""):
        table.add_column(heading, justify="left" if heading in {"method", ""} else "right")
    rows = condensed(result.leaderboard)
    for row in sorted(rows, key=lambda row: -row.accuracy):
        drawn = bar(row.accuracy, ACCURACY_BAR_WIDTH, unicode=supports_unicode(console))
        table.add_row(
            method_label(row),
            f"{row.accuracy:.1%}",
            "-" if row.ci95 is None else f"{row.ci95[0]:.1%} - {row.ci95[1]:.1%}",
            Text(drawn, style="green" if row.method == "hgprompt" else "blue"),
        )
    console.print(table)


def condensed(leaderboard: Iterable[LeaderboardRow]) -> list[LeaderboardRow]:
    """Keeps of the single sources only the best one."""
    rows = list(leaderboard)
    singles = [row for row in rows if row.method == "single"]
    best = max(singles, key=lambda row: row.accuracy, default=None)
    return [row for row in rows if row.method != "single" or row is best]


def method_label(row: LeaderboardRow) -> str:
    """A row's method in words."""
    label = METHOD_LABELS.get(row.method, row.method)
    if row.source:
        label = _with_source(row.method, row.source)
    return f"{label}, tuned" if row.tuned else label


def _with_source(method: str, source: str) -> str:
    return SOURCE_LABELS.get(method, f"{METHOD_LABELS.get(method, method)} ({{}})").format(source)


def print_verdict(console: Console, result: FitResult) -> None:
    """Prints what was chosen, how well it does, and the advice."""
    if result.chosen is not None:
        console.print(Text.assemble(("Chosen: ", "bold"), chosen_label(result.chosen)))
    if result.advice:
        console.print(Text.assemble(("Advice: ", "bold"), result.advice))


def chosen_label(chosen: str | dict[str, object]) -> str:
    """The chosen candidate in words."""
    if isinstance(chosen, str):
        return METHOD_LABELS.get(chosen, chosen)
    method, source = str(chosen.get("method", "?")), chosen.get("source")
    label = METHOD_LABELS.get(method, method)
    if source:
        label = f"{label} {source}" if method == "single" else _with_source(method, str(source))
    return f"{label}, tuned" if chosen.get("tuned") else label
