"""Appends to the log as services do."""

import contextlib
import random
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

from nightshift.contracts.events.build import AgentSteered, BuildAccepted, BuildCancelled, CheckpointSaved
from nightshift.contracts.events.sandbox import SandboxClosed
from nightshift.contracts.model import Event
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.port import NewEvent, build_stream
from nightshift.eventlog.postgres import PostgresEventLog, log_database

__all__ = ["AgentSteered", "BuildAccepted", "BuildCancelled", "SandboxClosed", "checkpoint", "log_on", "new"]


@contextlib.asynccontextmanager
async def log_on(
    dsn: str, *, connections: int = 8, patience: float = 60.0
) -> AsyncIterator[PostgresEventLog]:
    """A log on a pool of its own, closed at the end. Its superuser may append every type."""
    database = log_database(PgConfig(dsn=dsn, max_connections=connections, patience=patience))
    log = PostgresEventLog(database, actor="test/writer")
    try:
        yield log
    finally:
        await log.close()
        await database.close()


def new(event: Event, cause: UUID | None = None) -> NewEvent:
    """Return an event with a cause of its own."""
    return NewEvent(event, causation_id=cause or uuid4())


def checkpoint(turn: int = 1) -> NewEvent:
    """Return a small fact of the orchestrator."""
    return new(CheckpointSaved(turn=turn))


async def append_some(log: PostgresEventLog, build: str, count: int) -> None:
    """Append `count` facts to a build, one by one."""
    for turn in range(1, count + 1):
        await log.append(build_stream(build), [checkpoint(turn)])


def dice(seed: int) -> random.Random:
    """Return a seeded random generator."""
    return random.Random(seed)
