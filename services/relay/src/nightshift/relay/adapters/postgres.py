"""The relay's PostgreSQL: the session that leads, and the reads.

Leading is holding a session lock, so the session must be one server process for its whole life, and must die soon when
its owner does: dead peers are found by keepalives, a paused owner by the server's own idle timeout. That timeout runs
only between statements. Preparing one is half a statement: the server has answered, waits for the rest, and would wait
for ever. So all statements are prepared before the locks are asked for, and from then on each is one message.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, Self
from uuid import UUID

import asyncpg

from nightshift.bus.publish_notifications import CHANNEL as PUBLISHED
from nightshift.eventlog.database import Database
from nightshift.eventlog.errors import ConfigurationError, Unavailable
from nightshift.eventlog.port import Row
from nightshift.eventlog.postgres import PostgresEventLog
from nightshift.relay.domain.divergence import StreamVersion
from nightshift.relay.domain.errors import LeadershipLost
from nightshift.relay.domain.records import Lane, LastPublished
from nightshift.relay.ports import Cursors

BROKEN = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_NOT_MIGRATED = (asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError)
_NOT_ALLOWED = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)

# A crash of the server may take the last moves back: then those events are sent again, which consumers bear.
_LEADING = """
SET idle_session_timeout = '{timeout_ms}ms';
SET idle_in_transaction_session_timeout = '{timeout_ms}ms';
SET client_connection_check_interval = '1s';
SET tcp_keepalives_idle = 5;
SET tcp_keepalives_interval = 2;
SET tcp_keepalives_count = 3;
SET tcp_user_timeout = 10000;
SET synchronous_commit = off;
"""

_READ = "SELECT * FROM nightshift.relay_read($1, $2, $3, $4)"
_KNOWN = "SELECT event_id, stream_id, version FROM nightshift.relay_known($1)"
_LAG = "SELECT events, seconds FROM nightshift.relay_lag($1)"
_LEAD = "SELECT nightshift.relay_lead($1)"
_NEWEST_LOSS = "SELECT nightshift.relay_newest_loss()"
_CURSORS = "SELECT shard, position, loss, newest_loss FROM nightshift.relay_read_cursors($1)"
_PUBLISHED = (
    "SELECT topic, partition, record_offset, event_id, stream_id, version"
    " FROM nightshift.relay_read_published()"
)
_MOVE = "SELECT nightshift.relay_move($1, $2, $3, $4, $5, $6, $7, $8)"
_NOTIFY = "SELECT pg_notify($1, $2)"
_NOTE_LOSS = "SELECT nightshift.relay_note_loss($1, $2)"
_REPUBLISHED = "SELECT nightshift.relay_republished($1, $2)"
_OF_A_SESSION = (_LEAD, _NEWEST_LOSS, _CURSORS, _PUBLISHED, _MOVE, _NOTE_LOSS, _REPUBLISHED)

_Statements = Mapping[str, asyncpg.prepared_stmt.PreparedStatement]


class PostgresLogReader:
    """Implements LogReader: reads that need no session of their own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._events = PostgresEventLog(database, actor="relay", hint=False)

    async def read(self, cursors: Mapping[int, int], *, max_events: int, max_bytes: int) -> Sequence[Row]:
        """The next rows of these shards; see relay_read.sql."""
        rows = await self._database.fetch(_READ, list(cursors), list(cursors.values()), max_events, max_bytes)
        return [Row(*row) for row in rows]

    async def read_unfinished(
        self, shards: Sequence[int], *, after: tuple[str, int], limit: int
    ) -> Sequence[Row]:
        """Rows of unfinished streams by stream and version."""
        return await self._events.read_open_streams(shards, after=after, limit=limit)

    async def known(self, event_ids: Sequence[UUID]) -> Mapping[UUID, StreamVersion]:
        """Where the log has these events."""
        rows = await self._database.fetch(_KNOWN, event_ids)
        return {row[0]: StreamVersion(row[1], row[2]) for row in rows}

    async def lag(self, shards: Sequence[int]) -> tuple[int, float]:
        """Events after the cursors, and the age of the oldest."""
        row = (await self._database.fetch(_LAG, list(shards)))[0]
        return int(row[0]), float(row[1])

    async def answers(self) -> bool:
        """Whether the server answers now."""
        return await self._database.answers()


class PostgresLeaderSession:
    """Implements LeaderSession on one connection. One statement at a time; the heartbeat and the work share it."""

    def __init__(
        self,
        statements: _Statements,
        shards: Sequence[int],
        *,
        timeout_s: float,
        notifier: "_PublishNotifier | None" = None,
    ) -> None:
        self._statements = statements
        self._shards = list(shards)
        self._timeout = timeout_s
        self._turn = asyncio.Lock()
        self._broken = False
        self._notifier = notifier

    async def lead(self) -> bool:
        """Take the locks of all shards, or none."""
        return bool((await self._call(_LEAD, self._shards))[0][0])

    async def alive(self) -> int:
        """Prove that the session lives; answers the newest loss."""
        return int((await self._call(_NEWEST_LOSS))[0][0])

    async def cursors(self) -> Cursors:
        """Where the shards are."""
        rows = await self._call(_CURSORS, self._shards)
        newest = rows[0]["newest_loss"]
        return Cursors(
            positions={row["shard"]: row["position"] for row in rows},
            newest_loss=newest,
            behind=tuple(row["shard"] for row in rows if row["loss"] < newest),
        )

    async def published(self) -> Sequence[LastPublished]:
        """What the broker acknowledged last, by lane."""
        rows = await self._call(_PUBLISHED)
        return [LastPublished(Lane(row[0], row[1]), row[2], row[3], row[4], row[5]) for row in rows]

    async def move(self, cursors: Mapping[int, int], published: Sequence[LastPublished]) -> None:
        """Move cursors and note the last records. On this connection: without its locks it could not."""
        moving = self._call(
            _MOVE,
            list(cursors),
            list(cursors.values()),
            [one.lane.topic for one in published],
            [one.lane.partition for one in published],
            [one.offset for one in published],
            [one.event_id for one in published],
            [one.stream_id for one in published],
            [one.version for one in published],
        )
        if self._notifier is None:
            await moving
            return
        try:
            # Side by side, the notifier first: whoever waits for it does not wait for the cursor.
            await asyncio.gather(self._notifier.notify({one.lane.topic for one in published}), moving)
        except BROKEN as error:
            raise LeadershipLost(f"the notifier's connection is gone: {said(error)}") from error

    async def note_loss(self, reason: str, seen: int) -> int:
        """Make all shards publish again; answers the newest loss."""
        return int((await self._call(_NOTE_LOSS, reason, seen))[0][0])

    async def republished(self, shards: Sequence[int], loss: int) -> None:
        """These shards were published again after this loss."""
        await self._call(_REPUBLISHED, list(shards), loss)

    async def _call(self, statement: str, *args: Any) -> list[Any]:
        try:
            async with asyncio.timeout(self._timeout), self._turn:
                if self._broken:
                    raise LeadershipLost("the leading session is gone")
                rows: list[Any] = await self._statements[statement].fetch(*args)
                return rows
        except _NOT_ALLOWED as error:
            raise _misconfigured(error) from error
        except BROKEN as error:
            self._broken = True
            raise LeadershipLost(f"the leading session is gone: {said(error)}") from error


class _PublishNotifier:
    """Tells consumers whose broker does not wake them that topics have got something (publish_notifications.py).

    On a connection of its own whose commits do not wait for the disk: NOTIFY's lock is the whole cluster's.
    """

    def __init__(self, notify: asyncpg.prepared_stmt.PreparedStatement, *, timeout_s: float) -> None:
        self._notify_statement = notify
        self._timeout = timeout_s

    @classmethod
    async def made(cls, connection: asyncpg.Connection, *, timeout_s: float) -> Self:
        """Raises Unavailable."""
        try:
            await connection.execute("SET synchronous_commit = off")
            return cls(await connection.prepare(_NOTIFY), timeout_s=timeout_s)
        except BROKEN as error:
            raise Unavailable(f"PostgreSQL: {said(error)}") from error

    async def notify(self, topics: Collection[str]) -> None:
        """Once for each topic. Raises one of BROKEN."""
        # Nearly always one, and for one this is a third of what a statement for many takes.
        for topic in topics:
            await self._notify_statement.fetch(PUBLISHED, topic, timeout=self._timeout)


class PostgresLeaderSessions:
    """Opens sessions for leading. `leader_timeout_s`: how long a paused leader keeps its locks.

    `notify`: say after each acknowledgement which topics have got something (publish_notifications.py).
    """

    def __init__(self, dsn: str, *, name: str, leader_timeout_s: float, notify: bool = False) -> None:
        self._dsn = dsn
        self._name = name
        self._timeout = leader_timeout_s
        self._notify = notify
        self._checked = False

    @contextlib.asynccontextmanager
    async def open(self, shards: Sequence[int]) -> AsyncIterator[PostgresLeaderSession]:
        """A session for these shards. Raises Unavailable, and ConfigurationError behind a transaction pooler."""
        connection = await connect(self._dsn, self._name)
        try:
            await self._check(connection)
            statements = await self._prepare(connection)
            async with self._open_notifier() as notifier:
                yield PostgresLeaderSession(statements, shards, timeout_s=self._timeout, notifier=notifier)
        finally:
            connection.terminate()  # whatever state it is in; the server drops the locks with it

    @contextlib.asynccontextmanager
    async def _open_notifier(self) -> "AsyncIterator[_PublishNotifier | None]":
        if not self._notify:
            yield None
            return
        connection = await connect(self._dsn, f"{self._name} notifier")
        try:
            yield await _PublishNotifier.made(connection, timeout_s=self._timeout)
        finally:
            connection.terminate()

    async def _prepare(self, connection: asyncpg.Connection) -> _Statements:
        try:
            await connection.execute(_LEADING.format(timeout_ms=int(self._timeout * 1000)))
            return {query: await connection.prepare(query) for query in _OF_A_SESSION}
        except _NOT_MIGRATED as error:
            raise ConfigurationError(
                f"PostgreSQL: {error}", hint="`nightshift db migrate` prepares it"
            ) from error
        except _NOT_ALLOWED as error:
            raise _misconfigured(error) from error
        except BROKEN as error:
            raise Unavailable(f"PostgreSQL: {said(error)}") from error

    async def _check(self, connection: asyncpg.Connection) -> None:
        if self._checked:
            return
        second = await connect(self._dsn, self._name)
        try:
            await refuse_pooler(connection, second)
        except BROKEN as error:
            raise Unavailable(f"PostgreSQL: {said(error)}") from error
        finally:
            second.terminate()
        self._checked = True


async def connect(dsn: str, name: str) -> asyncpg.Connection:
    """A connection of its own to the primary. Raises Unavailable, ConfigurationError."""
    try:
        return await asyncpg.connect(
            dsn, timeout=5, target_session_attrs="primary", server_settings={"application_name": name[:63]}
        )
    except _NOT_ALLOWED as error:
        raise _misconfigured(error) from error
    except (*BROKEN, asyncpg.exceptions.TargetServerAttributeNotMatched) as error:
        raise Unavailable(f"PostgreSQL: {said(error)}") from error


def _misconfigured(error: Exception) -> ConfigurationError:
    return ConfigurationError(f"PostgreSQL: {error}", hint="check NIGHTSHIFT_POSTGRES_DSN and its role")


async def refuse_pooler(first: asyncpg.Connection, second: asyncpg.Connection) -> None:
    """Raise ConfigurationError when our connections are not sessions of the server.

    While `second` is in a transaction, a pooler that pools by transaction has to give `first` another server process
    than before, or had given `second` the one of `first`.
    """
    before = await _backend(first)
    async with second.transaction():
        other = await _backend(second)
        after = await _backend(first)
    if before != after or other == before:
        raise ConfigurationError(
            "the relay reaches PostgreSQL through a pooler that pools by transaction: its session locks would be "
            "lost or left behind, and two relays would lead at once",
            hint="give NIGHTSHIFT_POSTGRES_DSN of the relay the address of the server itself, or of a session pool",
        )


async def _backend(connection: asyncpg.Connection) -> int:
    async with connection.transaction():
        return int(await connection.fetchval("SELECT pg_backend_pid()"))


def said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
