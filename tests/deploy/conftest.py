"""The Docker engine that the tests of images use, and the images that they build once."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def docker(*arguments: str, timeout: float = 600, check: bool = True) -> str:
    """Runs a command of Docker. Returns its standard output."""
    done = subprocess.run(
        ["docker", *arguments], check=False, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0 or not check, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def engine() -> None:
    """Skips without a Docker engine."""
    if not os.environ.get("NIGHTSHIFT_DOCKER_TESTS"):
        pytest.skip("make test-compose runs it")
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], check=False, capture_output=True).returncode
    ):
        pytest.skip("no Docker engine answers")


@pytest.fixture(scope="session")
def images(engine) -> dict[str, str]:
    """Returns the variables that make Compose use images of this machine, which are built when they are missing."""
    done = subprocess.run([ROOT / "scripts" / "compose_local.sh"], check=True, capture_output=True, text=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())
