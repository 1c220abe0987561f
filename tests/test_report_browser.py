"""A browser draws every chart of the report, logs no error, and its buttons and lines answer."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable

import pytest
from reports import HOSTILE, Page, chart, example

from engine.report.html import render_report
from engine.report.words import number

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr --v=0 "
    "--virtual-time-budget=2000"
).split()


@pytest.fixture(scope="module")
def browse(tmp_path_factory) -> Callable[..., tuple[str, list[str]]]:
    """Return a function that opens a page in headless Chromium and gives its DOM and what it logged to the console."""
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("Chromium is not installed, and CI needs it to look at the report")
        pytest.skip("Chromium is not installed")
    folder = tmp_path_factory.mktemp("browser")

    def look(page: str, width: int = 1200) -> tuple[str, list[str]]:
        path = folder / "page.html"
        path.write_text(page, encoding="utf-8")
        profile = tmp_path_factory.mktemp("profile")
        done = subprocess.run(
            [CHROMIUM, *FLAGS, f"--window-size={width},900", f"--user-data-dir={profile}", "--dump-dom", path.as_uri()],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            check=True,
        )
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return look


def added(page: str, script: str) -> str:
    """Return a page with a script at its end."""
    return page.replace("</body>", f"<script>{script}</script></body>")


def body(dom: str) -> dict:
    """Return what the page wrote on its body."""
    return next(found for tag, found in Page(dom).elements if tag == "body")


WIDER = "document.body.dataset.wider = document.documentElement.scrollWidth - document.documentElement.clientWidth;"


@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_draws_every_chart_without_an_error(browse, width):
    page = render_report(*example())
    dom, console = browse(added(page, WIDER), width)
    assert console == []
    drawn = [found for tag, found in Page(dom).elements if tag == "svg"]
    shown = [found for found in drawn if "data-drawn" in found]
    assert all(re.fullmatch(r"[1-9]\d*x[1-9]\d*", found["data-drawn"]) for found in shown)
    twins = sum(page.count(f'<svg data-chart="{name}"') for name in ("excess", "saved", "worth", "displaced")) // 2
    assert len(drawn) - len(shown) == twins == 4
    assert body(dom)["data-charts"] == body(dom)["data-drawn"] == str(len(shown))
    assert body(dom)["data-wider"] == "0"


def test_names_of_any_kind_stay_inside_the_page(browse):
    dom, console = browse(added(render_report(*example(n=60, names=HOSTILE)), WIDER), 500)
    assert console == [] and body(dom)["data-wider"] == "0"
    assert body(dom)["data-charts"] == body(dom)["data-drawn"]


def test_the_browser_check_sees_an_error_and_an_empty_chart(browse):
    page = render_report(*example(n=150, names=["whale"]))
    broken = page.replace(chart(page, "lead"), chart(page, "lead").replace('class="mark', 'class="gone'))
    dom, console = browse(added(broken, "console.error('planted');"))
    assert len(console) == 1 and "planted" in console[0]
    assert int(body(dom)["data-drawn"]) == int(body(dom)["data-charts"]) - 1
    _, console = browse(added(page, 'fetch("data:text/plain,x").catch(() => 0);'))
    assert console and "Content Security Policy" in console[0]


def test_one_rule_can_be_shown_alone(browse):
    page = render_report(*example(names=["whale", HOSTILE[0], "breakeven"]))
    dom, console = browse(added(page, "document.querySelectorAll('nav button')[2].click();"))
    assert console == []
    parts = [(found["data-rule"], "hidden" in found) for _, found in Page(dom).elements if "data-rule" in found]
    assert {which for which, hidden in parts if not hidden} == {"1"} and {
        which for which, hidden in parts if hidden
    } == {"0", "2"}


def test_pointing_at_a_line_tells_both_values(browse):
    result, detail = example(n=150, names=["whale"])
    script = """const svg = document.querySelector('[data-chart=equity]'), box = svg.getBoundingClientRect();
        svg.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + box.width * 0.85}));"""
    dom, console = browse(added(render_report(result, detail), script))
    told = re.search(r'class="readout"[^>]*>([^<]*)<', dom).group(1)
    totals = [number(y.sum(), 1, sign=True) for y in (detail["trades"].y, detail["policies"]["whale"].y)]
    assert console == [] and told == f"after 150: {totals[0]} without, {totals[1]} with"
