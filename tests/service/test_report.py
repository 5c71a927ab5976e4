import re
from collections.abc import Callable
from html.parser import HTMLParser

import httpx
import pytest

from jobs.ensembles import EnsembleStore
from jobs.records import FitId
from service.charts import Axis, curve, leaderboard
from service.matrices import confusion_matrix, cosine_matrix, worst_confusions
from service.report import render_report
from service.report_data import Ranked, ReportData

pytestmark = pytest.mark.anyio

Publish = Callable[..., tuple[FitId, str]]

RESULT: dict[str, object] = {
    "weights": {"digits": 0.7, "fashion": 0.3, "texture": 0.0},
    "objective": {
        "h_score": 2.5,
        "h_score_adjusted": 1.75,
        "gradient_penalty": 0.125,
        "total": 1.625,
    },
    "sources": [
        {"name": "digits", "version": 1, "digest": f"sha256:{'5' * 64}", "h_score": 1.5},
        {"name": "fashion", "version": 2, "digest": f"sha256:{'6' * 64}", "h_score": 1.25},
        {"name": "texture", "version": 1, "digest": f"sha256:{'7' * 64}", "h_score": 1.0},
    ],
    "gradient_cosine": [[1.0, -0.4, None], [-0.4, 1.0, 0.2], [None, 0.2, 1.0]],
    "composition_gap": {"aligned": 0.5, "unaligned": 0.75},
    "leaderboard": [
        {"method": "hgprompt", "accuracy": 0.81, "ci95": [0.74, 0.87]},
        {"method": "single", "source": "digits", "accuracy": 0.83, "ci95": [0.76, 0.88]},
        {"method": "none", "accuracy": 0.7, "ci95": [0.63, 0.77]},
        {"method": "hgprompt", "tuned": True, "accuracy": 0.8, "ci95": [0.73, 0.86]},
    ],
    "chosen": {"method": "single", "source": "digits"},
    "validation": {"accuracy": 0.83, "ece": 0.04, "num_images": 150},
    "confusion_matrix": [[50, 3, 0], [7, 40, 2], [0, 1, 47]],
    "classes": ["cat", "dog", "<script>alert(1)</script>"],
    "timings_s": {"features": 12.5, "weights": 1.25},
    "advice": "A single source does as well: 'digits' & friends.",
    "objective_curve": [[1, 0.1], [2, 0.5], [3, 0.9]],
    "lineage": {"code_version": "abc123"},
}


class Checker(HTMLParser):
    """Collects what a page would load, and checks that its elements nest."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for key, value in attrs if key in ("src", "href")]
        if tag not in self.VOID:  # elements without an end
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.references == []  # nothing is loaded from anywhere
    assert "script" not in checker.tags
    return checker


async def test_the_report_shows_every_part(client: httpx.AsyncClient, publish: Publish) -> None:
    _, digest = publish("zoo", RESULT)
    response = await client.get("/v1/ensembles/zoo/report")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    page = response.text
    assert check(page).tags.count("svg") == 6
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        "Weights α",  # noqa: RUF001
        "Leaderboard",
        "Objective",
        "Gradient conflict",
        "Composition gap",
        "Confusion on the validation images",
        "Sources alone",
        "Time",
        "Lineage",
    ]
    for text in (digest, "0.830", "single · digits", "&#39;digits&#39; &amp; friends", "abc123"):
        assert text in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize("missing", sorted(RESULT))
def test_any_part_may_be_missing_or_of_another_form(
    ensembles: EnsembleStore, publish: Publish, missing: str
) -> None:
    fit_id, _ = publish("zoo")
    record = ensembles.record(fit_id)
    rest = {key: value for key, value in RESULT.items() if key != missing}
    check(render_report(record.model_copy(update={"result": rest})))
    for strange in (None, "text", 3, [], {}, [["x"]], {"x": "y"}, [1, 2]):
        result = {**rest, missing: strange}
        check(render_report(record.model_copy(update={"result": result})))


async def test_an_empty_result_still_has_its_lineage(
    client: httpx.AsyncClient, publish: Publish
) -> None:
    _, digest = publish("zoo", {})
    page = (await client.get("/v1/ensembles/zoo/report")).text
    assert check(page).tags.count("svg") == 0
    assert digest in page


def test_ticks_are_round_and_on_the_axis() -> None:
    ticks = Axis(0.613, 0.897, 100.0).ticks
    assert [tick.label for tick in ticks] == ["0.7", "0.8"]
    assert [tick.at_px for tick in ticks] == pytest.approx([30.63, 65.85], abs=0.01)
    assert [tick.label for tick in Axis(0, 1, 1).ticks] == ["0", "0.5", "1"]


def test_dots_lie_within_their_intervals_and_only_the_chosen_is_marked() -> None:
    ranked = ReportData.model_validate(RESULT).leaderboard
    assert ranked is not None
    _, dots = leaderboard(ranked, ReportData.model_validate(RESULT).chosen)
    assert [dot.label for dot in dots] == [
        "single · digits",
        "hgprompt",
        "hgprompt · tuned",
        "none",
    ]
    assert [dot.chosen for dot in dots] == [True, False, False, False]
    for dot in dots:
        assert dot.low_px is not None
        assert dot.high_px is not None
        assert 0 < dot.low_px < dot.at_px < dot.high_px < 460
    _, (only,) = leaderboard([Ranked(method="none", accuracy=1.0)], "none")
    assert (only.low_px, only.chosen) == (None, True)


def test_matrices_have_a_cell_for_every_pair() -> None:
    data = ReportData.model_validate(RESULT)
    cosines = cosine_matrix(data)
    assert cosines is not None
    assert (cosines.size, len(cosines.cells)) == (3, 9)
    assert cosines.labels == ("digits", "fashion", "texture")
    assert [cell.negative for cell in cosines.cells[:3]] == [False, True, False]
    confusion = confusion_matrix(data)
    assert confusion is not None
    assert confusion.cells[3].title == "dog taken for cat: 7"
    worst = worst_confusions(data)[0]
    assert (worst.actual, worst.predicted, worst.count) == ("dog", "cat", 7)


def test_matrices_that_are_not_square_are_left_out() -> None:
    ragged = {
        "gradient_cosine": [[1.0], [1.0, 2.0]],
        "confusion_matrix": [[1, 2]],
        "classes": ["a"],
    }
    data = ReportData.model_validate(ragged)
    assert cosine_matrix(data) is None
    assert confusion_matrix(data) is None
    assert worst_confusions(data) == []


def test_a_curve_needs_two_points() -> None:
    assert curve([]) is None
    assert curve([(1, 2.0)]) is None
    drawn = curve([(1, 0.0), (2, 0.5), (3, 1.0)])
    assert drawn is not None
    assert drawn[1] == "0.0,160.00 230.0,80.00 460.0,0.00"
    flat = curve([(1, 2.0), (2, 2.0)])
    assert flat is not None
    assert flat[1] == "0.0,160.00 460.0,160.00"
