"""Result documents as workers write them: a usual one, and one of the largest that is allowed."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from jobs.ensembles import EnsembleStore
from service.report.page import render_report

Result = dict[str, Any]
Render = Callable[[Result], str]
DIGEST = f"sha256:{'5' * 64}"

RESULT: Result = {
    "weights": {"digits": 0.7, "fashion": 0.3, "texture": 0.0},
    "objective": {
        "h_score": 2.5,
        "h_score_adjusted": 1.75,
        "composite_h_score_adjusted": 1.5,
        "gradient_penalty": 0.125,
        "total": 1.625,
    },
    "sources": [
        {"name": "digits", "version": 1, "digest": DIGEST, "h_score": 1.5, "logme": -0.25},
        {"name": "fashion", "version": 2, "digest": DIGEST, "h_score": 1.25, "logme": 0.5},
        {"name": "texture", "version": 1, "digest": DIGEST, "h_score": 1.0, "logme": 0.125},
    ],
    "screening": {
        "num_images": 128,
        "dropped": [
            {"name": "noise", "version": 4, "digest": DIGEST, "score": -0.5, "reason": "too weak"}
        ],
    },
    "gradient_cosine": [[1.0, -0.4, None], [-0.4, 1.0, 0.2], [None, 0.2, 1.0]],
    "gradient_num_images": 8,
    "composition_gap": {"aligned": 0.5, "unaligned": 0.75, "num_images": 64},
    "leaderboard": [
        {"method": "hgprompt", "accuracy": 0.81, "ci95": [0.74, 0.87]},
        {"method": "single", "source": "digits", "accuracy": 0.83, "ci95": [0.76, 0.88]},
        {"method": "none", "accuracy": 0.7, "ci95": [0.63, 0.77]},
        {"method": "hgprompt", "tuned": True, "accuracy": 0.8, "ci95": [0.73, 0.86]},
    ],
    "chosen": {"method": "single", "source": "digits", "accuracy": 0.83},
    "ablations": [
        {
            "name": "without alignment",
            "accuracy": 0.75,
            "ci95": [0.68, 0.82],
            "difference": -0.06,
            "difference_ci95": [-0.1, -0.02],
            "weights": {"digits": 0.5, "fashion": 0.25, "texture": 0.25},
        },
        {"name": "feature sum", "difference": 0.01, "difference_ci95": [-0.01, 0.03]},
    ],
    "validation": {
        "accuracy": 0.83,
        "ece": 0.04,
        "num_images": 150,
        "temperature": 1.5,
        "reliability": [
            {"low": 0.0, "high": 0.5, "count": 0, "confidence": None, "accuracy": None},
            {"low": 0.5, "high": 0.75, "count": 30, "confidence": 0.625, "accuracy": 0.5},
            {"low": 0.75, "high": 1.0, "count": 120, "confidence": 0.9, "accuracy": 0.9},
        ],
    },
    "confusion_matrix": [[50, 3, 0], [7, 40, 2], [0, 1, 47]],
    "unused_options": [],
    "classes": ["cat", "dog", "<script>alert(1)</script>"],
    "embedding": {
        "method": "t-SNE",
        "composite_of": "hgprompt",
        "labels": [0, 1, 2, 0],
        "plain": [[0.0, 0.0], [1.0, 0.5], [0.5, 1.0], [0.1, 0.1]],
        "composite": [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.1, 0.0]],
    },
    "timings_s": {"features": 12.5, "weights": 1.25},
    "advice": "A single source does as well: 'digits' & friends.",
    "objective_curve": [[1, 0.1], [2, 0.5], [3, 0.9]],
    "composite_curve": [[1, 1.0], [2, 1.25]],
    "lineage": {"code_version": "abc123", "num_images": 500},
}


@pytest.fixture
def result() -> Result:
    return dict(RESULT)


@pytest.fixture
def large_result() -> Result:
    """100 sources, 1,000 classes, 500 points on the map, and names as long as they may be."""
    rng = random.Random(0)  # noqa: S311
    names = [f"source-{i:02d}-{'x' * 54}" for i in range(100)]
    classes = [f"the class number {i} {'of many words ' * 12}" for i in range(1000)]
    weights = [1 / (i + 2) for i in range(100)]
    curve = [[i + 1, 1 - 0.9**i] for i in range(400)]
    return RESULT | {
        "weights": {name: w / sum(weights) for name, w in zip(names, weights, strict=True)},
        "sources": [
            {"name": name, "version": 99_999_999, "h_score": rng.random() * 900, "logme": -0.5}
            for name in names
        ],
        "screening": {
            "num_images": 128,
            "dropped": [
                {"name": f"{name}-dropped", "version": 1, "score": 0.5, "reason": "weak " * 20}
                for name in names
            ],
        },
        "gradient_cosine": [[rng.uniform(-1, 1) for _ in names] for _ in names],
        "leaderboard": [
            {"method": "hgprompt", "accuracy": 0.1, "ci95": [0.05, 0.15]},
            *(
                {"method": "single", "source": name, "accuracy": 0.3, "ci95": [0.2, 0.4]}
                for name in names
            ),
        ],
        "chosen": {"method": "single", "source": names[77]},
        "confusion_matrix": [
            [int(rng.random() < 0.002 or i == j) for j in range(1000)] for i in range(1000)
        ],
        "classes": classes,
        "embedding": {
            "labels": [rng.randrange(1000) for _ in range(500)],
            "plain": [[rng.random(), rng.random()] for _ in range(500)],
            "composite": [[rng.random(), rng.random()] for _ in range(500)],
        },
        "objective_curve": curve,
        "composite_curve": curve,
    }


@pytest.fixture
def render(ensembles: EnsembleStore, publish: Callable[..., Any]) -> Render:
    """Render the page of a fit that gave this result."""
    fit_id, _ = publish("zoo")
    record = ensembles.record(fit_id)
    return lambda result: render_report(record.model_copy(update={"result": result}))
