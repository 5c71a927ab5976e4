"""Every report that there are results for."""

from pathlib import Path

from benchmarks.serving.fairness_report import write_fairness_report
from benchmarks.serving.growth_report import write_growth_report
from benchmarks.serving.limit_report import write_limit_report
from benchmarks.serving.peers_report import write_peers_report
from benchmarks.serving.records import (
    FairnessRecord,
    GrowthRecord,
    LimitRecord,
    PeerRecord,
    TuningRecord,
)
from benchmarks.serving.results_file import ResultsFile


def write_reports(folder: Path) -> list[Path]:
    """Write the tables and plots of the results in a folder; return the files."""
    written: list[Path] = []
    if limits := ResultsFile(folder / "limit.jsonl").read(LimitRecord):
        written += write_limit_report(limits, folder)
    if peers := ResultsFile(folder / "peers.jsonl").read(PeerRecord):
        tuning = ResultsFile(folder / "tuning.jsonl").read(TuningRecord)
        written += write_peers_report(peers, tuning, folder)
    if fairness := ResultsFile(folder / "fairness.jsonl").read(FairnessRecord):
        written += write_fairness_report(fairness, folder)
    if growth := ResultsFile(folder / "growth.jsonl").read(GrowthRecord):
        written += write_growth_report(growth, folder)
    return written
