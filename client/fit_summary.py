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
LEARNING_METHODS = frozenset({"hgprompt", "h_ensemble"})
"""Methods that learn the weights; those of the others are even, of one source or by a rule."""

SOURCE_LABELS = {
    "single": "best single ({})",
    "panda": "PANDA from {}",
    "spot": "nearest by SPoT ({})",
    "logme": "best by LogME ({})",
}
"""Where the source is known; of the single ones only the best and the one that is served."""


def print_findings(console: Console, result: FitResult, method: str | None) -> None:
    """Prints weights, leaderboard and verdict of a fit by `method`."""
    if result.weights:
        heading = "Learned weights (alpha)" if method in LEARNING_METHODS else "Weights"
        console.print(Text(heading, style="bold"))
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
    served, best = served_row(result), best_single(result.leaderboard)
    rows = condensed(result.leaderboard, served)
    for row in sorted(rows, key=lambda row: -row.accuracy):
        label = method_label(row, is_best=row is best or row.method != "single")
        drawn = bar(row.accuracy, ACCURACY_BAR_WIDTH, unicode=supports_unicode(console))
        table.add_row(
            f"{label} *" if row is served else label,
            f"{row.accuracy:.1%}",
            "-" if row.ci95 is None else f"{row.ci95[0]:.1%} - {row.ci95[1]:.1%}",
            Text(drawn, style="green" if row.method == "hgprompt" else "blue"),
        )
    console.print(table)


def served_row(result: FitResult) -> LeaderboardRow | None:
    """The row of what was chosen; None if the leaderboard has no such row, or more than one."""
    if not isinstance(result.chosen, dict):
        return None
    wanted = {name: result.chosen.get(name) for name in ("method", "source")}
    wanted["tuned"] = bool(result.chosen.get("tuned"))
    rows = [
        row
        for row in result.leaderboard
        if {"method": row.method, "source": row.source, "tuned": row.tuned} == wanted
    ]
    return rows[0] if len(rows) == 1 else None


def condensed(
    leaderboard: Iterable[LeaderboardRow], served: LeaderboardRow | None = None
) -> list[LeaderboardRow]:
    """Keeps of the single sources only the best one and the one that is served."""
    rows = list(leaderboard)
    best = best_single(rows)
    return [row for row in rows if row.method != "single" or row is best or row is served]


def best_single(leaderboard: Iterable[LeaderboardRow]) -> LeaderboardRow | None:
    """The single source of the highest accuracy; None if there is none."""
    singles = [row for row in leaderboard if row.method == "single"]
    return max(singles, key=lambda row: row.accuracy, default=None)


def method_label(row: LeaderboardRow, *, is_best: bool = True) -> str:
    """A row's method in words; `is_best` of a single source, whether no other one is better."""
    label = METHOD_LABELS.get(row.method, row.method)
    if row.source:
        label = _with_source(row.method, row.source) if is_best else f"{label} ({row.source})"
    return f"{label}, tuned" if row.tuned else label


def _with_source(method: str, source: str) -> str:
    return SOURCE_LABELS.get(method, f"{METHOD_LABELS.get(method, method)} ({{}})").format(source)


def print_verdict(console: Console, result: FitResult) -> None:
    """Prints what was chosen, how well it does, and the advice."""
    if result.chosen is not None:
        label, row = chosen_label(result.chosen), served_row(result)
        if row is not None:
            label = f"{label} (*), {row.accuracy:.1%} held out"
        console.print(Text.assemble(("Chosen: ", "bold"), label))
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
