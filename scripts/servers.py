"""Shared by the scripts that run a command against a server which the embedded stack does not have."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
LOOPBACK = "127.0.0.1"
MISSING = 4  # the exit code for what is not set up, as everywhere in Nightshift


class SetupError(Exception):
    """The server cannot be set up or started. `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def require_java() -> None:
    """Raise SetupError without Java 17 or newer and Maven. As root on Debian, install what is missing first."""
    packages = {"java": "default-jre-headless", "mvn": "maven"}
    missing = [package for command, package in packages.items() if shutil.which(command) is None]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        say(f"installing {' and '.join(missing)}")
        # Debian's list may be older than its packages: refresh it, and let the install say what is wrong.
        subprocess.run(["apt-get", "update", "-qq"], check=False, stdout=sys.stderr)
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(install, check=False, stdout=sys.stderr, env=environment)
        missing = [package for command, package in packages.items() if shutil.which(command) is None]
    if missing:
        raise SetupError(
            "Java 17 and Maven are needed, and this machine lacks them",
            f"apt-get install {' '.join(missing)}",
        )
    answer = subprocess.run(["java", "-version"], check=True, capture_output=True, text=True).stderr
    found = re.search(r'version "(\d+)', answer)
    if found is None or int(found.group(1)) < 17:
        raise SetupError(f"Java is too old: {answer.splitlines()[0]}", "install Java 17 or newer")


def maven(recipe: Path, *goal: str) -> None:
    """Run a goal of Maven, which checks the checksums of what it fetches. Raises SetupError when it fails."""
    command = ["mvn", "--batch-mode", "--quiet", "--strict-checksums", "--file", str(recipe), *goal]
    if subprocess.run(command, check=False, stdout=sys.stderr).returncode != 0:
        raise SetupError("Maven could not fetch the server", "look at Maven's messages above")


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface on which nothing listens now."""
    probes = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    try:
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def say(text: str) -> None:
    """Print a line to stderr, after the name of the server."""
    print(f"{Path(sys.argv[0]).stem.removesuffix('_server')}: {text}", file=sys.stderr, flush=True)


def split_command(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the arguments before `--`, and the command after it."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def finish(work: Callable[[], int]) -> int:
    """Run the script's work and return its exit code. A SetupError is printed with its hint and becomes exit code 4.

    SIGTERM raises SystemExit, so that the work can stop its server.
    """
    signal.signal(signal.SIGTERM, _leave)
    try:
        return work()
    except SetupError as error:
        print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)
        return MISSING
    except KeyboardInterrupt:
        return 130


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
