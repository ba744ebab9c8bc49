"""The database session that leads a group of shards.

The leader holds session locks, so its session must be one server process for its whole life, and must end soon after
its owner does. Keepalives find a dead owner. The server's idle timeout finds a paused one, but runs only between
statements: while a statement is prepared and not yet executed, the server waits without a limit. So all statements are
prepared before the locks are taken, and from then on each is one message.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, Self

import asyncpg

from nightshift.bus.port import TopicPartition
from nightshift.bus.publish_notifications import CHANNEL
from nightshift.eventlog.errors import ConfigurationError, Unavailable
from nightshift.relay.adapters.connection import (
    BROKEN,
    NOT_ALLOWED,
    connect,
    misconfigured,
    one_line,
    refuse_pooler,
)
from nightshift.relay.domain.errors import LeadershipLost
from nightshift.relay.domain.records import LastPublished
from nightshift.relay.ports import Cursors

_NOT_MIGRATED = (asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError)

# synchronous_commit: a crash of the server may undo the last moves. Their events are then sent again, which consumers
# drop.
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

_LEAD = "SELECT nightshift.relay_lead($1)"
_NEWEST_LOSS = "SELECT nightshift.relay_newest_loss()"
_CURSORS = "SELECT shard, position, loss, newest_loss FROM nightshift.relay_read_cursors($1)"
_LAST_PUBLISHED = (
    "SELECT topic, partition, record_offset, event_id, stream_id, version"
    " FROM nightshift.relay_read_published()"
)
_MOVE = "SELECT nightshift.relay_move($1, $2, $3, $4, $5, $6, $7, $8)"
_NOTE_LOSS = "SELECT nightshift.relay_note_loss($1, $2)"
_REPUBLISHED = "SELECT nightshift.relay_republished($1, $2)"
_ALL = (_LEAD, _NEWEST_LOSS, _CURSORS, _LAST_PUBLISHED, _MOVE, _NOTE_LOSS, _REPUBLISHED)
_NOTIFY = "SELECT pg_notify($1, $2)"

_Statements = Mapping[str, asyncpg.prepared_stmt.PreparedStatement]


class PostgresLeaderSession:
    """Implements LeaderSession on one connection. The heartbeat and the work take turns: one statement at a time."""

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

    async def newest_loss(self) -> int:
        """Return the number of the newest loss, 0 when there was none."""
        return int((await self._call(_NEWEST_LOSS))[0][0])

    async def cursors(self) -> Cursors:
        """Return how far the shards are published."""
        rows = await self._call(_CURSORS, self._shards)
        newest = rows[0]["newest_loss"]
        return Cursors(
            positions={row["shard"]: row["position"] for row in rows},
            newest_loss=newest,
            behind=tuple(row["shard"] for row in rows if row["loss"] < newest),
        )

    async def last_published(self) -> Sequence[LastPublished]:
        """Return what the broker acknowledged last, by topic-partition."""
        rows = await self._call(_LAST_PUBLISHED)
        return [LastPublished(TopicPartition(row[0], row[1]), *row[2:]) for row in rows]

    async def move(self, cursors: Mapping[int, int], published: Sequence[LastPublished]) -> None:
        """Move cursors and store the last records, on the connection that holds the locks."""
        moving = self._call(
            _MOVE,
            list(cursors),
            list(cursors.values()),
            [one.partition.topic for one in published],
            [one.partition.partition for one in published],
            [one.offset for one in published],
            [one.event_id for one in published],
            [one.stream_id for one in published],
            [one.version for one in published],
        )
        if self._notifier is None:
            await moving
            return
        try:
            # Both at once, the notification first: consumers wait for it, and nobody waits for the cursor.
            await asyncio.gather(self._notifier.notify({one.partition.topic for one in published}), moving)
        except BROKEN as error:
            raise LeadershipLost(f"the notifying connection is gone: {one_line(error)}") from error

    async def note_loss(self, reason: str, seen: int) -> int:
        """Make all shards publish again. Returns the newest loss."""
        return int((await self._call(_NOTE_LOSS, reason, seen))[0][0])

    async def republished(self, shards: Sequence[int], loss: int) -> None:
        """Record that these shards were published again after this loss."""
        await self._call(_REPUBLISHED, list(shards), loss)

    async def _call(self, statement: str, *args: Any) -> list[Any]:
        try:
            async with asyncio.timeout(self._timeout), self._turn:
                if self._broken:
                    raise LeadershipLost("the leading session is gone")
                rows: list[Any] = await self._statements[statement].fetch(*args)
                return rows
        except NOT_ALLOWED as error:
            raise misconfigured(error) from error
        except BROKEN as error:
            self._broken = True
            raise LeadershipLost(f"the leading session is gone: {one_line(error)}") from error


class _PublishNotifier:
    """Notifies consumers of topics with new records, for a broker that does not wake a waiting fetch.

    Uses a connection of its own whose commits do not wait for the disk: NOTIFY holds a lock of the whole cluster.
    """

    def __init__(self, statement: asyncpg.prepared_stmt.PreparedStatement, *, timeout_s: float) -> None:
        self._statement = statement
        self._timeout = timeout_s

    @classmethod
    async def prepare(cls, connection: asyncpg.Connection, *, timeout_s: float) -> Self:
        """Return a notifier on this connection. Raises Unavailable."""
        try:
            await connection.execute("SET synchronous_commit = off")
            return cls(await connection.prepare(_NOTIFY), timeout_s=timeout_s)
        except BROKEN as error:
            raise Unavailable(f"PostgreSQL: {one_line(error)}") from error

    async def notify(self, topics: Collection[str]) -> None:
        """Notify once for each topic. Raises one of BROKEN."""
        # Nearly always one topic, and a statement for many would cost three times as much for one.
        for topic in topics:
            await self._statement.fetch(CHANNEL, topic, timeout=self._timeout)


class PostgresLeaderSessions:
    """Opens sessions for leading. A paused leader loses its locks after `leader_timeout_s`.

    `notify`: notify consumers after each acknowledgement (nightshift.bus.publish_notifications).
    """

    def __init__(self, dsn: str, *, name: str, leader_timeout_s: float, notify: bool = False) -> None:
        self._dsn = dsn
        self._name = name
        self._timeout = leader_timeout_s
        self._notify = notify
        self._checked = False

    @contextlib.asynccontextmanager
    async def open(self, shards: Sequence[int]) -> AsyncIterator[PostgresLeaderSession]:
        """Open a session for these shards. Raises Unavailable, and ConfigurationError behind a transaction pooler."""
        connection = await connect(self._dsn, self._name)
        try:
            await self._check_pooler(connection)
            statements = await self._prepare(connection)
            async with self._open_notifier() as notifier:
                yield PostgresLeaderSession(statements, shards, timeout_s=self._timeout, notifier=notifier)
        finally:
            connection.terminate()  # whatever its state: the server drops the locks with it

    @contextlib.asynccontextmanager
    async def _open_notifier(self) -> AsyncIterator[_PublishNotifier | None]:
        if not self._notify:
            yield None
            return
        connection = await connect(self._dsn, f"{self._name} notifier")
        try:
            yield await _PublishNotifier.prepare(connection, timeout_s=self._timeout)
        finally:
            connection.terminate()

    async def _prepare(self, connection: asyncpg.Connection) -> _Statements:
        try:
            await connection.execute(_LEADING.format(timeout_ms=int(self._timeout * 1000)))
            return {query: await connection.prepare(query) for query in _ALL}
        except _NOT_MIGRATED as error:
            raise ConfigurationError(
                f"PostgreSQL: {error}", hint="`nightshift db migrate` prepares it"
            ) from error
        except NOT_ALLOWED as error:
            raise misconfigured(error) from error
        except BROKEN as error:
            raise Unavailable(f"PostgreSQL: {one_line(error)}") from error

    async def _check_pooler(self, connection: asyncpg.Connection) -> None:
        """Refuse a transaction pooler, once in the life of this object."""
        if self._checked:
            return
        second = await connect(self._dsn, self._name)
        try:
            await refuse_pooler(connection, second)
        except BROKEN as error:
            raise Unavailable(f"PostgreSQL: {one_line(error)}") from error
        finally:
            second.terminate()
        self._checked = True
