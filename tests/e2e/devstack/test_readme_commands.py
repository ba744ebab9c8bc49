"""The README's first commands, run as they are printed, end in a build with files, tests and a preview."""

import json
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from tests.support.local_files import names_in_sandbox
from tests.support.processes import clean_environment

pytestmark = pytest.mark.timeout(120)

README = Path(__file__).parents[3] / "README.md"
COMMAND = ".venv/bin/nightshift "


def printed_commands() -> list[str]:
    """Return the `nightshift` commands of the README's shell blocks, in order, without their comments."""
    blocks = re.findall(r"```sh\n(.+?)```", README.read_text(), re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(COMMAND)]


@pytest.fixture
def checkout(stack_folder: Path) -> Path:
    """A folder in which `.venv/bin/nightshift` is this environment's command, as in a clone after `make setup`."""
    folder = stack_folder / "readme"
    folder.mkdir()
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def run(command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    words = shlex.split(command)
    return subprocess.run(
        words, cwd=folder, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )


def page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


async def test_the_first_commands_end_in_a_proven_build(checkout: Path, eventually) -> None:
    first, *others = printed_commands()
    assert first == f"{COMMAND}up"
    shown = checkout / "up.out"
    with shown.open("w") as out:
        stack = subprocess.Popen(  # noqa: ASYNC220 - ended below
            shlex.split(first), cwd=checkout, env=clean_environment(), stdout=out
        )
    try:
        await eventually(lambda: "Press Ctrl-C" in shown.read_text(), 30, what="the stack is up")
        outputs = {command: run(command, checkout) for command in others}
        assert {command: ran.returncode for command, ran in outputs.items()} == dict.fromkeys(others, 0)
        [built] = [ran.stdout for command, ran in outputs.items() if "build --idea" in command]
        assert "write_file app.py · ok" in built
        assert "no tests found" not in built
        [build] = json.loads(run(f"{COMMAND}builds --json", checkout).stdout)
        assert build["phase"] == "ready"
        proof = build["proof"]
        assert proof["tests_executed"] == 3
        assert (proof["preview"]["path"], proof["preview"]["status"]) == ("/", 200)
        assert [one["passed"] for one in proof["checks"]] == [True]
        # What the build's end leads to, its settlement and its last snapshot, may come before the watch ends.
        shown = built.splitlines()
        at = next(place for place, line in enumerate(shown) if " ready " in line and "version 1" in line)
        assert "3 tests executed; " in shown[at - 1]
        assert "; the preview answers 200 on /" in shown[at - 1]
        assert "A habit tracker" in page(build["preview_url"])
        assert {"app.py", "test_app.py", "idea.txt"} <= names_in_sandbox(
            checkout / ".nightshift", build["sandbox_id"]
        )
    finally:
        stack.terminate()
        assert stack.wait(timeout=30) == 0
