"""Time and memory against everything that can grow."""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.serving.errors import BenchmarkError
from benchmarks.serving.provenance import Measured
from benchmarks.serving.records import GrowthPoint, GrowthRecord

ROOT = Path(__file__).parents[2]
POINT_LIMIT_S = 180
CURVES: dict[str, tuple[int, ...]] = {
    "tenants": (1, 10, 100, 1000, 10_000),
    "classes": (2, 10, 100, 1000, 10_000),
    "batch": (1, 2, 4, 8, 16, 32, 64),
    "fit_images": (50, 100, 200),
    "fit_sources": (2, 4, 8),
}
"""What is varied, and its values; `growth_point` says what each measures."""


def measure_growth(measured: Measured, curve: str, *, quick: bool) -> GrowthRecord:
    """Measure one curve, each point in a process of its own.

    Args:
        measured: The backbone.
        curve: One of `CURVES`.
        quick: Only the first two values.

    Raises:
        BenchmarkError: A point failed or took too long.
    """
    values = CURVES[curve][:2] if quick else CURVES[curve]
    return GrowthRecord(
        provenance=measured.provenance(),
        backbone=measured.record,
        points=tuple(_point(measured, curve, x) for x in values),
    )


def growth_key(record: GrowthRecord) -> set[tuple[str, str, str]]:
    """Return what tells a record from the others."""
    backbone = record.backbone
    return {(backbone.label, backbone.precision, point.curve) for point in record.points}


def _point(measured: Measured, curve: str, x: int) -> GrowthPoint:
    command = [sys.executable, "-m", "benchmarks.serving.growth_point", curve, str(x)]
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command,
            cwd=ROOT,
            env={**os.environ, **measured.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=POINT_LIMIT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"{curve} = {x} took more than {POINT_LIMIT_S} s") from error
    if done.returncode:
        raise BenchmarkError(f"{curve} = {x} failed: {done.stderr[-1000:]}")
    return GrowthPoint(curve=curve, x=x, **json.loads(done.stdout.splitlines()[-1]))
