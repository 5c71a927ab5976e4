"""Table of a modest tenant's latency beside a greedy one."""

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.reporting.markdown import table
from benchmarks.serving.fairness import fairness_key
from benchmarks.serving.limit_report import spread
from benchmarks.serving.machine_text import how_it_was_made
from benchmarks.serving.records import ClientRun, FairnessRecord, FairnessRound

GOAL_RATIO = 1.5

_SITUATIONS: tuple[tuple[str, Callable[[FairnessRound], ClientRun]], ...] = (
    ("alone", lambda each: each.alone),
    ("beside one with as many clients", lambda each: each.beside_equal.modest),
    ("beside a greedy one", lambda each: each.beside_greedy.modest),
)


def write_fairness_report(records: Sequence[FairnessRecord], folder: Path) -> list[Path]:
    """Write `fairness.md` from the newest record of each backbone and image; return the file."""
    newest = {fairness_key(record): record for record in records}
    chosen = [newest[key] for key in sorted(newest)]
    page = folder / "fairness.md"
    parts = [
        "# A modest tenant beside a greedy one",
        (
            "Two tenants, single images, closed loops of clients. The modest one's latency; median "
            "[smallest - largest] of the interleaved rounds. Goal: beside the greedy one its p99 "
            f"is at most {GOAL_RATIO:g} times its quiet one. *Quiet* may mean that it has the "
            "service to itself, or that its neighbour asks for no more than it does; both are "
            "given. Where two tenants ask for all of a CPU, each has half of it, so the first "
            "ratio is 2 even in perfect fairness, and more by the batch that an image waits for."
        ),
    ]
    parts += [part for record in chosen for part in _section(record)]
    parts.append(how_it_was_made([record.provenance for record in chosen]))
    page.write_text("\n\n".join(parts) + "\n")
    return [page]


def _section(record: FairnessRecord) -> list[str]:
    backbone, rounds = record.backbone, record.rounds
    many = record.greed * record.clients
    rows = [
        [
            name,
            spread([of(each).throughput for each in rounds], 1),
            spread([of(each).p50_ms for each in rounds], 1),
            spread([of(each).p99_ms for each in rounds], 1),
            spread([of(each).p99_ms / each.alone.p99_ms for each in rounds]),
        ]
        for name, of in _SITUATIONS
    ]
    against_equal = spread(
        [e.beside_greedy.modest.p99_ms / e.beside_equal.modest.p99_ms for e in rounds]
    )
    greedy = spread([e.beside_greedy.neighbour.throughput for e in rounds], 1)
    return [
        f"## {backbone.label} {backbone.precision}, {record.picture}, {record.provenance.device}",
        f"{record.clients} clients of the modest tenant, {many} of the greedy one.",
        table(["modest tenant", "images/s", "p50, ms", "p99, ms", "p99 / alone"], rows),
        (
            f"p99 beside the greedy one over p99 beside one with as many clients: {against_equal}. "
            f"The greedy one had {greedy} images/s."
        ),
    ]
