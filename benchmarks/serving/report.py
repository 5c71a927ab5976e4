"""Every report that there are results for."""

from pathlib import Path

from benchmarks.serving.limit_report import write_limit_report
from benchmarks.serving.records import LimitRecord
from benchmarks.serving.results_file import ResultsFile


def write_reports(folder: Path) -> list[Path]:
    """Write the tables and plots of the results in a folder; return the files."""
    written: list[Path] = []
    if limits := ResultsFile(folder / "limit.jsonl").read(LimitRecord):
        written += write_limit_report(limits, folder)
    return written
