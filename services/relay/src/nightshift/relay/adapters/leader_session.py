"""The database session with which a relay leads a group of shards.

It holds session locks, so it must end soon when its process dies or hangs. TCP keepalives detect a dead process. The
server's idle timeout detects a hanging one, but not while a prepared statement waits to be executed. So all statements
are prepared before the locks are taken. From then on each call is a single message.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import asyncpg

from nightshift.bus.port import TopicPartition
from nightshift.bus.publish_notifications import CHANNEL
from nightshift.eventlog.database import open_connection, translated
from nightshift.eventlog.errors import Fault, Unavailable
from nightshift.relay.adapters.pooler_check import refuse_pooler
from nightshift.relay.domain.errors import LeadershipLost
from nightshift.relay.domain.records import LastPublished
from nightshift.relay.ports import Cursors

# synchronous_commit is off, so a crash of the server may undo the last cursor moves. The relay then publishes their
# events again, and consumers drop the copies.
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

_Statement: TypeAlias = asyncpg.prepared_stmt.PreparedStatement


class PostgresLeaderSession:
    """The LeaderSession port on one database connection, which executes one statement at a time.

    `notify` is a prepared statement on another connection that notifies consumers of new records. If it is None, nobody
    is notified.
    """

    def __init__(
        self,
        statements: Mapping[str, _Statement],
        shards: Sequence[int],
        *,
        timeout_s: float,
        notify: _Statement | None,
    ) -> None:
        self._statements = statements
        self._shards = list(shards)
        self._timeout = timeout_s
        self._turn = asyncio.Lock()
        self._broken = False
        self._notify = notify

    async def lead(self) -> bool:
        return bool((await self._call(_LEAD, self._shards))[0][0])

    async def newest_loss(self) -> int:
        return int((await self._call(_NEWEST_LOSS))[0][0])

    async def cursors(self) -> Cursors:
        rows = await self._call(_CURSORS, self._shards)
        newest = rows[0]["newest_loss"]
        return Cursors(
            positions={row["shard"]: row["position"] for row in rows},
            newest_loss=newest,
            behind=tuple(row["shard"] for row in rows if row["loss"] < newest),
        )

    async def last_published(self) -> Sequence[LastPublished]:
        rows = await self._call(_LAST_PUBLISHED)
        return [LastPublished(TopicPartition(row[0], row[1]), *row[2:]) for row in rows]

    async def move(self, cursors: Mapping[int, int], published: Sequence[LastPublished]) -> None:
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
        if self._notify is None:
            await moving
        else:
            # Both at the same time, the notification first: consumers wait for it, and nobody waits for the cursors.
            topics = {one.partition.topic for one in published}
            await asyncio.gather(self._send_notifications(self._notify, topics), moving)

    async def note_loss(self, reason: str, seen: int) -> int:
        return int((await self._call(_NOTE_LOSS, reason, seen))[0][0])

    async def republished(self, shards: Sequence[int], loss: int) -> None:
        await self._call(_REPUBLISHED, list(shards), loss)

    async def _call(self, statement: str, *args: Any) -> list[Any]:
        try:
            with translated():
                async with asyncio.timeout(self._timeout), self._turn:
                    if not self._broken:
                        rows: list[Any] = await self._statements[statement].fetch(*args)
                        return rows
        except (Unavailable, Fault) as error:
            self._broken = True
            raise LeadershipLost(f"the leading session is gone: {error}") from error
        raise LeadershipLost("the leading session is gone")

    async def _send_notifications(self, notify: _Statement, topics: Collection[str]) -> None:
        try:
            with translated():
                # There is nearly always one topic, and a statement for several would cost three times as much.
                for topic in topics:
                    await notify.fetch(CHANNEL, topic, timeout=self._timeout)
        except (Unavailable, Fault) as error:
            raise LeadershipLost(f"the notifying connection is gone: {error}") from error


class PostgresLeaderSessions:
    """Opens the sessions of leaders. A leader that hangs loses its locks after `leader_timeout_s` seconds.

    If `notify`, a leader notifies consumers after each acknowledgement. The embedded broker needs that, because it
    does not answer a waiting fetch when records arrive.
    """

    def __init__(self, dsn: str, *, name: str, leader_timeout_s: float, notify: bool = False) -> None:
        self._dsn = dsn
        self._name = name
        self._timeout = leader_timeout_s
        self._notify = notify
        self._checked = False

    @contextlib.asynccontextmanager
    async def open(self, shards: Sequence[int]) -> AsyncIterator[PostgresLeaderSession]:
        """Open a session for these shards. The session does not lead until its `lead` returns True.

        Raises Unavailable when the database does not answer. Raises ConfigurationError when the connection goes through
        a transaction pooler.
        """
        async with contextlib.AsyncExitStack() as stack:
            connection = await stack.enter_async_context(self._connected())
            if not self._checked:
                async with self._connected() as second:
                    with translated():
                        await refuse_pooler(connection, second)
                self._checked = True
            with translated():
                await connection.execute(_LEADING.format(timeout_ms=int(self._timeout * 1000)))
                statements = {query: await connection.prepare(query) for query in _ALL}
            notify = None
            if self._notify:
                notifier = await stack.enter_async_context(self._connected(" notifier"))
                with translated():
                    # NOTIFY holds a lock of the whole cluster until its commit, so the commit must not wait for the
                    # disk.
                    await notifier.execute("SET synchronous_commit = off")
                    notify = await notifier.prepare(_NOTIFY)
            yield PostgresLeaderSession(statements, shards, timeout_s=self._timeout, notify=notify)

    @contextlib.asynccontextmanager
    async def _connected(self, suffix: str = "") -> AsyncIterator[asyncpg.Connection]:
        connection = await open_connection(self._dsn, self._name + suffix)
        try:
            yield connection
        finally:
            connection.terminate()  # whatever its state, the server releases its locks
