"""The page as the service sends it, in a real Chromium."""

import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, Page, Route, async_playwright

pytestmark = pytest.mark.anyio

Result = dict[str, Any]
Open = Callable[..., Awaitable[Page]]

URL = "http://report.test/v1/ensembles/zoo/report"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = ("--disable-gpu", "--disable-quic", "--disable-sync", "--disable-component-update")


@pytest.fixture(scope="module")
def executable() -> str:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        reason = f"none of {', '.join(NAMES)} is installed"
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
async def browser(executable: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=executable, chromium_sandbox=False, args=QUIET
        )
        yield browser
        await browser.close()


@pytest.fixture
async def open_report(
    browser: Browser, client: httpx.AsyncClient, publish: Callable[..., Any]
) -> AsyncIterator[Open]:
    """Show a result's report; afterwards nothing may have been said or fetched but the page."""
    told: list[str] = []
    fetched: list[str] = []
    opened: list[Page] = []

    async def serve(route: Route) -> None:
        fetched.append(route.request.url)
        found = await client.get(httpx.URL(route.request.url).raw_path.decode())
        await route.fulfill(
            status=found.status_code, headers=dict(found.headers), body=found.content
        )

    async def open_(result: Result, *, width: int = 1280, scheme: Any = "light") -> Page:
        publish("zoo", result)
        page = await browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        opened.append(page)
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        await page.route("**/*", serve)
        await page.goto(URL)
        return page

    yield open_
    for page in opened:
        await page.close()
    assert told == []
    assert fetched == [URL] * len(opened)


async def colour(page: Page, selector: str, name: str) -> list[float]:
    """The computed colour (red, green, blue) of an element, from 0 to 255."""
    text = await page.eval_on_selector(selector, f"e => getComputedStyle(e)[{name!r}]")
    return [float(value) for value in re.findall(r"[\d.]+", text)][:3]


@asynccontextmanager
async def media(page: Page, kind: Any) -> AsyncIterator[None]:
    await page.emulate_media(media=kind)
    yield
    await page.emulate_media(media="screen")


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("size", ["usual", "large"])
async def test_the_page_is_never_wider_than_the_window(
    open_report: Open, result: Result, large_result: Result, width: int, size: str
) -> None:
    page = await open_report(result if size == "usual" else large_result, width=width)
    inner, outer = await page.evaluate("[innerWidth, document.documentElement.scrollWidth]")
    assert (inner, outer) == (width, width)
    beyond = await page.evaluate(
        """() => [...document.querySelectorAll("main *")]
            .filter(e => !e.closest(".scroll svg, .scroll table, .rows dt"))
            .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5)
            .map(e => e.outerHTML.slice(0, 120))"""
    )
    assert beyond == []


async def test_names_and_values_beside_a_chart_do_not_cover_it(
    open_report: Open, large_result: Result
) -> None:
    for width in (400, 1280):
        page = await open_report(large_result, width=width)
        gaps = await page.evaluate(
            """() => [...document.querySelectorAll(".rows")].flatMap(figure => {
                const plot = figure.querySelector("svg").getBoundingClientRect();
                return [...figure.querySelectorAll("dt")].map(dt => [
                    plot.left - dt.getBoundingClientRect().right,
                    dt.nextElementSibling.getBoundingClientRect().left - plot.right,
                    dt.nextElementSibling.getBoundingClientRect().top
                        - dt.getBoundingClientRect().top,
                    plot.width,
                ]);
            })"""
        )
        assert len(gaps) > 50
        for left, right, shift, plot_width in gaps:
            assert left > 0
            assert right > 0
            assert shift == 0
            assert plot_width > 100


async def test_dark_mode_is_dark_and_light_mode_light(open_report: Open, result: Result) -> None:
    dark = await open_report(result, scheme="dark")
    assert max(await colour(dark, "body", "backgroundColor")) < 40
    assert min(await colour(dark, "body", "color")) > 200
    assert min(await colour(dark, ".rows svg text", "fill")) > 120
    assert max(await colour(dark, ".dot:not(.filled)", "fill")) < 40
    light = await open_report(result, scheme="light")
    assert await colour(light, "body", "backgroundColor") == [255, 255, 255]
    assert max(await colour(light, "body", "color")) < 60
    for page in (dark, light):
        classes = [await colour(page, f".planes .c{i}", "fill") for i in range(3)]
        assert len({tuple(each) for each in classes}) == 3


async def test_bars_are_as_long_as_their_weights(open_report: Open, result: Result) -> None:
    page = await open_report(result)
    bars, tracks = [
        await page.eval_on_selector_all(
            f"#weights .{name}", "all => all.map(e => e.getBoundingClientRect().width)"
        )
        for name in ("bar", "track")
    ]
    shares = [bar / track for bar, track in zip(bars, tracks, strict=True)]
    assert shares == pytest.approx([0.7, 0.3, 0.0], abs=0.002)


async def test_every_chart_is_named_and_described_to_a_screen_reader(
    open_report: Open, result: Result
) -> None:
    page = await open_report(result)
    for name in (
        "Held-out accuracy of the candidates 4 candidates; single · digits is best, 0.830.",
        "Cosines of the sources' mean gradients 3 sources; 1 of 2 pairs are below 0.",
        "Plain features 4 images of 3 classes on a plane.",
        "Confusion matrix 3 classes; 137 of 150 images are right.",
    ):
        assert await page.get_by_role("img", name=name, exact=True).count() == 1, name
    for heading in await page.locator("h2").all_inner_texts():
        assert await page.get_by_role("region", name=heading, exact=True).count() == 1, heading
    assert "rowheader" in await page.locator("#sources table").aria_snapshot()


async def test_links_lead_to_the_sections(open_report: Open, result: Result) -> None:
    page = await open_report(result)
    await page.get_by_role("link", name="Calibration").click()
    assert page.url == f"{URL}#calibration"
    top = await page.eval_on_selector("#calibration", "e => e.getBoundingClientRect().top")
    assert 0 <= top < 900


async def test_paper_is_white_and_shows_what_the_screen_folds(
    open_report: Open, large_result: Result
) -> None:
    page = await open_report(large_result, scheme="dark")
    folded = page.locator("#sources details td").first
    assert not await folded.is_visible()
    async with media(page, "print"):
        assert await colour(page, "body", "backgroundColor") == [255, 255, 255]
        assert max(await colour(page, "body", "color")) == 0
        assert await folded.is_visible()
        assert not await page.locator("nav").is_visible()
    assert not await folded.is_visible()


async def test_the_page_can_be_printed(open_report: Open, result: Result) -> None:
    page = await open_report(result)
    pdf = await page.pdf(format="A4", print_background=True)
    assert pdf.startswith(b"%PDF-")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 10
