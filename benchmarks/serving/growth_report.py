"""Table and plots of the growth curves."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.reporting.markdown import table
from benchmarks.reporting.svg import figure_of, save_figure
from benchmarks.serving.machine_text import how_it_was_made
from benchmarks.serving.records import GrowthPoint, GrowthRecord

TITLES = {
    "tenants": "resident artifacts: one image of a mixed batch of 32",
    "classes": "classes: the head of one image of a mixed batch of 32",
    "batch": "batch size: one image of a forward pass",
    "fit_images": "images N of a fit without tuning, M = 4",
    "fit_sources": "sources M of a fit without tuning, N = 100",
}
PER_IMAGE = ("tenants", "classes", "batch")


def write_growth_report(records: Sequence[GrowthRecord], folder: Path) -> list[Path]:
    """Write `growth.md` and a plot of each curve; return the files."""
    newest = {
        (r.backbone.label, r.backbone.precision, r.provenance.device, r.points[0].curve): r
        for r in records
    }
    page = folder / "growth.md"
    written = [page]
    parts = ["# Growth", "Memory is what the process's peak grew by. Medians of eight calls."]
    for (label, precision, device, curve), record in sorted(newest.items()):
        plot = folder / f"growth-{curve}-{label}-{precision}-{device}.svg"
        _plot(record.points, plot, title=TITLES[curve])
        written.append(plot)
        parts += [f"## {TITLES[curve]}", f"{label} {precision}, {device}", _table(record.points)]
        parts.append(f"![{curve}]({plot.name})")
    parts.append(how_it_was_made([record.provenance for record in newest.values()]))
    page.write_text("\n\n".join(parts) + "\n")
    return written


def _table(points: Sequence[GrowthPoint]) -> str:
    per_image = points[0].curve in PER_IMAGE
    header = [points[0].curve, "ms" if per_image else "s", "memory, MB"]
    header.append("CPU-seconds per 1,000" if per_image else "CPU-seconds")
    rows = [
        [
            f"{point.x:,}",
            f"{1e3 * point.seconds:.3f}" if per_image else f"{point.seconds:.2f}",
            f"{(point.memory_bytes or 0) / 1e6:,.0f}",
            f"{(1e3 if per_image else 1) * (point.cpu_s or 0):.2f}",
        ]
        for point in points
    ]
    return table(header, rows)


def _plot(points: Sequence[GrowthPoint], path: Path, *, title: str) -> None:
    figure, axes = figure_of(4.6, 3.0)
    scale = 1e3 if points[0].curve in PER_IMAGE else 1.0
    axes.plot([p.x for p in points], [scale * p.seconds for p in points], marker="o")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(points[0].curve)
    axes.set_ylabel("ms" if points[0].curve in PER_IMAGE else "s")
    axes.set_title(title)
    save_figure(figure, path)
