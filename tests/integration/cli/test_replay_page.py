"""The page of a replay in a real browser: it opens from a file, shows every moment, and runs no script of a build."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Error, Page, sync_playwright
from tests.support.long_build import long_build

from nightshift.cli.page import MOST_BYTES, page


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, Path]]:
    """A browser, and the page of a build of 150 turns on disk. Skips where no Chromium is installed."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine; on Debian, apt-get install chromium")
    path = tmp_path_factory.mktemp("page") / "build.html"
    path.write_text(page("b1", long_build(150)), encoding="utf-8")
    assert path.stat().st_size <= MOST_BYTES
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_page()
        opened.set_default_timeout(10_000)
        yield opened, path
        browser.close()


@pytest.fixture
def browser_page(tab: tuple[Page, Path]) -> Page:
    """The page as somebody opens it."""
    opened, path = tab
    opened.goto("about:blank")
    return _open(opened, path)


def _open(opened: Page, path: Path) -> Page:
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    opened.on(
        "request",
        lambda request: problems.append(request.url) if not request.url.startswith("file:") else None,
    )
    opened.on("dialog", lambda dialog: problems.append(dialog.message))
    opened.goto(path.as_uri())
    opened.wait_for_selector("#story .row")
    assert problems == []
    return opened


def _move_to(opened: Page, version: int) -> str:
    opened.evaluate(
        "v => { const s = document.getElementById('slider'); s.value = v; s.dispatchEvent(new Event('input')); }",
        version,
    )
    return opened.inner_text("#now")


def test_the_slider_shows_the_state_at_each_version(browser_page: Page):
    last = int(browser_page.get_attribute("#slider", "max") or 0)
    assert last > 1_000
    assert f"version {last}" in browser_page.inner_text("#now")
    assert "turn 0" in _move_to(browser_page, 1)
    middle = _move_to(browser_page, last // 2)
    assert f"version {last // 2}" in middle
    assert browser_page.locator("#story .row.later").count() > 100
    browser_page.locator("body").press("ArrowRight")
    assert f"version {last // 2 + 1}" in browser_page.inner_text("#now")


def test_each_turn_has_its_cost_and_its_changes_of_files(browser_page: Page):
    assert browser_page.locator("#costs rect").count() == 150
    browser_page.locator("#costs rect").nth(99).click()
    assert "turn 100" in browser_page.inner_text("#turn")
    _move_to(browser_page, int(browser_page.inner_text("#now").split()[1]) + 4)
    changed = browser_page.inner_text("#files")
    assert "src/module_2.py" in changed
    assert "-    return 93" in changed.replace("\u00a0", " ")
    assert "+    return 100" in changed.replace("\u00a0", " ")


def test_the_texts_of_a_build_are_no_markup(browser_page: Page):
    assert browser_page.locator("#story script").count() == 0
    assert "<script>alert(7)</script>" in browser_page.inner_text("#story")
    with pytest.raises(Error):  # no script but the page's own may run
        browser_page.add_script_tag(content="document.title = 'taken over'")
    assert browser_page.title() == "b1"
