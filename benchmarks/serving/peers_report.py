"""Tables and plots of the service against other servers."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.reporting.markdown import table
from benchmarks.reporting.svg import figure_of, save_figure
from benchmarks.serving.machine_text import how_it_was_made
from benchmarks.serving.peer_catalogue import PEERS
from benchmarks.serving.peer_runs import key_of
from benchmarks.serving.peer_servers.job import VARIANTS, Variant
from benchmarks.serving.records import PeerCell, PeerRecord, PeerSetup, TuningRecord

GOAL = "Goal: at least 1.0 everywhere, and at least 3.0 in (a) and (b) at 64 tenants."


def write_peers_report(
    records: Sequence[PeerRecord], tuning: Sequence[TuningRecord], folder: Path
) -> list[Path]:
    """Write `peers.md` and its plot; return the files."""
    newest = {key_of(r): r for r in records}
    chosen = [newest[key] for key in sorted(newest, key=str)]
    plot, page = folder / "peers.svg", folder / "peers.md"
    plot_throughput_ratios(chosen, plot)
    parts = [
        "# The service against other servers",
        "Ratios are ours over theirs for throughput (above 1 we are faster) and theirs over ours "
        "for latency (above 1 we answer sooner): medians over interleaved rounds. " + GOAL,
        "![ratios](peers.svg)",
        *(section(chosen, variant) for variant in VARIANTS),
        "## Start, memory, agreement",
        setup_table(chosen),
        *(["## Tuning of the peers", tuning_table(tuning)] if tuning else []),
        how_it_was_made([r.provenance for r in [*chosen, *tuning]]),
    ]
    page.write_text("\n\n".join(parts) + "\n")
    return [page, plot]


def throughput_ratio(cell: PeerCell) -> float:
    """Ours over theirs, median of the rounds."""
    pairs = zip(cell.ours, cell.peer, strict=True)
    return median(ours.throughput / peer.throughput for ours, peer in pairs)


def section(records: Sequence[PeerRecord], variant: Variant) -> str:
    """One variant's cells."""
    rows = [
        _row(record, cell)
        for record in records
        if record.variant == variant
        for cell in record.cells
    ]
    header = ["peer, backbone", "tenants", "clients", "ours, images/s", "theirs", "ratio"]
    header += ["CPU ms/image ours", "theirs", "p50 ours, ms", "theirs", "p99 ours, ms", "theirs"]
    failed = [r for r in records if r.variant == variant and r.failure is not None]
    lines = [
        f"- **{PEERS[r.peer].name}, {r.resident_tenants} tenants**: {_one_line(r.failure or '')}"
        for r in failed
    ]
    title = f"## ({variant}) {VARIANTS[variant]}"
    return "\n\n".join([title, table(header, rows), *(["\n".join(lines)] if lines else [])])


def _row(record: PeerRecord, cell: PeerCell) -> list[str]:
    ours, theirs = cell.ours, cell.peer
    return [
        f"{PEERS[record.peer].name}, {record.backbone.label} {record.backbone.precision}",
        str(cell.tenants),
        str(cell.clients),
        f"{median(x.throughput for x in ours):.0f}",
        f"{median(x.throughput for x in theirs):.0f}",
        f"**{throughput_ratio(cell):.2f}**",
        f"{median(x.cpu_ms_per_image for x in ours):.1f}",
        f"{median(x.cpu_ms_per_image for x in theirs):.1f}",
        f"{median(x.p50_ms for x in ours):.1f}",
        f"{median(x.p50_ms for x in theirs):.1f}",
        f"{median(x.p99_ms for x in ours):.1f}",
        f"{median(x.p99_ms for x in theirs):.1f}",
    ]


def setup_table(records: Sequence[PeerRecord]) -> str:
    """How each peer was configured, and what it took."""
    rows = [
        [
            f"{PEERS[r.peer].name} {r.version}, ({r.variant}), {r.resident_tenants} tenants",
            _setup(r.setup),
            "-" if r.start_s is None else f"{r.start_s:.0f}",
            "-" if r.memory_bytes is None else f"{r.memory_bytes / 1e6:,.0f}",
            "-" if r.our_memory_bytes is None else f"{r.our_memory_bytes / 1e6:,.0f}",
            "-" if r.max_difference is None else f"{r.max_difference:.1g}",
            f"{max((c.peer_idle_cpu for c in r.cells), default=0.0):.2f}",
        ]
        for r in records
    ]
    header = ["peer", "batch / wait / processes x threads / decoders", "start, s", "memory, MB"]
    header += ["ours, MB", "largest difference", "idle, cores"]
    return table(header, rows)


def tuning_table(records: Sequence[TuningRecord]) -> str:
    """Every configuration that was tried."""
    rows = [
        [
            f"{PEERS[r.peer].name}, {r.backbone.label} {r.backbone.precision}",
            _setup(r.setup),
            _one_line(r.failure or "") if r.run is None else f"{r.run.throughput:.0f}",
            "-" if r.run is None else f"{r.run.cpu_ms_per_image:.1f}",
        ]
        for r in records
    ]
    header = ["peer, backbone", "batch / wait / processes x threads / decoders"]
    header += ["images/s", "CPU ms/image"]
    return table(header, rows)


def plot_throughput_ratios(records: Sequence[PeerRecord], path: Path) -> None:
    """Draw the throughput ratio at the most clients, by variant and number of tenants."""
    bars: list[tuple[str, float]] = []
    for record in records:
        most = max((cell.clients for cell in record.cells), default=0)
        for cell in record.cells:
            if cell.clients == most:
                name = f"{PEERS[record.peer].name} ({record.variant}), {cell.tenants} tenants"
                name += f", {record.backbone.precision}"
                bars.append((name, throughput_ratio(cell)))
    figure, axes = figure_of(6.4, 1.0 + 0.22 * len(bars))
    places = np.arange(len(bars))
    axes.barh(places, [ratio for _, ratio in bars])
    axes.axvline(1.0, color="black", linewidth=0.8, linestyle="--")
    axes.set_yticks(places, [name for name, _ in bars])
    axes.invert_yaxis()
    axes.set_xlabel("throughput, ours / theirs, at the most clients")
    save_figure(figure, path)


def _setup(setup: PeerSetup) -> str:
    processes = f"{setup.workers} x {setup.threads}"
    return f"{setup.max_batch_size} / {setup.max_wait_ms:g} ms / {processes} / {setup.decoders}"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
