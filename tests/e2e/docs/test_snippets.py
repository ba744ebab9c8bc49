"""Every block of commands in the tutorial, the how-to guides and the runbooks runs, in order, on one stack."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.support.docs_snippets import DOCS, Snippet, pages, snippets
from tests.support.processes import clean_environment

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not os.environ.get("NIGHTSHIFT_DOCS"), reason="minutes long: `make test-docs`"),
]
ROOT = DOCS.parent


class Checkout:
    """A folder that looks like a clone after `make setup`, and the stack that the tutorial started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stack: subprocess.Popen[str] | None = None
        self.environment = clean_environment(
            PATH=f"{folder}/.venv/bin:{os.environ['PATH']}", PYTHONPATH=str(ROOT), ONCE="1"
        )

    def run(self, snippet: Snippet) -> str:
        """Run a block as bash does. Raises AssertionError with what it printed when a command fails."""
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", snippet.text],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ran.returncode == 0, f"{snippet.page}:{snippet.line}\n{ran.stdout}\n{ran.stderr}"
        return ran.stdout

    def start(self, snippet: Snippet) -> None:
        """Start a block in the background and wait until it has printed that it is up."""
        self.stack = subprocess.Popen(
            ["bash", "-c", f"exec {snippet.text.strip()}"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.stack.stdout is not None
        for line in self.stack.stdout:
            if "Ctrl-C" in line:
                return
        raise AssertionError("the stack did not start")

    def described(self) -> dict[str, Any]:
        told = subprocess.run(
            ["nightshift", "ps", "--json"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            check=True,
        )
        return json.loads(told.stdout)


@pytest.fixture(scope="module")
def checkout(stack_folder: Path) -> Iterator[Checkout]:
    folder = stack_folder / "docs"
    folder.mkdir()
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "examples").symlink_to(ROOT / "examples")
    checkout = Checkout(folder)
    try:
        yield checkout
    finally:
        if checkout.stack is not None:
            checkout.stack.terminate()
            checkout.stack.communicate(timeout=60)  # closes its pipe, too
            assert checkout.stack.returncode == 0


def _play(checkout: Checkout, snippet: Snippet) -> None:
    if snippet.language == "sh":
        (checkout.start if "background" in snippet.words else checkout.run)(snippet)
    elif snippet.language == "python" and "run" in snippet.words:
        checkout.environment["KAFKA"] = checkout.described()["kafka"]["bootstrap"]
        quoted = snippet.text.replace("'", "'\\''")
        printed = checkout.run(Snippet(snippet.page, snippet.line, "sh", (), f"python -c '{quoted}'"))
        assert printed.split()[1].startswith("nightshift.build.")
    elif snippet.language == "sql":
        asyncio.run(_query(checkout.described()["postgres"]["dsn"], snippet.text))


async def _query(dsn: str, text: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.fetch(text)
    finally:
        await connection.close()


def _first(page: Path) -> tuple[bool, str]:
    """The tutorial starts the stack, so it comes first."""
    return page.parent.name != "tutorial", str(page)


def test_the_pages_run_as_they_are_printed(checkout: Checkout) -> None:
    # The pages beside these folders have no block to run, or tests of their own that need Docker or a cluster.
    guides = [page for page in pages() if page.parent.name in ("tutorial", "how-to", "runbooks")]
    for page in sorted(guides, key=_first):
        for snippet in snippets(page):
            print(f"{snippet.page}:{snippet.line}", flush=True)
            _play(checkout, snippet)
