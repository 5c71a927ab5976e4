"""The report of a fit: one self-contained HTML page, made from the durable result alone."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from jobs.records import EnsembleRecord
from service import charts, matrices
from service.report_data import ReportData


def render_report(record: EnsembleRecord) -> str:
    """Return the page; parts that the result lacks are left out.

    Args:
        record: A fit that succeeded, with its result document.
    """
    data = ReportData.model_validate(record.result or {})
    outcome = record.outcome
    axis, dots = (
        charts.leaderboard(data.leaderboard, data.chosen) if data.leaderboard else (None, [])
    )
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            record=record,
            data=data,
            finished_at=outcome.finished_at if outcome else None,
            weights=charts.weight_bars(data.weights or {}),
            leaderboard_axis=axis,
            dots=dots,
            cosines=matrices.cosine_matrix(data),
            confusion=matrices.confusion_matrix(data),
            confusions=matrices.worst_confusions(data),
            curve=charts.curve(data.objective_curve or ()),
            has_logme=any(source.logme is not None for source in data.sources or ()),
            timings=charts.timing_bars(data.timings_s or {}),
            plot_width=charts.PLOT_WIDTH_PX,
            curve_height=charts.CURVE_HEIGHT_PX,
            max_labelled=matrices.MAX_LABELLED,
        )
    )


@cache
def _environment() -> Environment:
    """Templates, compiled once."""
    return Environment(
        loader=PackageLoader("service", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
