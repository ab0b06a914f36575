"""The report in a real browser: nothing fails or is fetched, charts are drawn, tables sort, it fits every screen."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")
KERNELS = "[aria-label^=Kernels] table"
UNDRAWN = """
return [...document.querySelectorAll("figure svg, svg.stack, .graph svg")].filter((svg) => {
  if (!svg.checkVisibility() || svg.closest("svg svg") !== null) return false;
  const box = svg.getBoundingClientRect();
  return box.width < 1 || box.height < 1 || svg.childElementCount === 0;
}).map((svg) => svg.outerHTML.slice(0, 120));
"""


def show(browser: Any, address: str, width: int = 1200, scheme: str = "light", opened: bool = False) -> None:
    """Load a page at a width, in a colour scheme; `opened`: with all details open."""
    preference = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": preference})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # what earlier pages said
    browser.get(address)
    if opened:
        browser.execute_script("for (const e of document.querySelectorAll('details')) e.open = true")


@pytest.mark.parametrize("page", ["everything", "plain", "bare"])
def test_no_error_is_told_and_nothing_is_fetched(browser: Any, places: dict[str, str], page: str) -> None:
    show(browser, places[page], opened=True)
    assert browser.get_log("browser") == []
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert {url for url in asked if not url.startswith("data:")} <= {places[page]}


@pytest.mark.parametrize("page", ["everything", "plain"])
def test_every_chart_is_drawn(browser: Any, places: dict[str, str], page: str) -> None:
    show(browser, places[page], opened=True)
    assert len(browser.find_elements("css selector", "figure.chart svg")) > 10
    assert browser.execute_script(UNDRAWN) == []


def test_charts_side_by_side_are_level(browser: Any, places: dict[str, str]) -> None:
    show(browser, places["everything"], opened=True)
    uneven = (
        "return [...document.querySelectorAll('.pair:not(.single)')].filter((p) => p.querySelector('.chart'))"
        ".map((p) => [...p.children].map((c) => c.getBoundingClientRect().top)).filter(([a, b]) => a !== b)"
    )
    assert browser.execute_script(uneven) == []


def column(browser: Any, table: Any, place: int) -> list[str]:
    return browser.execute_script(
        "return [...arguments[0].tBodies[0].rows].map((r) => r.cells[arguments[1]])"
        ".map((c) => (c.dataset.v ?? c.textContent).trim())",
        table,
        place,
    )


def test_tables_sort_by_click_and_by_key(browser: Any, places: dict[str, str]) -> None:
    from selenium.webdriver.common.keys import Keys

    show(browser, places["everything"], opened=True)
    table = browser.find_element("css selector", KERNELS)
    heads = table.find_elements("css selector", "thead th")
    names = [h.get_attribute("textContent").split()[0] for h in heads]
    place = names.index("ms")
    button = heads[place].find_element("css selector", "button")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button)
    button.click()
    values = [float(v) for v in column(browser, table, place)]
    assert values == sorted(values, reverse=True)
    assert heads[place].get_attribute("aria-sort") == "descending"
    button.send_keys(Keys.ENTER)
    values = [float(v) for v in column(browser, table, place)]
    assert values == sorted(values)
    assert heads[place].get_attribute("aria-sort") == "ascending"
    heads[0].find_element("css selector", "button").send_keys(Keys.SPACE)
    words = column(browser, table, 0)
    assert words == sorted(words)
    assert heads[place].get_attribute("aria-sort") is None


def test_large_tables_can_be_filtered(browser: Any, places: dict[str, str]) -> None:
    show(browser, places["everything"], opened=True)
    box = browser.find_element("css selector", "input[type=search]")
    rows = (
        "return [...arguments[0].closest('.tools').parentElement.querySelectorAll('tbody tr')]"
        ".filter((r) => !r.hidden).length"
    )
    before = browser.execute_script(rows, box)
    box.send_keys("no such row at all")
    assert browser.execute_script(rows, box) < before
    box.clear()
    box.send_keys(" ")
    assert browser.execute_script(rows, box) == before


def test_a_plot_is_read_with_the_keyboard(browser: Any, places: dict[str, str]) -> None:
    from selenium.webdriver.common.keys import Keys

    show(browser, places["everything"])
    figure = browser.find_element("css selector", "[data-plot=distribution]")
    shown = "return arguments[0].querySelector('.curves tbody td').textContent"
    before = browser.execute_script(shown, figure)
    slider = figure.find_element("css selector", "input[type=range]")
    for _ in range(20):
        slider.send_keys(Keys.ARROW_RIGHT)
    assert browser.execute_script(shown, figure) != before
    assert browser.execute_script("return arguments[0].querySelector('.share').textContent", figure) == "70"


@pytest.mark.parametrize("page", ["everything", "plain"])
@pytest.mark.parametrize("width", [390, 768, 1200])
def test_no_width_scrolls_sideways(browser: Any, places: dict[str, str], page: str, width: int) -> None:
    show(browser, places[page], width=width, opened=True)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser: Any, places: dict[str, str], scheme: str) -> None:
    show(browser, places["everything"], scheme=scheme, opened=True)
    assert browser.execute_script(CONTRAST) == []


def test_dark_is_dark(browser: Any, places: dict[str, str]) -> None:
    found = {}
    for scheme in ("light", "dark"):
        show(browser, places["plain"], scheme=scheme)
        text = browser.execute_script("return getComputedStyle(document.body).color")
        found[scheme] = sum(map(int, text.removeprefix("rgb(").rstrip(")").split(",")))
    assert found["dark"] > 3 * 150 > found["light"]


def test_paper_shows_what_the_screen_folds_away(browser: Any, places: dict[str, str]) -> None:
    show(browser, places["everything"])
    shown = f'return document.querySelector("{KERNELS} tbody td").checkVisibility({{contentVisibilityAuto: true}})'
    from selenium.webdriver.support import wait

    assert not browser.execute_script(shown)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    wait.WebDriverWait(browser, 5).until(lambda b: b.execute_script(shown))  # paper is laid out anew, in its own time
    assert not browser.execute_script("return document.querySelector('nav').checkVisibility()")


def test_what_a_screen_reader_meets(browser: Any, places: dict[str, str]) -> None:
    show(browser, places["everything"], opened=True)
    levels = browser.execute_script(
        "return [...document.querySelectorAll('h1, h2, h3, h4, h5')].map((h) => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    unnamed = (
        "return [...document.querySelectorAll('svg[role=img], [role=region], [role=group]')]"
        ".filter((e) => !e.getAttribute('aria-label')).length"
    )
    assert browser.execute_script(unnamed) == 0
