"""Real relay processes for tests: started, found as leader, killed and paused by their process ids."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import asyncpg
from tests.support.stack import Database
from tests.support.waiting import eventually

from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import KafkaAddress

_LEADER = """
SELECT a.application_name, a.pid FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.classid = 20042 AND l.objid = 0 AND l.granted
    AND a.datname = current_database() AND l.database = a.datid
"""


def environment(dsn: str, kafka: KafkaAddress, topics: Topics, **more: str) -> dict[str, str]:
    """Return the environment of a relay on the test's servers. A paused leader loses its locks after 3 s."""
    return {
        "NIGHTSHIFT_POSTGRES_DSN": dsn,
        "NIGHTSHIFT_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "NIGHTSHIFT_KAFKA_IDEMPOTENCE": str(kafka.idempotence).lower(),
        "NIGHTSHIFT_TOPIC_PREFIX": topics.prefix,
        "NIGHTSHIFT_RELAY_LEADER_TIMEOUT_S": "3",
        "NIGHTSHIFT_RELAY_STAND_BY_S": "0.05",
        **more,
    }


class Relays:
    """The relay processes of one test. They log to the file `log`."""

    def __init__(self, zygote: asyncio.subprocess.Process, log: Path, given: Mapping[str, str]) -> None:
        self._zygote = zygote
        self.log = log
        self._given = given
        self.alive: set[int] = set()

    async def start(self, count: int = 1, **more: str) -> int:
        """Start relays. Returns the process id of the last."""
        pid = 0
        for _ in range(count):
            order = {"environment": {**self._given, **more}, "log": str(self.log)}
            assert self._zygote.stdin is not None
            assert self._zygote.stdout is not None
            self._zygote.stdin.write(json.dumps(order).encode() + b"\n")
            pid = int(await self._zygote.stdout.readline())
            self.alive.add(pid)
        return pid

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to one of these relays."""
        assert pid in self.alive
        os.kill(pid, number)
        if number == signal.SIGKILL:
            self.alive.discard(pid)

    async def ended(self, pid: int, timeout: float = 10.0) -> None:
        """Wait until the process has ended."""
        await eventually(lambda: not _exists(pid), timeout, what=f"the end of {pid}")
        self.alive.discard(pid)

    async def kill_all(self) -> None:
        """Kill every relay of this test and wait until they have ended."""
        for pid in list(self.alive):
            self.signal(pid, signal.SIGKILL)
            await self.ended(pid)

    def logged(self) -> str:
        """Return all that they logged so far."""
        return self.log.read_text() if self.log.exists() else ""


async def leader(connection: asyncpg.Connection) -> int | None:
    """Return the process id of the leading relay, or None when none leads."""
    row = await connection.fetchrow(_LEADER)
    return None if row is None else int(row["application_name"].rpartition("-")[2])


async def published_up_to(connection: asyncpg.Connection) -> int:
    """Return the sum of the cursors. It grows with every acknowledged batch."""
    return int(await connection.fetchval("SELECT sum(position) FROM nightshift.relay_cursors"))


@contextlib.asynccontextmanager
async def relays(
    folder: Path, database: Database, kafka: KafkaAddress, topics: Topics, **more: str
) -> AsyncIterator[Relays]:
    """Yield a Relays object. Kills all its relays at the end."""
    given = environment(database.dsn("nightshift_relay"), kafka, topics, **more)
    async with zygote() as process:
        yield Relays(process, folder / "relays.log", given)


@contextlib.asynccontextmanager
async def zygote() -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the process that forks relays. It kills all of them when its stdin ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).parent / "zygote.py"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
