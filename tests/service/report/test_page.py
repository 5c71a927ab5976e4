import re
from collections.abc import Callable
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

from jobs.ensembles import EnsembleStore
from jobs.records import FitId
from service.report.page import render_report
from tests.result_parts import RESULT_PARTS

pytestmark = pytest.mark.anyio

Result = dict[str, Any]
Render = Callable[[Result], str]


class Checker(HTMLParser):
    """Collects what a page would load, its ids and its pictures; checks that elements nest."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.pictures: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [value or "" for key, value in attrs if key == "id"]
        self.references += [found.get(key) or "" for key in ("src", "href") if key in found]
        self.references += re.findall(r"url\((.*?)\)", " ".join(value or "" for _, value in attrs))
        if tag == "svg":
            self.pictures.append(found)
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
    assert len(set(checker.ids)) == len(checker.ids)
    # nothing is loaded from anywhere: all references lead to the page itself
    assert {each.removeprefix("#") for each in checker.references} <= set(checker.ids)
    assert not {"script", "link", "img", "iframe", "base"} & set(checker.tags)
    for picture in checker.pictures:
        if picture.get("aria-hidden") != "true":
            assert picture["role"] == "img"
            assert set(str(picture["aria-labelledby"]).split()) <= set(checker.ids)
    return checker


def headings(page: str) -> list[str]:
    return re.findall(r"<h2[^>]*>(.*?)</h2>", page)


async def test_the_report_shows_every_part(
    client: httpx.AsyncClient, publish: Callable[..., tuple[Any, str]], result: Result
) -> None:
    _, digest = publish("zoo", result)
    response = await client.get("/v1/ensembles/zoo/report")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    page = response.text
    checker = check(page)
    assert sum(picture.get("aria-hidden") != "true" for picture in checker.pictures) == 12
    assert headings(page) == [
        "Leaderboard",
        "Weights \N{GREEK SMALL LETTER ALPHA}",
        "Ablations",
        "Sources alone",
        "Screening",
        "Gradient conflict",
        "Objective",
        "Composition gap",
        "Features",
        "Confusion on the validation images",
        "Calibration",
        "Time",
        "Lineage",
    ]
    for text in (
        digest,
        "single · digits",
        "0.760 to 0.880",  # of the accuracy
        "&#39;digits&#39; &amp; friends",
        "−0.100 to −0.020",  # noqa: RUF001 (of an ablation)
        "digits 0.50, fashion 0.25, texture 0.25",
        "<b>0.500</b>",  # the best LogME
        "noise@4",
        "too weak",
        "over 8 of its training images",
        "measured on 64 images",
        "tokens as stored",
        "confidence 0.62: accuracy 0.50 on 30 images",
        "<dd>1.500</dd>",  # of the composite, and the temperature
        "abc123",
    ):
        assert text in page, text
    assert "&lt;script&gt;" in page


def test_the_head_of_the_page_says_which_fit_it_is(
    ensembles: EnsembleStore, publish: Callable[..., tuple[FitId, str]], result: Result
) -> None:
    fit_id, _ = publish("zoo")
    record = ensembles.record(fit_id)
    assert record.outcome is not None
    ended = record.created_at + timedelta(hours=3)
    record = record.model_copy(
        update={
            "seed": 7,
            "result": result,
            "outcome": record.outcome.model_copy(update={"finished_at": ended}),
        }
    )
    head = render_report(record).split("<nav")[0]
    asked, finished = (at.strftime("%Y-%m-%d %H:%M UTC") for at in (record.created_at, ended))
    assert f"seed 7 · asked for {asked}, finished {finished}</p>" in head
    assert "<dd>0.830 <small>0.760 to 0.880</small></dd>" in head


def test_what_was_chosen_on_the_held_out_images_is_called_optimistic(
    render: Render, result: Result
) -> None:
    alone = result | {"leaderboard": result["leaderboard"][:1]}
    assert "its accuracy here is optimistic" in render(result)
    assert "optimistic" not in render(alone)


def test_the_calibration_error_is_shown_beside_that_of_chance(
    render: Render, result: Result
) -> None:
    few = {"low": 0.8, "high": 0.9, "count": 4, "confidence": 0.85, "accuracy": 0.75}
    page = render(result | {"validation": {"ece": 0.1, "reliability": [few]}})
    assert "were every probability right, so many would show about 0.157." in page


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        ({"aligned": 0.5, "unaligned": 0.75}, "this fit aligned them before it averaged them"),
        ({"aligned": None, "unaligned": 0.75}, "this fit averaged them as they are stored"),
    ],
)
def test_a_fit_that_did_not_align_is_not_said_to_have(
    render: Render, result: Result, gap: dict[str, float | None], words: str
) -> None:
    assert words in render(result | {"composition_gap": gap})


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("hgprompt", "prompt's learned share"),
        ("h_ensemble", "prompt's learned share"),
        ("mean", "prompt's share"),
        ("spot", "prompt's share"),
    ],
)
def test_weights_are_called_learned_where_they_are(
    ensembles: EnsembleStore,
    publish: Callable[..., tuple[FitId, str]],
    result: Result,
    method: str,
    words: str,
) -> None:
    fit_id, _ = publish("zoo")
    record = ensembles.record(fit_id)
    page = render_report(record.model_copy(update={"result": result, "method": method}))
    assert words in page


@pytest.mark.parametrize("part", RESULT_PARTS)
def test_any_part_may_be_missing_or_of_another_form(
    render: Render, result: Result, part: str
) -> None:
    assert part in result
    rest = {key: value for key, value in result.items() if key != part}
    shown = set(headings(render(result)))
    missing = shown - set(headings(render(rest)))
    assert len(missing) <= 1
    for strange in (None, "text", 3, [], {}, [["x"]], {"x": "y"}, [1, 2], [[1e308, -1e308]] * 2):
        page = render({**rest, part: strange})
        check(page)
        assert set(headings(page)) >= shown - missing  # the other parts are as they were


def test_parts_of_a_part_may_be_missing(render: Render, result: Result) -> None:
    """Of every object in the document, each field in turn."""

    def without_one(value: Any) -> list[Any]:
        if isinstance(value, dict):
            found = [{k: v for k, v in value.items() if k != key} for key in value]
            return found + [{**value, k: each} for k, v in value.items() for each in without_one(v)]
        if isinstance(value, list):
            return [
                [*value[:i], each, *value[i + 1 :]]
                for i, item in enumerate(value)
                for each in without_one(item)
            ]
        return []

    variants = without_one(result)
    assert len(variants) > 80
    for variant in variants:
        check(render(variant))


def test_an_empty_result_still_has_its_lineage(render: Render) -> None:
    page = render({})
    assert check(page).pictures == []
    assert headings(page) == ["Lineage"]


def test_an_earlier_result_does_not_say_on_how_many_images_the_cosines_are(
    render: Render, result: Result
) -> None:
    del result["gradient_num_images"]
    page = render(result)
    assert "Gradient conflict" in headings(page)
    assert "mean gradients on the target. Below" in page


def test_two_looks_are_told_apart(render: Render, result: Result) -> None:
    looks = [{"num_images": 32, "num_sources": 400}, {"num_images": 128, "num_sources": 64}]
    page = " ".join(
        render({**result, "screening": {**result["screening"], "looks": looks}}).split()
    )
    assert "A first look was at 400 sources on 32 images, the next at 64 sources on 128" in page
    assert "A first look on 128 images" in render(result)


def test_sources_that_were_all_kept(render: Render) -> None:
    assert "kept all sources" in render({"screening": {"num_images": 128, "dropped": []}})


def test_the_largest_result_is_a_page_of_bounded_size(render: Render, large_result: Result) -> None:
    page = render(large_result)
    checker = check(page)
    assert len(page) < 1_000_000
    assert len(checker.tags) < 6_000
    assert "more single sources are not drawn" in page
    assert "single · source-77" in page  # the chosen one is, whatever its place
    assert "80 more sources" in page
    assert "90 more dropped sources" in page
    assert "other classes" in page
    assert "Classes that are recognised least" in page
    assert "Strongest conflicts" in page
