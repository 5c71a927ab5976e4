"""The report of a fit: one self-contained HTML page, made from the durable result alone."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from ensemble.options import LEARNING_METHODS
from jobs.records import EnsembleRecord
from service.report.charts import curves, reliability, scatter
from service.report.charts.numbers import number
from service.report.data import ReportData
from service.report.sections import sections


def render_report(record: EnsembleRecord) -> str:
    """Return the page; parts that the result lacks are left out.

    Args:
        record: A fit that succeeded, with its result document.
    """
    data = ReportData.model_validate(record.result or {})
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            record=record,
            learns_weights=record.method in LEARNING_METHODS,
            data=data,
            chosen=next((e for e in data.leaderboard or () if e.label == data.chosen_label), None),
            finished_at=record.outcome.finished_at if record.outcome else None,
            sections=sections(data),
            curves=curves,
            reliability=reliability,
            scatter=scatter,
        )
    )


@cache
def _environment() -> Environment:
    """Templates, compiled once."""
    environment = Environment(
        loader=PackageLoader("service.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment
