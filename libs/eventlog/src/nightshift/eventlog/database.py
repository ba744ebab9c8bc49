"""PostgreSQL for the adapters: one pool, the primary only, each error translated once, and patience while it is away.

The only importer of asyncpg beside what needs a connection of its own (a session lock, LISTEN, migrations).
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import structlog

from nightshift.eventlog.backoff import Backoff, RetryDelay
from nightshift.eventlog.errors import ConfigurationError, Fault, NightshiftError, Unavailable

_log = structlog.get_logger(__name__)

#: What passes by itself: the connection, a restart, a demoted primary, no slot, no room, a lock, a cancelled statement.
_TRANSIENT: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.LockNotAvailableError,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.TransactionIntegrityConstraintViolationError,
    asyncpg.InvalidCachedStatementError,  # a migration changed what a prepared statement stands on
    asyncpg.exceptions.TargetServerAttributeNotMatched,
)
_LISTEN_CHECK_S = 15.0
_BACKOFF = Backoff(first_s=0.02, cap_s=1.0)
#: The server answered with an error, or the caller's arguments were wrong: the connection can be used again.
_GOOD_AS_BEFORE = (asyncpg.PostgresError, asyncpg.DataError)
_MISCONFIGURED: tuple[type[BaseException], ...] = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.exceptions.ClientConfigurationError,
)
_NOT_MIGRATED: tuple[type[BaseException], ...] = (
    asyncpg.UndefinedFunctionError,
    asyncpg.UndefinedTableError,
    asyncpg.InvalidSchemaNameError,
)


#: The first major version that knows `transaction_timeout`.
_ENDS_TRANSACTIONS = 17
#: The UUID that asyncpg reads and writes without a detour. It is the standard library's to everybody else.
Uuid = asyncpg.pgproto.pgproto.UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class PgConfig:
    """Where the primary is, and how long to wait. Seconds."""

    dsn: str = field(repr=False)
    application_name: str = "nightshift"
    max_connections: int = 8
    connect_timeout: float = 5.0
    statement_timeout: float = 30.0
    transaction_timeout: float = (
        30.0  # the server ends a session that keeps it waiting in a transaction for so long
    )
    patience: float = 60.0  # how long a call waits for a server that is away before it raises Unavailable


@dataclass(slots=True)
class _Session:
    """A connection with its prepared statements.

    asyncpg's own pool takes 60 µs a statement to hand out a connection and to take it back, a third of an append. This
    is what is left of a pool when nothing ever changes a session.
    """

    connection: asyncpg.Connection
    statements: dict[str, asyncpg.prepared_stmt.PreparedStatement] = field(default_factory=dict)


class Database:
    """Connections to the primary. A statement is prepared once on each; it is one round trip and commits itself."""

    def __init__(
        self, config: PgConfig, *, refusals: Mapping[str, Callable[[str], NightshiftError]] | None = None
    ) -> None:
        """`refusals`: what an own SQLSTATE means."""
        self._config = config
        self._refusals = refusals or {}
        self._idle: list[_Session] = []
        self._slots = asyncio.Semaphore(config.max_connections)
        self._away = False

    async def close(self) -> None:
        """Close the idle connections. Whoever calls has no call under way."""
        while self._idle:
            session = self._idle.pop()
            with contextlib.suppress(*_TRANSIENT, asyncpg.InterfaceError):
                await session.connection.close(timeout=5)

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """All rows of one statement, committed when this returns.

        While the server is away it is tried again, so the statement must bear being run twice: after a lost answer it
        may have been committed. Raises Unavailable when patience ends, and what the SQLSTATE means.
        """
        try:
            return await self._attempt(query, args)
        except Unavailable as error:
            return await self._try_again(query, args, error)

    async def wait_ready(self) -> None:
        """Return once the server answers as a primary. Raises Unavailable when patience ends."""
        await self.fetch("SELECT 1")

    async def answers(self) -> bool:
        """Whether the server answers now, as a primary. Tries once and never raises; that it is away is said."""
        try:
            await self._attempt("SELECT 1", ())
        except Unavailable as error:
            self._is_away(error)
            return False
        except NightshiftError:
            return False
        return True

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection for several statements, such as a transaction. Nothing is tried again."""
        try:
            session = await self._take(None)
            try:
                yield session.connection
            except BaseException as error:
                self._give_back(session, error)
                raise
            self._give_back(session)
        except Exception as error:
            raise self._translate(error) from error

    async def listen(
        self, channel: str, hear: Callable[[str], None], *, on_ready: Callable[[], None]
    ) -> None:
        """Call `hear` with each payload of a NOTIFY, on a connection beside the others, until it breaks.

        Raises what that means, Unavailable as a rule.
        """
        try:
            connection = await self._connect()
            try:
                closed = asyncio.Event()
                connection.add_termination_listener(lambda _: closed.set())
                await connection.add_listener(channel, lambda _1, _2, _3, payload: hear(str(payload)))
                on_ready()
                while not closed.is_set():
                    try:
                        async with asyncio.timeout(_LISTEN_CHECK_S):
                            await closed.wait()
                    except TimeoutError:  # the far end may be gone without a word
                        await connection.fetchval("SELECT 1", timeout=self._config.connect_timeout)
                raise Unavailable("PostgreSQL: the listening connection was closed")
            finally:
                connection.terminate()
        except Exception as error:
            raise self._translate(error) from error

    async def _attempt(self, query: str, args: tuple[Any, ...]) -> list[Any]:
        # The hot path of every service. The time limit is asyncpg's own: asyncio.timeout and a context manager a
        # statement would be a sixth of what an append costs its client.
        limit, was_away = self._config.statement_timeout, self._away
        try:
            session = await self._take(limit)
            try:
                statement = session.statements.get(query)
                if statement is None:
                    statement = await session.connection.prepare(query, timeout=limit)
                    session.statements[query] = statement
                rows: list[Any] = await statement.fetch(*args, timeout=limit)
            except BaseException as error:
                self._give_back(session, error)
                raise
            self._give_back(session)
        except Exception as error:
            raise self._translate(error) from error
        if was_away and self._away:  # what was asked before it went is no sign of its return
            self._came_back()
        return rows

    async def _try_again(self, query: str, args: tuple[Any, ...], error: Unavailable) -> list[Any]:
        loop = asyncio.get_running_loop()
        deadline, retry = loop.time() + self._config.patience, RetryDelay(_BACKOFF, random.random)
        while (left := deadline - loop.time()) > 0:
            self._is_away(error)
            await asyncio.sleep(min(left, retry.after_failure()))
            try:
                return await self._attempt(query, args)
            except Unavailable as again:
                error = again
        raise error

    def _is_away(self, error: Unavailable) -> None:
        if not self._away:
            self._away = True
            _log.warning("postgres.away", error=str(error), patience_s=self._config.patience)

    def _came_back(self) -> None:
        # Said by whoever is answered first: those who waited may have given up.
        self._away = False
        _log.info("postgres.back")

    async def _take(self, seconds: float | None) -> _Session:
        """An idle session or a new one. Raises TimeoutError when none is free in time."""
        if self._slots.locked():
            async with asyncio.timeout(seconds):
                await self._slots.acquire()
        else:
            await self._slots.acquire()
        session = self._idle.pop() if self._idle else None
        if session is not None and not session.connection.is_closed():
            return session
        try:
            return _Session(await self._connect())
        except BaseException:
            self._slots.release()
            raise

    def _give_back(self, session: _Session, error: BaseException | None = None) -> None:
        # Cut or cancelled in the middle: nobody knows what it will say next.
        if error is not None and (not isinstance(error, _GOOD_AS_BEFORE) or isinstance(error, _TRANSIENT)):
            session.connection.terminate()
        self._keep(session)
        self._slots.release()

    def _keep(self, session: _Session) -> None:
        if session.connection.is_closed():
            return
        if session.connection.is_in_transaction():
            session.connection.terminate()
            return
        self._idle.append(session)

    async def _connect(self) -> asyncpg.Connection:
        # Whoever is paused in a transaction holds its locks, a shard's among them, and nobody appends there meanwhile.
        limit = f"{int(self._config.transaction_timeout * 1000)}ms"
        connection = await asyncpg.connect(
            self._config.dsn,
            timeout=self._config.connect_timeout,
            # A standby may lag, or belong to a history that is no more: it is never asked.
            target_session_attrs="primary",
            server_settings={
                "application_name": self._config.application_name,
                "idle_in_transaction_session_timeout": limit,
            },
        )
        if connection.get_server_version().major >= _ENDS_TRANSACTIONS:
            try:
                # Also between the halves of a statement, where the other limit does not look.
                await connection.execute(
                    f"SET transaction_timeout = '{limit}'", timeout=self._config.connect_timeout
                )
            except BaseException:
                connection.terminate()
                raise
        return connection

    def _translate(self, error: Exception) -> Exception:
        """What an error of asyncpg means; any other is passed through."""
        if isinstance(error, asyncpg.PostgresError) and error.sqlstate in self._refusals:
            return self._refusals[error.sqlstate](_line(error))
        if isinstance(error, _TRANSIENT):
            return Unavailable(f"PostgreSQL: {_line(error)}")
        if isinstance(error, _NOT_MIGRATED):
            return ConfigurationError(
                f"PostgreSQL: {_line(error)}", hint="`nightshift db migrate` prepares it"
            )
        if isinstance(error, _MISCONFIGURED):
            return ConfigurationError(
                f"PostgreSQL: {_line(error)}", hint="check NIGHTSHIFT_POSTGRES_DSN and its role"
            )
        if isinstance(error, asyncpg.PostgresError | asyncpg.DataError):
            return Fault(f"PostgreSQL: {_line(error)}")
        if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
            # asyncpg says so of a connection that broke between two statements.
            return Unavailable(f"PostgreSQL: {_line(error)}")
        return error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
