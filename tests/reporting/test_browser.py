"""The page in a real browser: drawn, searched, sorted, by keyboard, in light and dark, with nothing on the console."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from foresighted.reporting import write_report
from foresighted.reporting.charts import Chart, Point, Series
from foresighted.reporting.page import Legend, Page, Section, render
from foresighted.reporting.responses import Response, pack

pytestmark = pytest.mark.browser

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

KINDS = ("comparison", "evaluation", "audited")


class Opened:
    """A page that was opened, and what it said or asked for since."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.requested: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.goto(path.as_uri())
        if options.get("java_script_enabled", True):
            self.page.wait_for_selector("html[data-ready]", timeout=60_000)


@pytest.fixture(scope="module")
def files(comparison: Path, evaluation: Path, audited: Path) -> dict[str, Path]:
    return {name: write_report(path) for name, path in zip(KINDS, (comparison, evaluation, audited), strict=True)}


@pytest.fixture(scope="module")
def shared(files: dict[str, Path], chromium: Any) -> Iterator[Opened]:
    """One opened comparison for all tests that use it as a reader would."""
    opened = Opened(chromium, files["comparison"])
    yield opened
    opened.context.close()


@pytest.mark.parametrize(("kind", "scheme"), [("comparison", "dark"), ("evaluation", "dark"), ("audited", "light")])
def test_drawn_silent_self_contained_and_accessible(
    files: dict[str, Path], chromium: Any, kind: str, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    opened = Opened(chromium, files[kind], color_scheme=scheme)
    page = opened.page
    marks = page.evaluate(
        "[...document.querySelectorAll('[data-chart]')].map(place => [place.dataset.chart,"
        " place.querySelectorAll('.mark-symbol path, .mark-line path').length])"
    )
    assert len(marks) >= 4
    assert all(count > 0 for _, count in marks), marks
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    found = axe.Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
    page.set_viewport_size({"width": 390, "height": 800})
    expect(page.locator(".chart svg").last).to_have_attribute("width", re.compile(r"3[0-9]{2}"))
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("window.hacked") is None
    assert opened.said == []
    assert opened.requested == [files[kind].as_uri()]
    opened.context.close()


def _texts(page: Any) -> list[str]:
    found: list[str] = page.locator("#found-list .response > .text").all_text_contents()
    return found


def _values(page: Any, name: str) -> list[float]:
    script = (
        "name => [...document.querySelectorAll('#found-list dl')].map(list => [...list.children]"
        ".find(one => one.firstChild.textContent === name)).map(one => one ? Number(one.lastChild.textContent) : null)"
    )
    found: list[float] = page.evaluate(script, name)
    return found


def test_search_filter_sort_and_pages(shared: Opened) -> None:
    page = shared.page
    assert page.locator("#found").text_content() == "936 found, showing 1 to 20"
    gaps = _values(page, "gap")
    assert gaps == sorted(gaps, reverse=True)
    page.select_option("#order", "1")
    assert _values(page, "gap") == sorted(_values(page, "gap"))
    page.select_option("#sort", "influence")
    assert _values(page, "influence") == sorted(_values(page, "influence"))
    page.select_option("#sort", "|influence|")
    page.select_option("#order", "-1")
    assert _values(page, "influence")[0] == -0.4
    page.locator("#query").fill("CANDIDATE 7 1")
    expect(page.locator("#found")).to_have_text("8 found, showing 1 to 8")
    assert all("A candidate 7 1" in text for text in _texts(page))
    assert page.locator("#found-list mark").first.text_content() == "candidate 7 1"
    page.select_option("[data-filter=seed]", label="1")
    page.select_option("[data-filter=chosen]", label="chosen")
    assert page.locator("#found").text_content() == "2 found, showing 1 to 2"
    page.locator("#query").fill("no such words")
    expect(page.locator("#found")).to_have_text("Nothing found")
    page.locator("#query").fill("")
    expect(page.locator("#found")).to_have_text("180 found, showing 1 to 20")
    page.locator("#after").click()
    assert page.locator("#place").text_content() == "Page 2 of 9"
    assert page.locator("#found").text_content() == "180 found, showing 21 to 40"


def test_side_by_side_with_the_keyboard(shared: Opened) -> None:
    page = shared.page
    page.locator("#query").fill("question 3?")
    expect(page.locator("#found-list mark").first).to_have_text("question 3?", ignore_case=True)
    button = page.locator("#found-list button").first
    button.focus()
    page.keyboard.press("Enter")
    assert page.locator("#beside").is_visible()
    assert "uestion 3?" in page.locator("#beside-title").text_content()
    assert page.locator("#beside-table thead th").count() == 4
    rounds = [int(text) for text in page.locator("#beside-table tbody th").all_text_contents()]
    assert rounds == sorted(rounds)
    assert len(rounds) > 1
    page.keyboard.press("Escape")
    assert not page.locator("#beside").is_visible()
    assert button.evaluate("one => one === document.activeElement")


def test_tables_sort_with_the_keyboard(shared: Opened) -> None:
    page = shared.page
    summary = page.locator("#summary table")
    head = summary.locator("thead th").nth(2)
    head.locator("button").focus()
    for direction in ("ascending", "descending"):
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == direction
        cells = summary.locator("tbody tr td:nth-child(3)").all_text_contents()
        values = [float(cell.split()[0]) for cell in cells]
        assert values == sorted(values, reverse=direction == "descending")


def test_legend_hides_an_arm_and_theme_switches(shared: Opened) -> None:
    page = shared.page
    lines = page.locator("[data-chart=utility] .mark-line path")
    assert lines.count() == 3
    page.locator(".legend input").first.uncheck()
    expect(lines).to_have_count(2)
    for box in page.locator(".legend input").all():
        box.uncheck()
    expect(lines).to_have_count(0)
    page.select_option("#theme", "dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 28)"
    page.select_option("#theme", "")
    for box in page.locator(".legend input").all():
        box.check()
    assert shared.said == []


def test_the_first_screen_fits_and_its_prompt_can_be_chosen(shared: Opened) -> None:
    page = shared.page
    page.set_viewport_size({"width": 1280, "height": 800})
    places = page.evaluate(
        "['.glance', '.opening .chart', '.moments', '.findings'].map(one => document.querySelector(one)"
        ".getBoundingClientRect()).map(one => [one.top + scrollY, one.bottom + scrollY])"
    )
    assert [top for top, _ in places] == sorted(top for top, _ in places)
    assert places[2][1] < 800
    first = page.locator("#words .said").all_text_contents()
    page.select_option("#words select", "2")
    assert page.locator("#words .place").text_content() == "3"
    asked = page.locator("#words .prompt").text_content()
    round_ = page.locator("#samples .round").last.locator(".question").nth(2)
    assert round_.locator(".prompt").text_content().startswith(asked)
    shown = page.locator("#words tr").last
    answers = round_.locator(".answer:not(:first-child)")
    assert shown.locator(".said").all_text_contents() == answers.locator("p:not(.scores)").all_text_contents()
    utilities = [text.split()[1] for text in answers.locator(".scores").all_text_contents()]
    assert shown.locator("strong").all_text_contents() == utilities
    start = round_.locator(".answer p").first.text_content()
    assert page.locator("#words .said").first.text_content() == start
    page.select_option("#words select", "0")
    again = page.locator("#words .said").all_text_contents()
    assert [text.split()[-1] for text in again] == [text.split()[-1] for text in first]
    page.set_viewport_size({"width": 1280, "height": 900})


def test_focus_is_seen_and_goes_in_order(shared: Opened) -> None:
    page = shared.page
    page.reload()
    page.wait_for_selector("html[data-ready]")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the findings"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    names = []
    for _ in range(30):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.outerHTML"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert len(set(names)) > 25  # it goes on, and is caught nowhere
    assert page.locator("[tabindex]:not([tabindex='0']):not([tabindex='-1'])").count() == 0


def test_tooltips_show_hostile_names_as_text(shared: Opened) -> None:
    page = shared.page
    for number in range(page.locator("[data-chart=tokens] .mark-symbol path").count()):
        page.locator("[data-chart=tokens] .mark-symbol path").nth(number).hover(force=True)
        shown = (
            page.locator("#vg-tooltip-element").text_content() if page.locator("#vg-tooltip-element").count() else ""
        )
        if "$odd_{" in shown:
            break
    else:
        pytest.fail("no tooltip of the arm with the odd name")
    assert page.locator("#vg-tooltip-element i").count() == 0


def test_without_script_and_on_paper(files: dict[str, Path], chromium: Any) -> None:
    opened = Opened(chromium, files["comparison"], java_script_enabled=False)
    page = opened.page
    assert page.locator("#summary table tbody tr").count() == 3
    assert page.locator("#words .said:visible").count() == 7
    assert page.locator("#words select").is_hidden()
    assert page.locator("#samples .round:visible").count() == 1
    assert page.locator("noscript").count() == 1
    assert page.locator("#responses form").is_hidden()
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator("nav").is_visible()
    assert page.locator("#samples .round:visible").count() == 1
    opened.context.close()


def test_names_that_end_lines_strings_and_scripts_leave_a_page_alive(chromium: Any, tmp_path: Path) -> None:
    names = ("line\u2028end", "quote\"'\\", "{{brace}} {%", "</script><b>", "two\nlines\x01", "\u2029")
    ends = (Point(0.0, 1.0, 0.5, 1.5), Point(1.0, 2.0, 1.5, 2.5))
    series = tuple(Series(name, i, ends) for i, name in enumerate(names))
    forest = tuple(Series(one.label, one.index, one.points[:1]) for one in series)
    charts = (
        Chart("lines", names[0], names[0], names[1], series),
        Chart("rows", names[2], names[3], names[0], forest, kind="forest"),
    )
    found = [Response("held out", name, "0", 1, name, name, name, name, {"reward": 1.0}) for name in names]
    legend = tuple(Legend(name, i) for i, name in enumerate(names))
    page = Page(names[0], names, legend, (Section("all", names[1], "", charts),), responses=pack(found, names, names))
    path = tmp_path / "hostile.html"
    path.write_bytes(render(page))
    opened = Opened(chromium, path)
    assert opened.said == []
    assert opened.page.locator("[data-chart=lines] .mark-line path").count() == len(names)
    assert opened.page.locator("[data-chart=rows] .mark-symbol path").count() == len(names)
    assert sorted(_texts(opened.page)) == sorted(names)
    opened.context.close()
