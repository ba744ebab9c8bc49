"""The commands of docs/compose.md on a Docker engine: up, a build to ready, three gateways, no secret in a log."""

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from tests.deploy.conftest import docker

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "compose"
PROJECT = "nightshift-test"
PASSWORD = "a-password-of-this-test"
SERVICES = ("relay", "budget", "orchestrator", "sandbox-gateway", "snapshotter")

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1200)]


def command() -> list[str]:
    """Returns the words that start Compose: the plugin of Docker, else docker-compose 1.29."""
    plugin = (
        subprocess.run(["docker", "compose", "version"], check=False, capture_output=True).returncode == 0
    )
    if not plugin and shutil.which("docker-compose") is None:
        pytest.skip("Docker Compose is not on this machine")
    return ["docker", "compose"] if plugin else ["docker-compose"]


class Project:
    """The running installation."""

    def __init__(self, images: dict[str, str]) -> None:
        self._words = [*command(), "--project-name", PROJECT]
        self._environment = {**os.environ, **images, "NIGHTSHIFT_PASSWORD": PASSWORD}

    def run(self, *arguments: str, timeout: float = 600) -> str:
        done = subprocess.run(
            [*self._words, *arguments],
            check=False,
            cwd=FOLDER,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def shell(self, line: str) -> str:
        """Runs a line of a page in the checkout, or in deploy/compose when the line does not go there itself."""
        own = line.replace("docker compose", shlex.join(self._words))
        folder = ROOT if own.startswith("cd deploy/compose ") else FOLDER
        done = subprocess.run(
            own, check=False, shell=True, cwd=folder, env=self._environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    def nightshift(self, *arguments: str) -> str:
        """Runs the command in a container of its own, as the page says."""
        return self.run("run", "--rm", "nightshift", *arguments)


@pytest.fixture(scope="module")
def project(images):
    project = Project(images)
    project.run("down", "--volumes")
    try:
        yield project
    finally:
        project.run("down", "--volumes")


def containers(service: str) -> list[str]:
    return docker(
        "ps",
        "-q",
        "--filter",
        f"label=com.docker.compose.project={PROJECT}",
        "--filter",
        f"label=com.docker.compose.service={service}",
    ).split()


def readme_commands() -> list[str]:
    """Returns the Compose commands of the README. The fixture `images` has done what `make image` does."""
    [block] = re.findall(r"```sh\n(make image\b.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line) for line in block.splitlines()]
    assert lines.pop(0) == "make image"
    return lines


def test_the_commands_of_the_readme_end_in_a_ready_build(project):
    for line in readme_commands():
        said = project.shell(line)
    assert " ready " in said.splitlines()[-1]


def test_every_service_is_healthy_and_small(project, eventually_healthy):
    for service in SERVICES:
        [name] = containers(service)
        eventually_healthy(name)
        used = docker("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", name)
        print(f"\n{used.strip()}", end="")


def test_three_gateways_share_the_builds(project, eventually_healthy):
    project.run("up", "--detach", "--scale", "sandbox-gateway=3", "--no-recreate")
    names = containers("sandbox-gateway")
    assert len(names) == 3
    for name in names:
        eventually_healthy(name)
    ids = [f"scaled-{number}" for number in range(6)]
    for one in ids:
        project.nightshift("build", "--idea", f"A page about {one}", "--build-id", one)
    for one in ids:
        project.nightshift("wait", one, "--for", "ready", "--timeout", "300s")
    actors = set()
    for one in ids:
        events = [json.loads(line) for line in project.nightshift("log", one, "--json").splitlines()]
        actors |= {event["actor"] for event in events if event["type"] == "tool_call.completed"}
        assert not [event for event in events if event["type"] == "sandbox.lost"]
    assert len(actors) > 1, "one gateway did all the work"


def test_no_log_holds_the_password(project):
    assert PASSWORD not in project.run("logs", "--no-color")


def test_containers_stop_in_order_and_in_time(project):
    project.run("stop", timeout=120)
    for service in SERVICES:
        for name in docker(
            "ps",
            "-aq",
            "--filter",
            f"label=com.docker.compose.project={PROJECT}",
            "--filter",
            f"label=com.docker.compose.service={service}",
        ).split():
            assert json.loads(docker("inspect", name))[0]["State"]["ExitCode"] == 0, service


@pytest.fixture
def eventually_healthy():
    """Returns a function that waits until a container's health check passes."""

    def wait(name: str) -> None:
        deadline = time.monotonic() + 180
        while (state := json.loads(docker("inspect", name))[0]["State"])["Health"]["Status"] != "healthy":
            assert time.monotonic() < deadline, state
            time.sleep(1)

    return wait
