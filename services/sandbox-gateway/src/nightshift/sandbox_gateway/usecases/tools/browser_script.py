"""Opens a web page in headless Chromium and takes a picture of it in each size.

This script runs in the sandbox, with the standard library only. Its arguments are the address and the sizes, such as
`1280x800`. It prints a JSON list with an object for each size. It exits with code 3 when the sandbox has no browser,
and with code 1 and a message when the page cannot be shown.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from glob import glob
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "headless_shell", "chrome")
CACHES = ("~/.cache/ms-playwright/chromium*/*/chrome", "~/.cache/ms-playwright/chromium*/*/headless_shell")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking", "--mute-audio"),
    *("--remote-debugging-pipe", "--disable-component-update"),
)
LOAD_S, QUIET_S, START_S = 20.0, 0.5, 30.0
MOST_BYTES, MOST, LONGEST, PHONE, REFUSED_TRIES = 3_500_000, 20, 300, 500, 20


def browser_program() -> str | None:
    """Return the path of a browser: the first one in the search path, otherwise one that Playwright has installed.

    Returns None when there is no browser.
    """
    found = [path for name in NAMES if (path := shutil.which(name))]
    for pattern in CACHES:
        found += sorted(glob(os.path.expanduser(pattern)))
    return found[0] if found else None


class Browser:
    """A browser that is controlled by the DevTools protocol over two pipes. Each message is a JSON object and a NUL."""

    def __init__(self, program: str, profile: str) -> None:
        theirs_in, self.out = os.pipe()
        self.inp, theirs_out = os.pipe()

        def wire() -> None:
            # The browser reads from descriptor 3 and writes to 4. Both are first copied to higher numbers, so that
            # neither copy closes the other.
            reading, writing = (
                fcntl.fcntl(theirs_in, fcntl.F_DUPFD, 10),
                fcntl.fcntl(theirs_out, fcntl.F_DUPFD, 10),
            )
            os.dup2(reading, 3)
            os.dup2(writing, 4)

        self.said = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe that nobody reads would stop a noisy browser
        arguments = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self.said,
            preexec_fn=wire,  # noqa: PLW1509 - this process has one thread
            close_fds=False,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.buffer, self.number = b"", 0
        self.events: list[dict[str, Any]] = []

    def read(self, until: float) -> dict[str, Any] | None:
        """Return the next message, or None when none comes before the time `until` of the monotonic clock.

        Ends the script when the browser has ended.
        """
        while b"\0" not in self.buffer:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.inp], [], [], left)[0]:
                return None
            part = os.read(self.inp, 1 << 20)
            if not part:
                size = self.said.seek(0, os.SEEK_END)
                self.said.seek(max(0, size - 2000))
                said = self.said.read().decode("utf-8", "replace").strip()
                raise SystemExit(
                    f"the browser ended: {said.splitlines()[-1] if said else 'without a message'}"
                )
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        parsed: dict[str, Any] = json.loads(message)
        return parsed

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Call a method and return its result. Ends the script when the browser refuses or does not answer."""
        self.number += 1
        request: dict[str, Any] = {"id": self.number, "method": method, "params": params}
        if session:
            request["sessionId"] = session
        os.write(self.out, json.dumps(request).encode() + b"\0")
        until = time.monotonic() + START_S
        while (message := self.read(until)) is not None:
            if message.get("id") == self.number:
                if "error" in message:
                    raise SystemExit(f"{method}: {message['error'].get('message')}")
                result: dict[str, Any] = message["result"]
                return result
            self.events.append(message)
        raise SystemExit(f"the browser did not answer {method} within {START_S:g} s")

    def wait_for(self, wanted: str, timeout_s: float) -> bool:
        """Wait for the event `wanted`, and then until no other event comes for QUIET_S seconds.

        Returns False when the event does not come within `timeout_s` seconds.
        """
        until, seen = time.monotonic() + timeout_s, False
        while True:
            seen = seen or any(one.get("method") == wanted for one in self.events)
            left = max(0.0, until - time.monotonic())
            message = self.read(time.monotonic() + (min(QUIET_S, left) if seen else left))
            if message is None:
                return seen
            self.events.append(message)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def picture(page: Browser, session: str, url: str, size: str) -> dict[str, Any]:
    """Load the page `url` in a window of this size. `session` is the id of the DevTools session of a browser tab.

    Returns the picture in base64, the page's HTTP status, and messages about its errors.
    """
    width, height = map(int, size.split("x"))
    page.events.clear()
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < PHONE}
    page.call("Emulation.setDeviceMetricsOverride", session, **metrics)
    moved = page.call("Page.navigate", session, url=url)
    for _ in range(REFUSED_TRIES):
        if "CONNECTION_REFUSED" not in moved.get("errorText", ""):
            break
        time.sleep(0.5)  # a server may still be starting
        page.events.clear()  # of the page that shows the error
        moved = page.call("Page.navigate", session, url=url)
    if moved.get("errorText"):
        raise SystemExit(f"{url} cannot be opened: {moved['errorText']}")
    loaded = page.wait_for("Page.loadEventFired", LOAD_S)
    image = page.call("Page.captureScreenshot", session, format="png")["data"]
    if len(image) * 3 // 4 > MOST_BYTES:
        image = page.call("Page.captureScreenshot", session, format="jpeg", quality=70)["data"]
    said = [text for event in page.events if (text := complaint(event))]
    return {
        "size": size,
        "loaded": loaded,
        "status": status(page.events),
        "messages": said[:MOST],
        "image": image,
    }


def status(events: list[dict[str, Any]]) -> int | None:
    """Return the HTTP status of the page's document, or None when the browser reported none."""
    for event in events:
        if event.get("method") == "Network.responseReceived" and event["params"].get("type") == "Document":
            return int(event["params"]["response"]["status"])
    return None


def complaint(event: dict[str, Any]) -> str | None:
    """Return the error of the page that this browser event reports, as text, or None when it reports no error."""
    params = event.get("params", {})
    match event.get("method"):
        case "Network.responseReceived":
            answer = params["response"]
            failed = answer["status"] >= 400 and params.get("type") != "Document"
            return (
                f"{answer['status']} {answer['url']}"[:LONGEST]
                if failed and "/favicon" not in answer["url"]
                else None
            )
        case "Network.loadingFailed" if not params.get("canceled"):
            return f"a request failed: {params.get('errorText')}"
        case "Runtime.exceptionThrown":
            detail = params["exceptionDetails"]
            return str(detail.get("exception", {}).get("description") or detail.get("text", ""))[:LONGEST]
        case "Runtime.consoleAPICalled" if params.get("type") in ("error", "assert"):
            words = [str(one.get("value", one.get("description", ""))) for one in params["args"]]
            return f"console: {' '.join(words)}"[:LONGEST]
        case _:
            return None


def main() -> None:
    url, sizes = sys.argv[1], sys.argv[2:]
    program = browser_program()
    if program is None:
        raise SystemExit(3)
    profile = tempfile.mkdtemp(prefix="browser-")
    page = Browser(program, profile)
    try:
        target = page.call("Target.createTarget", url="about:blank")["targetId"]
        session = page.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            page.call(f"{domain}.enable", session=session)
        sys.stdout.write(json.dumps([picture(page, session, url, size) for size in sizes]))
    finally:
        page.end()
        shutil.rmtree(profile, ignore_errors=True)


if __name__ == "__main__":
    main()
