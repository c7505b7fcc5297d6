"""The report in a real browser: no error, sliders that move the pictures, nothing wider than a telephone.

It needs playwright (``pip install "ndm[browser]"``) and Debian's package chromium, or one that playwright installs. If
the variable NDM_SCREENSHOTS names a folder, the screenshots are kept there: light and dark, phone and desktop.
"""

import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from ndm.cli import main
from ndm.report.subject import BUDGETS
from pages import report, untrained

SIZES = {"phone": (390, 844), "desktop": (1280, 900)}
SCHEMES = ("light", "dark")


def unavailable(reason):
    """Skip these tests, and say so in the summary of the suite."""
    warnings.warn(f"the report is not tested in a browser: {reason}", stacklevel=2)
    pytest.skip(reason, allow_module_level=True)


try:
    from playwright.sync_api import Error, sync_playwright
except ImportError:
    unavailable('playwright is not installed; run: pip install "ndm[browser]"')


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium, or the one that playwright has installed."""
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        try:
            found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except Error as error:
            if path is not None:
                raise
            reason = f"there is no chromium; run: apt-get install chromium ({str(error).splitlines()[0]})"
            warnings.warn(f"the report is not tested in a browser: {reason}", stacklevel=2)
            pytest.skip(reason)
        yield found
        found.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory, finished_run):
    """A page of a run of digits, of points in the plane, of a table, and of three runs."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        for name in BUDGETS:
            patch.setitem(BUDGETS, name, 1e9)
        patch.setattr("ndm.scoring.model.log_density", lambda model, rows, *_, **__: -rows.double().square().sum(1))
        report(finished_run, folder / "digits.html")
        for seed in range(3):
            settings = {"seed": seed, "model.transform": "linear"}
            untrained(folder / f"moons-{seed}", "moons", {"bound, T=10": 3 + seed}, **settings)
        tiny = ["--model.width", "8", "--training.steps", "30", "--training.warmup", "1", "--device", "cpu", "--quiet"]
        assert main(["train", "moons", "--model.transform", "linear", "--out", str(folder / "plane"), *tiny]) == 0
        report(folder / "plane", folder / "plane.html")
        report(*(folder / f"moons-{seed}" for seed in range(3)), folder / "runs.html")
        cities = ["Basel", "Bern", "a very long name of a place" * 3]
        rows = [f"{k % 7},{k * 37 % 100 / 7:.3f},{cities[k % 3]}" for k in range(120)]
        (folder / "x.csv").write_text("\n".join(["count,a_long_name_of_a_column_without_spaces,city", *rows]))
        arguments = ["train", "table", "--data.path", str(folder / "x.csv"), "--out", str(folder / "table")]
        assert main([*arguments, "--training.steps", "4", "--model.width", "8", "--device", "cpu", "--quiet"]) == 0
        report(folder / "table", folder / "table.html")
    torch.set_default_dtype(before)
    return folder


NAMES = ("digits", "plane", "table", "runs")


@pytest.fixture
def opened(browser, pages):
    """Open a page; what its console says, errors, and addresses that it asks for are failures at the end."""
    said, contexts = [], []

    def visit(name, size="desktop", scheme="light", script=True):
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, java_script_enabled=script, offline=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        page.goto((pages / f"{name}.html").as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert said == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES)
def test_the_page_fits_the_screen_in_both_schemes(name, size, opened):
    """Nothing but what scrolls in its own frame is wider than the screen, and the schemes have other colours."""
    backgrounds = set()
    for scheme in SCHEMES:
        page = opened(name, size, scheme)
        wide = page.evaluate(
            "[...document.querySelectorAll('main *, header *')].filter(e => !e.closest('.scroll, svg, pre, .strip')"
            " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
        )
        assert wide == [] and page.evaluate("document.documentElement.scrollWidth") == SIZES[size][0]
        backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        if folder := os.environ.get("NDM_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=Path(folder) / f"{name}-{size}-{scheme}.png", full_page=True)
    assert len(backgrounds) == 2


@pytest.mark.parametrize(("name", "count"), [("digits", 1), ("plane", 2)])
def test_every_slider_moves_its_picture_by_the_keyboard(name, count, opened):
    page = opened(name)
    figures = page.locator(".moving")
    assert figures.count() == count
    for k in range(count):
        figure = figures.nth(k)
        picture, slider = figure.locator("svg, .strips").first, figure.locator("input")
        slider.focus()
        shots, times = [], []
        for key in ("Home", "ArrowRight", "End"):
            page.keyboard.press(key)
            times.append(figure.locator("output").inner_text())
            shots.append(picture.screenshot())
        assert len(set(shots)) == 3 and len(set(times)) == 3
        assert {times[0], times[2]} == {"t = 0.00", "t = 1.00"}
        assert slider.get_attribute("aria-valuetext") == times[2]


def test_the_frames_of_a_strip_are_those_of_the_slider(opened):
    """The first and the last frame are at the ends of the picture of which one frame is seen."""
    page = opened("digits")
    strips = page.locator(".strip img")
    page.locator(".moving input").fill("0")
    edge = "(e, side) => [e.getBoundingClientRect()[side], e.parentElement.getBoundingClientRect()[side]]"
    left = strips.first.evaluate(edge, "left")
    page.locator(".moving input").fill("10")
    last = strips.first.evaluate(
        "e => [e.getBoundingClientRect().right, e.parentElement.getBoundingClientRect().right]"
    )
    assert abs(left[0] - left[1]) <= 2 and abs(last[0] - last[1]) <= 2


def test_the_page_can_be_read_without_its_script(opened):
    page = opened("plane", script=False)
    assert page.locator("svg .trail").count() > 100 and page.locator("svg .contour").count() == 3


def test_links_and_details_are_reached_by_the_keyboard(opened):
    page = opened("digits")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details").first.get_attribute("open") is not None
