"""The explorers of the site in a headless Chromium: every control moved, on a page of their own."""

import os
import sys
from pathlib import Path

import pytest

from analysis import paths
from tests.helpers import browser

pytestmark = [pytest.mark.browser, pytest.mark.slow]
STATIC = paths.ROOT / "docs" / "_static"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with all explorers. page.errors: what the console said is wrong."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make test-browser")
    if (program := browser.chromium()) is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    sys.path.insert(0, str(STATIC.parent))
    import explore

    sys.path.pop(0)
    places = "".join(f'<div class="explore" data-explore="{view.table}"></div>' for view in explore.VIEWS)
    style, code = ((STATIC / name).read_text("utf-8") for name in ("site.css", "explore.js"))
    file = tmp_path_factory.mktemp("site") / "explore.html"
    head = f'<meta charset="utf-8"><style>{style}</style><script>{explore.script()}</script><script>{code}</script>'
    file.write_text(head + places, "utf-8")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": 840, "height": 1400})
        page.errors = []
        page.on("console", lambda said: page.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(file.as_uri())
        yield page
        opened.close()


def test_every_menu_switch_and_mark_of_the_site_answers(page):
    explorers = page.locator(".explore")
    assert explorers.count() > 4
    for one in range(explorers.count()):
        explorer = explorers.nth(one)
        figure = explorer.locator(".explore-figure")
        for place in range(explorer.locator("select").count()):
            select, before = explorer.locator("select").nth(place), figure.inner_html()
            now = select.evaluate("one => one.selectedIndex")
            select.select_option(index=(now + 1) % select.locator("option").count())
            assert figure.inner_html() != before, f"menu {place} of explorer {one} changes nothing"
            select.select_option(index=now)
            assert figure.inner_html() == before
        lines = explorer.locator(".explore-mark").count()
        explorer.locator(".explore-legend button").first.click()
        assert explorer.locator(".explore-mark").count() < lines
        explorer.locator(".explore-legend button").first.click()
        mark = explorer.locator(".explore-mark").last
        mark.focus()
        assert explorer.locator(".explore-told").inner_text() == mark.locator("title").text_content()
    if folder := os.environ.get("ANALYSIS_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / "site.png", full_page=True)
    assert page.errors == []
