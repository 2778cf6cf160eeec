"""The notebooks with explorers as a reader has them: JupyterLab in a headless Chromium, every control moved.

Skipped where there is no Chromium or no Playwright (`make test-browser` brings the latter). Screenshots of what was
seen lie in the folder that ANALYSIS_SCREENSHOTS names.
"""

import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from analysis import paths
from tests.helpers import browser

pytestmark = [pytest.mark.browser, pytest.mark.slow]
NOTEBOOKS = {
    "01_compounding_error": 2,
    "02_calibration_vs_test": 1,
    "03_self_generated_data": 1,
    "05_criteria": 1,
    "08_zero_shot": 1,
}
LIGHT = {"06_retraining", "10_structured_decoder", "12_depth"}  # run from top to bottom among those without explorers
BUILDER = "00_start_here"  # its last cell builds recipes, as one of 01 does
ASKED = ("seed", "temperature", "runs")  # what waits for a button, or may show the same: a store of these runs alone
PUBLISHED = ".jp-MarkdownOutput img"
FIGURE = ".jp-OutputArea-output.jp-RenderedImage"
SECONDS = float(os.environ.get("ANALYSIS_BROWSER_SECONDS", 300))  # for all cells of a notebook


@pytest.fixture(scope="module")
def page():
    """A page of a headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make test-browser")
    if (program := browser.chromium()) is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened.new_page(viewport={"width": 1280, "height": 1400})
        opened.close()


@pytest.fixture(scope="module")
def lab(page, tmp_path_factory):
    """JupyterLab; what opens a notebook in it, a new copy or, with `again`, as it was left. Results lie in the folder
    that all tests share.
    """
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    shutil.copytree(paths.figures(), folder / "figures")

    def open_notebook(name: str, again: bool = False) -> browser.Notebook:
        if not again:
            shutil.copy(paths.notebooks() / f"{name}.ipynb", folder / "notebooks")
        return browser.Notebook(page, address, f"notebooks/{name}.ipynb")

    with browser.serving(folder, paths.home()) as address:
        yield open_notebook


def shoot(notebook, name):
    if folder := os.environ.get("ANALYSIS_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        notebook.page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_control_moves_what_is_seen_and_nothing_goes_wrong(lab, page, name):
    notebook = lab(name)
    notebook.run_all(SECONDS)
    assert notebook.output_errors() == []
    assert page.locator(".explorer-view svg").count() >= NOTEBOOKS[name]
    titles = page.locator(".explorer-view svg title")
    assert name in ("05_criteria", "08_zero_shot") or titles.count() > 10
    for place in range(page.locator(".widget-dropdown select").count()):
        notebook.choose_another(place, besides=ASKED)
    for place in range(page.locator(".widget-selectionslider, .jupyter-widgets.widget-slider").count()):
        notebook.push_slider(place, besides=ASKED)
    for place in range(page.locator(".widget-toggle-button").count()):
        notebook.press_toggle(place)
    page.locator(".explorer-view").last.scroll_into_view_if_needed()
    shoot(notebook, name)
    assert notebook.errors == []


@pytest.mark.parametrize(
    "name", sorted({path.stem for path in paths.notebooks().glob("*.ipynb")} - {BUILDER, *NOTEBOOKS})
)
def test_the_others_open_with_their_published_figures_and_the_light_ones_run(lab, page, name):
    notebook = lab(name)
    page.wait_for_selector(PUBLISHED)
    page.wait_for_function(f"() => [...document.querySelectorAll('{PUBLISHED}')].every(one => one.naturalWidth > 0)")
    if name in LIGHT:
        notebook.run_all(SECONDS)
        assert notebook.output_errors() == [] and page.locator(FIGURE).count() >= page.locator(PUBLISHED).count()
    shoot(notebook, name)
    assert notebook.errors == []


def test_a_run_grows_can_be_stopped_and_goes_on_to_its_end(lab, page):
    notebook = lab(BUILDER)
    notebook.run_all(SECONDS)
    run, stop = (page.locator(f"button:text-is('{word}')") for word in ("Run", "Stop"))
    says, wait = partial(page.locator, ".widget-label"), {"timeout": 1000 * SECONDS}
    view = page.locator(".explorer-view:has(svg)").last
    run.click()
    says(has_text="stored already").wait_for(**wait)  # the notebook has run it
    notebook.slide_to_end("epochs")
    before = view.inner_html()
    run.click()
    notebook.settle(view, before, SECONDS)
    shoot(notebook, "00_growing")
    stop.click()
    says(has_text="stopped;").wait_for(**wait)
    shoot(notebook, "00_stopped")
    run.click()
    says(has_text="done, and kept").wait_for(**wait)
    shoot(notebook, "00_done")
    assert notebook.errors == [] and notebook.output_errors() == []


def test_a_notebook_reopened_without_running_shows_its_figures_and_the_explorer_as_it_was_left(lab, page):
    notebook = lab(BUILDER)
    notebook.run_all(SECONDS)
    before = notebook.seen()
    notebook.slide_to_end("windows")
    notebook.changed(before, "windows")
    left, figures = notebook.seen(), page.locator(FIGURE).count()
    notebook.save_and_close()
    notebook = lab(BUILDER, again=True)
    page.wait_for_selector(browser.IDLE, state="attached", timeout=120_000)
    page.locator(".explorer-view svg").wait_for(timeout=1000 * SECONDS)
    assert notebook.seen() == left and page.locator(FIGURE).count() == figures > 1
    assert page.get_by_text("model not found").count() == 0
    page.locator(".explorer-view").last.scroll_into_view_if_needed()
    shoot(notebook, "00_reopened")
    assert notebook.errors == [] and notebook.output_errors() == []
