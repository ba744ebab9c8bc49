"""take_screenshot returns pictures of a page in two sizes, and says why when it cannot."""

import base64
import shutil

import pytest
from tests.support.gateway_world import World

from nightshift.sandbox_gateway.domain.images import recognise
from nightshift.sandbox_gateway.usecases.tools import screenshot

_BROWSER = any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")))
_PAGE = (
    "<html><meta name=viewport content=width=device-width><h1>Shop</h1>"
    "<script>console.error('no stock'); fetch('/prices.json'); missing()</script></html>"
)


@pytest.mark.skipif(not _BROWSER, reason="no Chromium on this machine")
@pytest.mark.long
@pytest.mark.timeout(180)
async def test_a_page_is_shown_on_a_desktop_and_on_a_phone(world: World) -> None:
    await world.bash(f"cat > index.html <<'EOF'\n{_PAGE}\nEOF")
    await world.bash("python3 -m http.server 8000 --bind 127.0.0.1", run_in_background=True)
    [done] = await world.run(("take_screenshot", {"port": 8000}), timeout_s=150)
    assert not done.is_error, done.output
    words, blocks = done.output, done.blocks
    assert isinstance(blocks, tuple), "small pictures stay in the event"
    pictures = [base64.b64decode(block["source"]["data"]) for block in blocks if block["type"] == "image"]
    sizes = [recognise(picture, len(picture)) for picture in pictures]
    assert [(one.width, one.height, one.problem) for one in sizes if one] == [
        (1280, 800, None),
        (390, 844, None),
    ]
    assert words.count("status 200") == 2
    for said in ("console: no stock", "404 http://localhost:8000/prices.json", "missing is not defined"):
        assert said in words


@pytest.mark.skipif(not _BROWSER, reason="no Chromium on this machine")
async def test_a_port_without_a_server_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient = screenshot._script().replace(
        "REFUSED_TRIES = 3_500_000, 20, 300, 500, 20", "REFUSED_TRIES = 1, 1, 1, 1, 1"
    )
    monkeypatch.setattr(screenshot, "_script", lambda: impatient)
    [done] = await world.run(("take_screenshot", {"url": "http://localhost:8001/shop"}), timeout_s=60)
    assert done.is_error
    assert "http://localhost:8001/shop cannot be opened: net::ERR_CONNECTION_REFUSED" in done.output


async def test_a_sandbox_without_a_browser_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    without = screenshot._script().replace("found[0] if found else None", "None")
    monkeypatch.setattr(screenshot, "_script", lambda: without)
    [done] = await world.run(("take_screenshot", {"port": 8000}))
    assert done.is_error
    assert done.output.startswith("This sandbox has no Chromium")


@pytest.mark.parametrize(
    "answer",
    [b"", b"null", b"[1]", b'[{"image": "not base64!"}]', b"[" * 100_000, b'[{"image": "aGVsbG8="}]'],
)
def test_an_answer_that_the_sandbox_forged_is_refused(answer: bytes) -> None:
    outcome = screenshot._outcome("http://localhost:1/", answer)
    assert outcome.is_error
    assert outcome.blocks is None
