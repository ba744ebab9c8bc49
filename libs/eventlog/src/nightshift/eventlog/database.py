"""Connections to the PostgreSQL primary: a pool, retries, and the translation of asyncpg's errors."""

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

import asyncpg
import structlog

from nightshift.eventlog.backoff import Backoff, RetryDelay
from nightshift.eventlog.errors import ConfigurationError, Fault, NightshiftError, Unavailable

_log = structlog.get_logger(__name__)

#: Temporary errors: a lost connection, a restart, a demoted primary, no free slot, no space, a lock, a cancellation.
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
    asyncpg.InvalidCachedStatementError,  # a migration changed a table of a prepared statement
    asyncpg.exceptions.TargetServerAttributeNotMatched,
)
_LISTEN_CHECK_S = 15.0
_BACKOFF = Backoff(first_s=0.02, cap_s=1.0)
#: After these errors the connection can be used again: the server answered, or the arguments were wrong.
_REUSABLE_AFTER = (asyncpg.PostgresError, asyncpg.DataError)
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


#: For each of our own SQLSTATEs a function that makes its error from the server's message.
Refusals: TypeAlias = Mapping[str, Callable[[str], NightshiftError]]
#: The first major version that knows `transaction_timeout`.
_ENDS_TRANSACTIONS = 17
#: The UUID class that asyncpg reads and writes without a conversion, a subclass of the standard library's.
Uuid = asyncpg.pgproto.pgproto.UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class PgConfig:
    """The address of the PostgreSQL primary, and time limits in seconds.

    `patience` is how long a statement is retried while the server does not answer.
    """

    dsn: str = field(repr=False)
    application_name: str = "nightshift"
    max_connections: int = 8
    connect_timeout: float = 5.0
    statement_timeout: float = 30.0
    transaction_timeout: float = 30.0  # the server ends a session that is idle in a transaction for so long
    patience: float = 60.0  # how long a call is retried before it raises Unavailable


@dataclass(slots=True)
class _Session:
    """A connection with its prepared statements.

    We do not use asyncpg's pool, because it adds 60 µs to each statement, a third of the cost of an append.
    """

    connection: asyncpg.Connection
    statements: dict[str, asyncpg.prepared_stmt.PreparedStatement] = field(default_factory=dict)


class Database:
    """A pool of connections to the PostgreSQL primary.

    Each call of `fetch` is a transaction of its own. A statement is prepared once per connection.
    """

    def __init__(self, config: PgConfig, *, refusals: Refusals = MappingProxyType({})) -> None:
        self._config = config
        self._refusals = refusals
        self._idle: list[_Session] = []
        self._slots = asyncio.Semaphore(config.max_connections)
        self._unavailable = False

    async def close(self) -> None:
        """Close the idle connections. No call may be running."""
        while self._idle:
            session = self._idle.pop()
            with contextlib.suppress(*_TRANSIENT, asyncpg.InterfaceError):
                await session.connection.close(timeout=5)

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """Execute one statement, commit it, and return all rows. For an SQLSTATE in the database's `refusals`, raises
        the error given there.

        Retries for up to `patience` seconds while the server does not answer, then raises Unavailable. When only the
        answer was lost, a retry executes the statement a second time, so that must be harmless.
        """
        try:
            return await self._attempt(query, args)
        except Unavailable as error:
            return await self._try_again(query, args, error)

    async def answers(self) -> bool:
        """Ask the server once and return whether it answers. Logs `postgres.unavailable` when it does not.

        Never raises.
        """
        try:
            await self._attempt("SELECT 1", ())
        except Unavailable as error:
            self._note_unavailable(error)
            return False
        except NightshiftError:
            return False
        return True

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """Yield a connection for several statements, for example a transaction. Errors are translated, and nothing is
        retried.
        """
        with translated(self._refusals):
            session = await self._take(None)
            try:
                yield session.connection
            except BaseException as error:
                self._release(session, error)
                raise
            self._release(session)

    async def listen(
        self, channel: str, on_payload: Callable[[str], None], *, on_ready: Callable[[], None]
    ) -> None:
        """Listen to a NOTIFY channel on a connection of its own, and call `on_payload` with each notification's
        payload.

        Calls `on_ready` once when it listens. Never returns: raises an error when the connection breaks, usually
        Unavailable.
        """
        with translated():
            connection = await self._connect()
            try:
                closed = asyncio.Event()
                connection.add_termination_listener(lambda _: closed.set())
                await connection.add_listener(channel, lambda _1, _2, _3, payload: on_payload(str(payload)))
                on_ready()
                while not closed.is_set():
                    try:
                        async with asyncio.timeout(_LISTEN_CHECK_S):
                            await closed.wait()
                    # Check the connection, because the server may have gone without closing it.
                    except TimeoutError:
                        await connection.fetchval("SELECT 1", timeout=self._config.connect_timeout)
                raise Unavailable("PostgreSQL: the listening connection was closed")
            finally:
                connection.terminate()

    async def _attempt(self, query: str, args: tuple[Any, ...]) -> list[Any]:
        # Every service spends much time here. asyncpg's own time limit is used: asyncio.timeout and a context manager
        # for each statement would add a sixth to the client's cost of an append.
        limit, was_unavailable = self._config.statement_timeout, self._unavailable
        session = await self._take(limit)
        try:
            statement = session.statements.get(query)
            if statement is None:
                statement = await session.connection.prepare(query, timeout=limit)
                session.statements[query] = statement
            rows: list[Any] = await statement.fetch(*args, timeout=limit)
        except BaseException as error:
            self._release(session, error)
            if isinstance(error, Exception):
                raise translate(error, self._refusals) from error
            raise
        self._release(session)
        # A call that began before the outage does not prove that it is over.
        if was_unavailable and self._unavailable:
            self._unavailable = False
            _log.info("postgres.recovered")
        return rows

    async def _try_again(self, query: str, args: tuple[Any, ...], error: Unavailable) -> list[Any]:
        loop = asyncio.get_running_loop()
        deadline, retry = loop.time() + self._config.patience, RetryDelay(_BACKOFF, random.random)
        while (left := deadline - loop.time()) > 0:
            self._note_unavailable(error)
            await asyncio.sleep(min(left, retry.after_failure()))
            try:
                return await self._attempt(query, args)
            except Unavailable as again:
                error = again
        raise error

    def _note_unavailable(self, error: Unavailable) -> None:
        if not self._unavailable:
            self._unavailable = True
            _log.warning("postgres.unavailable", error=str(error), patience_s=self._config.patience)

    async def _take(self, seconds: float | None) -> _Session:
        """Return an idle session or open a new one. Raises Unavailable when all connections stay in use for `seconds`.

        If `seconds` is None, waits without a limit.
        """
        if self._slots.locked():
            with translated():
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

    def _release(self, session: _Session, error: BaseException | None = None) -> None:
        # After an interrupted statement the state of the protocol is unknown, so the connection cannot be used again.
        if error is not None and (not isinstance(error, _REUSABLE_AFTER) or isinstance(error, _TRANSIENT)):
            session.connection.terminate()
        if not session.connection.is_closed():
            if session.connection.is_in_transaction():
                session.connection.terminate()
            else:
                self._idle.append(session)
        self._slots.release()

    async def _connect(self) -> asyncpg.Connection:
        # A process that hangs in a transaction holds its locks, such as that of a shard, and blocks every other writer.
        limit = f"{int(self._config.transaction_timeout * 1000)}ms"
        connection = await open_connection(
            self._config.dsn,
            self._config.application_name,
            timeout=self._config.connect_timeout,
            idle_in_transaction_session_timeout=limit,
        )
        if connection.get_server_version().major >= _ENDS_TRANSACTIONS:
            try:
                # The idle limit does not apply between the preparation and the execution of a statement; this limit
                # does.
                with translated():
                    await connection.execute(
                        f"SET transaction_timeout = '{limit}'", timeout=self._config.connect_timeout
                    )
            except BaseException:
                connection.terminate()
                raise
        return connection


async def open_connection(
    dsn: str, application_name: str, *, timeout: float = 5.0, **server_settings: str
) -> asyncpg.Connection:
    """Open one connection to the primary, outside any pool. The caller closes it. Raises Unavailable or
    ConfigurationError.
    """
    server_settings["application_name"] = application_name[:63]
    with translated():
        # Never a standby: it may lag, or have been cut off from the primary.
        return await asyncpg.connect(
            dsn, timeout=timeout, target_session_attrs="primary", server_settings=server_settings
        )


@contextlib.contextmanager
def translated(refusals: Refusals = MappingProxyType({})) -> Iterator[None]:
    """Run the block, and raise our own errors in place of those of asyncpg and the network. Other errors pass
    unchanged.

    `refusals` maps SQLSTATEs to the errors to raise for them.
    """
    try:
        yield
    except Exception as error:
        ours = translate(error, refusals)
        if ours is error:
            raise
        raise ours from error


def translate(error: Exception, refusals: Refusals) -> Exception:
    """Return our own error for an error of asyncpg or of the network. Returns any other error unchanged.

    `refusals` maps SQLSTATEs to the errors to return for them.
    """
    line = " ".join(str(error).split()) or type(error).__name__
    text = f"PostgreSQL: {line}"
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate in refusals:
        return refusals[error.sqlstate](line)
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConfigurationError(
            f"PostgreSQL: the server's certificate is refused: {error.verify_message}",
            hint="name the file of its authority as sslrootcert in NIGHTSHIFT_POSTGRES_DSN, and the host as in the"
            " certificate",
        )
    if isinstance(error, _TRANSIENT):
        return Unavailable(
            text, hint="check NIGHTSHIFT_POSTGRES_DSN, and whether the server runs as a primary"
        )
    if isinstance(error, _NOT_MIGRATED):
        return ConfigurationError(text, hint="`nightshift db migrate` prepares it")
    if isinstance(error, _MISCONFIGURED):
        return ConfigurationError(text, hint="check NIGHTSHIFT_POSTGRES_DSN and its role")
    if isinstance(error, asyncpg.PostgresError | asyncpg.DataError):
        return Fault(text)
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        # asyncpg raises these for a connection that broke between two statements.
        return Unavailable(text)
    return error
