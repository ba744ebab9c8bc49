#!/usr/bin/env python3
"""Runs one node of Apache Kafka on this machine, for tests against the real thing.

kafka_server.py run -- COMMAND…   start a fresh node, run the command with NIGHTSHIFT_KAFKA_BOOTSTRAP set, stop the node
kafka_server.py start             start a node that stays; prints its address (stop it with `stop`; its data is removed)
kafka_server.py stop              stop the node that `start` left running
kafka_server.py fetch             only fetch Apache Kafka into .cache/kafka

Needs Python, and Java 17 with Maven. As root on Debian it installs these with apt-get.
"""

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path

from servers import (
    CACHE,
    LOOPBACK,
    ROOT,
    SetupError,
    finish,
    free_ports,
    maven,
    require_java,
    say,
    split_command,
)

RECIPE = ROOT / "scripts" / "kafka"
KEPT = CACHE / "kafka"
LEFT_RUNNING = KEPT / "running"  # the node of `start`


def fetch() -> Path:
    """Return the folder of Apache Kafka's jars, fetched once per recipe. Maven checks the checksums."""
    recipe = RECIPE / "pom.xml"
    jars = KEPT / hashlib.sha256(recipe.read_bytes()).hexdigest()[:16]
    if jars.is_dir():
        return jars
    KEPT.mkdir(parents=True, exist_ok=True)
    say("fetching Apache Kafka (about 45 MB, once)")
    with tempfile.TemporaryDirectory(dir=KEPT) as unfinished:
        target = Path(unfinished, "jars")
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={target}"]
        maven(recipe, *goal)
        target.rename(jars)
    return jars


def cluster_id() -> str:
    """Return a random id in the broker's form. One that begins with a dash would be read as an option, so none does."""
    while (drawn := urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return drawn


class Node:
    """One broker with its own controller; everything it keeps is under `folder`."""

    def __init__(self, jars: Path, folder: Path, *, secured: str | None = None) -> None:
        """`secured` holds the properties of a further listener SASL_SSL; `secured_bootstrap` is its address then."""
        self.folder = folder
        self.log = folder / "broker.log"
        broker_port, controller_port, secured_port = free_ports(3)
        self.bootstrap = f"{LOOPBACK}:{broker_port}"
        self._java = [
            "java",
            "-Xms256m",
            "-Xmx512m",
            "-XX:+UseSerialGC",
            f"-Dlog4j2.configurationFile={RECIPE / 'log4j2.properties'}",
            "-cp",
            f"{jars}/*",
        ]
        self.secured_bootstrap = f"{LOOPBACK}:{secured_port}"
        also = "" if secured is None else f",SASL_SSL://{self.secured_bootstrap}"
        self._properties = folder / "server.properties"
        self._properties.write_text(
            (RECIPE / "server.properties").read_text()
            + f"listeners=PLAINTEXT://{self.bootstrap},CONTROLLER://{LOOPBACK}:{controller_port}{also}\n"
            + f"advertised.listeners=PLAINTEXT://{self.bootstrap}{also}\n"
            + f"controller.quorum.voters=1@{LOOPBACK}:{controller_port}\n"
            + f"log.dirs={folder / 'data'}\n"
            + (secured or "")
        )

    def start(self) -> "subprocess.Popen[bytes]":
        """Format the storage, start the node and wait until it serves. Raises SetupError when it does not."""
        formatting = ["kafka.tools.StorageTool", "format", "-t", cluster_id(), "-c", str(self._properties)]
        with self.log.open("wb") as log:
            done = subprocess.run([*self._java, *formatting], check=False, stdout=log, stderr=log)
            if done.returncode != 0:
                raise SetupError(f"the storage could not be formatted:\n{self._tail()}", f"see {self.log}")
            process = subprocess.Popen(
                [*self._java, "kafka.Kafka", str(self._properties)],
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us: the node is stopped after the command
            )
        try:
            ready = wait_until(lambda: process.poll() is not None or self._serves(), seconds=60)
        except BaseException:
            stop(process.pid)
            raise
        if not ready or process.poll() is not None:
            stop(process.pid)
            raise SetupError(f"Apache Kafka did not start:\n{self._tail()}", f"see {self.log}")
        return process

    def _serves(self) -> bool:
        return b"Kafka Server started" in self.log.read_bytes()

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def wait_until(condition: Callable[[], bool], *, seconds: float) -> bool:
    """Return whether the condition became true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def gone(pid: int) -> bool:
    """Return whether the process has ended. Reaps it when it is a child of this script."""
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return True
    except ChildProcessError:
        pass  # not our child
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def stop(pid: int) -> None:
    """End the process with SIGTERM, and with SIGKILL after 20 s."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if gone(pid):
            return
        os.kill(pid, number)
        if wait_until(lambda: gone(pid), seconds=20):
            return


def run_command(command: list[str]) -> int:
    """Run the command against a fresh node and return its exit code."""
    jars = fetch()
    with tempfile.TemporaryDirectory(prefix="run-", dir=KEPT) as folder:
        node = Node(jars, Path(folder))
        process = node.start()
        try:
            say(f"Apache Kafka serves at {node.bootstrap} (pid {process.pid})")
            environment = os.environ | {
                "NIGHTSHIFT_KAFKA_BOOTSTRAP": node.bootstrap,
                "NIGHTSHIFT_KAFKA_IDEMPOTENCE": "true",
            }
            return subprocess.run(command, check=False, env=environment).returncode
        finally:
            stop(process.pid)


def start_and_leave() -> int:
    """Start a node that outlives this command, and print its address."""
    if (LEFT_RUNNING / "pid").exists() and not gone(int((LEFT_RUNNING / "pid").read_text())):
        raise SetupError("a node is running already", "scripts/kafka_server.py stop")
    jars = fetch()
    shutil.rmtree(LEFT_RUNNING, ignore_errors=True)
    LEFT_RUNNING.mkdir(parents=True)
    node = Node(jars, LEFT_RUNNING)
    process = node.start()
    (LEFT_RUNNING / "pid").write_text(str(process.pid))
    say(f"Apache Kafka runs as pid {process.pid}; its log is {node.log.relative_to(ROOT)}")
    print(f"NIGHTSHIFT_KAFKA_BOOTSTRAP={node.bootstrap}")
    return 0


def stop_left_running() -> int:
    """Stop the node of `start` and remove its data. Stopping what does not run is no error."""
    pid = LEFT_RUNNING / "pid"
    if pid.exists() and is_broker(int(pid.read_text())):
        stop(int(pid.read_text()))
    shutil.rmtree(LEFT_RUNNING, ignore_errors=True)
    return 0


def is_broker(pid: int) -> bool:
    """Return whether that process is the node that `start` left running: another process may have its id by now."""
    try:
        return str(LEFT_RUNNING).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def main() -> int:
    own, command = split_command(sys.argv[1:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["run", "start", "stop", "fetch"])
    action = parser.parse_args(own).action
    if (action == "run") != bool(command):
        parser.error("`run` takes a command after --, the others take none")
    if action == "stop":
        return stop_left_running()
    require_java()
    match action:
        case "run":
            return run_command(command)
        case "start":
            return start_and_leave()
        case _:
            print(fetch().relative_to(ROOT))
            return 0


if __name__ == "__main__":
    sys.exit(finish(main))
