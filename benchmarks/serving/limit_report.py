"""Tables and plot of the service against the bare loop."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.reporting.markdown import table
from benchmarks.reporting.svg import figure_of, save_figure
from benchmarks.serving.machine_text import how_it_was_made
from benchmarks.serving.pictures import PICTURES
from benchmarks.serving.records import LimitRecord, LimitRound

GOAL_RATIO = 0.95
GOAL_ADDED_MS = 2.0


def latest(records: Sequence[LimitRecord]) -> list[LimitRecord]:
    """Return the newest record of each backbone, precision, image and device, in a fixed order."""
    newest = {
        (r.backbone.label, r.backbone.precision, r.picture, r.provenance.device): r for r in records
    }
    return [newest[key] for key in sorted(newest)]


def write_limit_report(records: Sequence[LimitRecord], folder: Path) -> list[Path]:
    """Write `limit.md` and its plot; return the files."""
    chosen = latest(records)
    plot, page = folder / "limit.svg", folder / "limit.md"
    plot_ratios(chosen, plot)
    parts = [
        "# The service against the bare loop",
        (
            f"Median [smallest - largest] of the interleaved rounds. Goals: ratios of at least "
            f"{GOAL_RATIO}, and at most {GOAL_ADDED_MS:g} ms added to one image at one client."
        ),
        throughput_table(chosen),
        (
            "*A loop a core*: bare loops of one thread each, side by side, which is how the "
            "service computes under load on a CPU."
        ),
        "![ratios](limit.svg)",
        "## Processor time",
        (
            "Processor time is disturbed less by whatever else runs on the machine than wall clock "
            "is. *Bound* is the most that any server could reach on these cores: the bare loop's "
            "processor time over itself plus decoding and the load generator, which share them. "
            "With a GPU it is what all cores decode, with nothing else to do, over the bare loop."
        ),
        cpu_table(chosen),
        "## One client",
        single_table(chosen),
        "## The bare loop by batch size, images/s",
        batch_table(chosen),
        how_it_was_made([record.provenance for record in chosen]),
    ]
    page.write_text("\n\n".join(parts) + "\n")
    return [page, plot]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Show the median with the smallest and the largest."""
    low, high = min(values), max(values)
    return f"{median(values):.{digits}f} [{low:.{digits}f} - {high:.{digits}f}]"


def ratios(record: LimitRecord, of: Callable[[LimitRound], float]) -> list[float]:
    """Return a quantity of each round over the bare loop's throughput."""
    return [of(each) / each.bare.throughput for each in record.rounds]


def throughput_table(records: Sequence[LimitRecord]) -> str:
    """Throughput over that of the bare loop."""
    rows = [
        [
            _title(r),
            f"{median(x.bare.throughput for x in r.rounds):.0f}",
            _each_core(r),
            f"{median(x.one.throughput for x in r.rounds):.0f}",
            f"{median(x.many.throughput for x in r.rounds):.0f}",
            spread(ratios(r, lambda x: x.one.throughput)),
            spread(ratios(r, lambda x: x.many.throughput)),
            spread([x.many.throughput / x.one.throughput for x in r.rounds]),
            _over_each_core(r),
        ]
        for r in records
    ]
    many = records[0].num_tenants if records else 0
    header = ["backbone, image", "bare, images/s", "a loop a core", "1 tenant", f"{many} tenants"]
    header += ["1 tenant / bare", f"{many} / bare", f"{many} / 1", "1 tenant / a loop a core"]
    return table(header, rows)


def _each_core(record: LimitRecord) -> str:
    """Throughput of the bare loops side by side; a dash where there are none."""
    found = [x.on_each_core.throughput for x in record.rounds if x.on_each_core is not None]
    return f"{median(found):.0f}" if found else "-"


def _over_each_core(record: LimitRecord) -> str:
    """Throughput on one tenant over theirs."""
    found = [
        x.one.throughput / x.on_each_core.throughput
        for x in record.rounds
        if x.on_each_core is not None
    ]
    return spread(found) if found else "-"


def cpu_table(records: Sequence[LimitRecord]) -> str:
    """Processor milliseconds per image, and the bound they give."""
    rows: list[list[str]] = []
    for record in records:
        bare = median(x.bare.cpu_ms_per_image for x in record.rounds)
        one = median(x.one.cpu_ms_per_image for x in record.rounds)
        many = median(x.many.cpu_ms_per_image for x in record.rounds)
        decode = median(x.single.decode_ms for x in record.rounds)
        client = median(1e3 * x.many.client_cpu_s / x.many.requests for x in record.rounds)
        share = median(x.many.client_cpu_s / x.many.duration_s for x in record.rounds)
        figures = [bare, one, many, decode, client]
        busy = median(
            (x.many.cpu_s + x.many.client_cpu_s) / x.many.duration_s for x in record.rounds
        )
        rows.append(
            [
                _title(record),
                *(f"{figure:.2f}" for figure in figures),
                f"{bare / one:.2f}",
                f"{bare / many:.2f}",
                f"{_bound(record, bare / (bare + decode + client)):.2f}",
                f"{share:.2f}",
                f"{busy:.2f}",
            ]
        )
    header = ["backbone, image", "bare, CPU ms/image", "1 tenant", "many tenants", "decoding"]
    header += ["client", "bare / 1", "bare / many", "bound", "client, cores", "busy cores"]
    return table(header, rows)


def _bound(record: LimitRecord, shared: float) -> float:
    """What any server could reach of the bare loop; `shared` where it has the same cores."""
    if record.decode_rate is None:
        return shared
    return min(1.0, record.decode_rate / median(x.bare.throughput for x in record.rounds))


def single_table(records: Sequence[LimitRecord]) -> str:
    """What serving adds to one image."""
    rows = [
        [
            _title(r),
            f"{median(x.single.p50_ms for x in r.rounds):.2f}",
            f"{median(x.single.decode_ms for x in r.rounds):.2f}",
            f"{median(x.single.forward_ms for x in r.rounds):.2f}",
            spread([x.single.added_ms for x in r.rounds]),
        ]
        for r in records
    ]
    header = ["backbone, image", "p50 over HTTP, ms", "decoding alone", "forward pass alone"]
    return table([*header, "added, ms"], rows)


def batch_table(records: Sequence[LimitRecord]) -> str:
    """The bare loop's rate at each batch size."""
    sizes = sorted({size for record in records for size in record.batch_rates})
    rows = [
        [_title(r), *(f"{r.batch_rates[size]:.0f}" for size in sizes), str(r.best_batch_size)]
        for r in records
    ]
    return table(["backbone, image", *map(str, sizes), "best"], rows)


def plot_ratios(records: Sequence[LimitRecord], path: Path) -> None:
    """Draw both ratios of each record with their ranges."""
    figure, axes = figure_of(7.2, 1.2 + 0.7 * len(records))
    places = np.arange(len(records))
    choices: list[tuple[str, float, Callable[[LimitRound], float]]] = [
        ("1 tenant", -0.18, lambda x: x.one.throughput),
        ("many tenants", 0.18, lambda x: x.many.throughput),
    ]
    for label, shift, of in choices:
        values = [ratios(record, of) for record in records]
        medians = np.array([median(each) for each in values])
        low = medians - np.array([min(each) for each in values])
        high = np.array([max(each) for each in values]) - medians
        axes.barh(places + shift, medians, height=0.34, xerr=[low, high], label=label)
    axes.axvline(GOAL_RATIO, color="black", linewidth=0.8, linestyle="--")
    axes.set_yticks(places, [_title(record) for record in records])
    axes.set_xlim(left=0)
    axes.set_xlabel("HTTP throughput / bare loop (dashed: the goal)")
    axes.legend(loc="lower left")
    save_figure(figure, path)


def _title(record: LimitRecord) -> str:
    backbone = record.backbone
    device = "" if record.provenance.device == "cpu" else f", {record.provenance.device}"
    if record.picture not in PICTURES:
        raise AssertionError(f"unknown picture {record.picture}")
    return f"{backbone.label} {backbone.precision}, {record.picture}{device}"
