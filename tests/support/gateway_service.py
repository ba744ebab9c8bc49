"""The gateway as processes on a driver, killed and replaced, and a build on the real log around them."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.support import gateway_process
from tests.support.e2b_server import E2BServer
from tests.support.processes import clean_environment
from tests.support.stack import Database

from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.port import Outgoing
from nightshift.bus.settings import KafkaSettings
from nightshift.contracts.cloudevents import encode_fact
from nightshift.contracts.envelope import Envelope, fact_source
from nightshift.contracts.registry import encode, wire_name
from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import KafkaAddress, S3Address
from nightshift.eventlog.port import RecordedEvent
from nightshift.sandboxes.adapters.e2b import E2BDriver, E2BOptions
from nightshift.sandboxes.local.driver import LocalDriver, close_all
from nightshift.sandboxes.local.settings import LocalSettings
from nightshift.sandboxes.port import SandboxDriver

_KEY = "e2b_" + "0" * 40


class Gateways:
    """Gateways as processes, replaced when they die."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._environment = environment
        self._log = log
        self._running: list[BaseProcess] = []
        self.kills = 0

    def start(self, fail_point: str | None = None) -> None:
        """Start one, which kills itself at the fail point `<place>:<count>`."""
        point = {} if fail_point is None else {"NIGHTSHIFT_FAIL_POINT": fail_point}
        self._running.append(gateway_process.start({**self._environment, **point}, str(self._log)))

    def replace_the_dead(self, points: Iterator[str]) -> None:
        """Start another for each that died, to die at the next of these points while there are some."""
        for process in list(self._running):
            if process.exitcode is not None:
                self._running.remove(process)
                self.kills += process.exitcode == -signal.SIGKILL
                self.start(next(points, None))

    def kill_one(self) -> None:
        victim = random.choice(self._running)
        victim.kill()
        victim.join()

    def stop(self) -> None:
        for process in self._running:
            process.kill()
        for process in self._running:
            process.join()
        self._running.clear()


def environment(
    database: Database, kafka: KafkaAddress, s3: S3Address, topics: Topics, home: Path, **more: str
) -> dict[str, str]:
    """The settings of a gateway on this stack, quick to take over and to look."""
    return clean_environment(
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
        NIGHTSHIFT_HOME=str(home),
        NIGHTSHIFT_GATEWAY_LEASE_S="1",
        NIGHTSHIFT_GATEWAY_LOOK_S="0.3",
        **more,
    )


@asynccontextmanager
async def driver_of(name: str, home: Path) -> AsyncIterator[tuple[SandboxDriver, dict[str, str]]]:
    """Yields the driver that the gateways use, and the settings that make them use it. Ends every sandbox."""
    if name == "local":
        try:
            yield LocalDriver(LocalSettings(home / "sandboxes")), {"NIGHTSHIFT_SANDBOX_DRIVER": "local"}
        finally:
            await asyncio.to_thread(close_all, home / "sandboxes")
        return
    async with E2BServer(home / "e2b") as server:
        settings = {
            "NIGHTSHIFT_SANDBOX_DRIVER": "e2b",
            "E2B_API_KEY": _KEY,
            "E2B_API_URL": server.url,
            "E2B_SANDBOX_URL": server.url,
            "NO_PROXY": "127.0.0.1,localhost",
        }
        yield E2BDriver(E2BOptions(api_key=_KEY, api_url=server.url, sandbox_url=server.url)), settings


async def publish_twice(kafka: KafkaAddress, topics: Topics, facts: Sequence[RecordedEvent]) -> None:
    """Publish each fact as the relay does, and all of them once more."""
    messages = [
        encode_fact(
            Envelope(
                id=str(fact.event_id),
                type=wire_name(fact.data.type, fact.data.version),
                source=fact_source(fact.actor),
                subject=fact.subject,
                time=fact.recorded_at,
                sequence=fact.version,
                correlation_id=fact.correlation_id,
                causation_id=fact.causation_id,
            ),
            encode(fact.data),
        )
        for fact in facts
    ]
    settings = KafkaSettings(
        kafka_bootstrap=kafka.bootstrap, kafka_idempotence=kafka.idempotence, topic_prefix=topics.prefix
    )
    async with KafkaProducer(settings, client_id="test") as producer:
        await producer.send([Outgoing.of(topics.build, message) for message in [*messages, *messages]])


def traces_of(home: Path) -> list[str]:
    """What is left of sandboxes below this directory: processes, mounts, loop devices, directories."""
    found, name = [], "/".join(home.parts[-3:])  # a mount is named from the root of its file system
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        with suppress(OSError):
            if name.encode() in (process / "cmdline").read_bytes():
                found.append(f"process {process.name} names it")
            elif name in (process / "mountinfo").read_text(encoding="utf-8"):
                found.append(f"process {process.name} has a mount of it")
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            if name in path.read_text(encoding="utf-8"):
                found.append(f"{path.parts[3]} is its disk")
    return [*found, *(str(path) for path in (home / "sandboxes").glob("*"))]


def a_seed() -> Any:
    """Seed the random choices of a test, and print the seed. `NIGHTSHIFT_SEED` repeats a run."""
    seed = int(os.environ.get("NIGHTSHIFT_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}")
    return random.Random(seed)
