"""The service itself, killed at every point: each call's effect is in the workspace once, and each has one result."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.gateway_world import World
from tests.support.processes import clean_environment
from tests.support.stack import Database

from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import KafkaAddress, S3Address
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.postgres import PostgresEventLog, log_database
from nightshift.sandboxes.local.driver import LocalDriver, close_all
from nightshift.sandboxes.local.settings import LocalSettings

pytestmark = [pytest.mark.fault, pytest.mark.kafka]

_POINTS = (
    "after_create",
    "after_open",
    "before_run",
    "after_start",
    "after_run",
    "before_append",
    "after_append",
)


class Service:
    """Gateways as processes, replaced when they die."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._environment = environment
        self._log = log
        self._running: list[subprocess.Popen[bytes]] = []
        self.kills = 0

    def start(self, fail_point: str | None = None) -> None:
        environment = dict(self._environment)
        if fail_point is not None:
            environment["NIGHTSHIFT_FAIL_POINT"] = fail_point
        with self._log.open("ab") as output:
            self._running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "nightshift.sandbox_gateway"],
                    env=environment,
                    stdout=output,
                    stderr=output,
                )
            )

    def replace_the_dead(self, points: Iterator[str]) -> None:
        """Start another for each that died, to die at the next of these points while there are some."""
        for process in list(self._running):
            if process.poll() is not None:
                self._running.remove(process)
                self.kills += process.returncode == -signal.SIGKILL
                self.start(next(points, None))

    def kill_one(self) -> None:
        victim = random.choice(self._running)
        victim.kill()
        victim.wait()

    def stop(self) -> None:
        for process in self._running:
            process.kill()
        for process in self._running:
            process.wait()


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[World]:
    pool = log_database(PgConfig(dsn=database.dsn()))
    log = PostgresEventLog(pool, actor="test")
    one = World(LocalDriver(LocalSettings(tmp_path / "home" / "sandboxes")), log)
    try:
        await one.accept()
        yield one
    finally:
        await asyncio.to_thread(close_all, tmp_path / "home" / "sandboxes")
        await log.close()
        await pool.close()


@pytest.fixture
def service(
    database: Database, kafka: KafkaAddress, s3: S3Address, topics: Topics, tmp_path: Path
) -> Iterator[Service]:
    environment = clean_environment(
        NIGHTSHIFT_POSTGRES_DSN=database.dsn("nightshift_sandbox_gateway"),
        NIGHTSHIFT_KAFKA_BOOTSTRAP=kafka.bootstrap,
        NIGHTSHIFT_KAFKA_IDEMPOTENCE=str(kafka.idempotence).lower(),
        NIGHTSHIFT_KAFKA_ADAPTIVE_FETCH=str(kafka.adaptive_fetch).lower(),
        NIGHTSHIFT_TOPIC_PREFIX=topics.prefix,
        NIGHTSHIFT_S3_ENDPOINT=s3.endpoint,
        NIGHTSHIFT_S3_BUCKET=s3.bucket,
        NIGHTSHIFT_S3_ACCESS_KEY=s3.access_key,
        NIGHTSHIFT_S3_SECRET_KEY=s3.secret_key,
        NIGHTSHIFT_S3_REGION=s3.region,
        NIGHTSHIFT_SNAPSHOT_KEY="0" * 32,
        NIGHTSHIFT_HOME=str(tmp_path / "home"),
        NIGHTSHIFT_GATEWAY_LEASE_S="1",
        NIGHTSHIFT_GATEWAY_LOOK_S="0.3",
    )
    one = Service(environment, tmp_path / "gateway.log")
    try:
        yield one
    finally:
        one.stop()


@pytest.mark.timeout(120)
@pytest.mark.long
async def test_no_call_is_run_twice_whenever_the_gateway_dies(world: World, service: Service) -> None:
    seed = int(os.environ.get("NIGHTSHIFT_SEED", random.randrange(1 << 32)))
    random.seed(seed)
    print(f"seed {seed}")
    calls = 14
    # A call makes the file: a sandbox that no event names may be ended by the sweep of a gateway that starts.
    await world.ask(("write_file", {"file_path": "count", "content": "|"}), *map(_call, range(calls)))
    points = iter([f"{point}:1" for point in (*_POINTS, "after_note", "before_append", "after_run")])
    service.start(next(points))
    service.start(next(points))
    async with asyncio.timeout(100):
        while (done := len(await world.results())) < calls + 1 or service.kills < 5:
            if done == calls + 1:  # too quick for the killing: more of the same
                await world.ask(_call(calls), _call(calls + 1))
                calls += 2
            service.replace_the_dead(points)
            if random.random() < 0.1 and service.kills < 14:
                service.kill_one()
            await asyncio.sleep(0.1)  # the pace of the faults, not a wait for anything

    results = await world.results()
    assert not [one.output for one in results.values() if one.is_error]
    sandbox = await world.driver.connect(await world.box_id())
    assert await sandbox.read_file("log") == b"".join(b"%d\n" % n for n in range(calls) if n % 2)
    assert await sandbox.read_file("count") == b"".join(b"%d," % n for n in range(calls) if n % 2 == 0) + b"|"
    types = await world.types()
    assert types.count("tool_call.completed") == calls + 1
    assert types.count("sandbox.opened") == 1


def _call(number: int) -> tuple[str, dict[str, Any]]:
    """A call whose effect shows how often it was done. Every second command also attacks the record of calls."""
    if number % 2:
        attack = "rm -rf ~/.nightshift*; " if number % 4 == 1 else ""
        return "bash", {"command": f"echo {number} >> log; {attack}sleep 0.05"}
    return "edit_file", {"file_path": "count", "old_string": "|", "new_string": f"{number},|"}
