"""A real Prometheus for tests: scrapes the services of a stack and evaluates the alert rules at a test's pace."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nightshift.devstack.ports import draw_port

ALERTS = Path(__file__).parents[2] / "deploy/prometheus/alerts.yaml"


def prometheus_tool(name: str) -> str:
    """Return the path of `prometheus` or `promtool`. Skips the test when they are not there."""
    folder = os.environ.get("NIGHTSHIFT_PROMETHEUS_BIN") or str(
        ALERTS.parents[2] / ".cache/prometheus/usr/bin"
    )
    found = shutil.which(name, path=folder) or shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name}: `make test-alerts` fetches it")
    return found


def hurried(rules: str) -> str:
    """Return the rules with waits of nothing and thresholds of three, so that a fault of seconds fires them."""
    return re.sub(r"> (30|300|900|3600)\b", "> 3", re.sub(r"for: \d+m", "for: 0s", rules))


class Prometheus:
    """A running server. `targets` is the file with the addresses to scrape."""

    def __init__(self, folder: Path, port: int) -> None:
        self.targets = folder / "targets.json"
        self._port = port

    def scrape(self, jobs: Sequence[tuple[str, int]]) -> None:
        """Scrape these jobs (name, port) on the loopback from now on."""
        entries = [{"targets": [f"127.0.0.1:{port}"], "labels": {"job": job}} for job, port in jobs]
        fresh = self.targets.with_suffix(".new")
        fresh.write_text(json.dumps(entries))
        fresh.replace(self.targets)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    async def firing(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        alerts = (await asyncio.to_thread(self.get, "alerts"))["alerts"]
        return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}


@contextlib.contextmanager
def prometheus_server(folder: Path) -> Iterator[Prometheus]:
    """Run a server with the hurried rules for the block."""
    program, port = prometheus_tool("prometheus"), draw_port()
    (folder / "alerts.yaml").write_text(hurried(ALERTS.read_text()))
    server = Prometheus(folder, port)
    server.scrape([])
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "400ms", "evaluation_interval": "500ms"},
        "rule_files": ["alerts.yaml"],
        "scrape_configs": [
            {"job_name": "s", "file_sd_configs": [{"files": ["targets.json"], "refresh_interval": "500ms"}]}
        ],
    }
    (folder / "prometheus.yaml").write_text(json.dumps(config))
    command = [program, "--config.file=prometheus.yaml", "--storage.tsdb.path=data", "--log.level=warn"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], cwd=folder, stdout=log, stderr=log
        )
    try:
        yield server
    finally:
        process.terminate()
        process.wait(timeout=20)
