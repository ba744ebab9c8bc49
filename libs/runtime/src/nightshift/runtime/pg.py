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

from nightshift.runtime.errors import ConfigurationError, Fault, NightshiftError, Unavailable

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
    asyncpg.exceptions.TargetServerAttributeNotMatched,
)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PgConfig:
    """Where the primary is, and how long to wait. Seconds."""

    dsn: str = field(repr=False)
    application_name: str = "nightshift"
    max_connections: int = 8
    connect_timeout: float = 5.0
    statement_timeout: float = 30.0
    patience: float = 60.0  # how long a call waits for a server that is away before it raises Unavailable


class Database:
    """A pool on the primary. A statement is prepared once a connection; each is one round trip and commits itself."""

    def __init__(
        self, config: PgConfig, *, refusals: Mapping[str, Callable[[str], NightshiftError]] | None = None
    ) -> None:
        """`refusals`: what an own SQLSTATE means."""
        self._config = config
        self._refusals = refusals or {}
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()
        self._away = False

    async def close(self) -> None:
        """Close all connections; calls under way get a moment to end."""
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                async with asyncio.timeout(5):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """All rows of one statement, committed when this returns.

        While the server is away it is tried again, so the statement must bear being run twice: after a lost answer it
        may have been committed. Raises Unavailable when patience ends, and what the SQLSTATE means.
        """
        deadline = asyncio.get_running_loop().time() + self._config.patience
        pause = 0.02
        while True:
            try:
                rows = await self._attempt(query, args)
            except Unavailable as error:
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    raise
                self._say_away(error)
                # Not all at once, when it is back.
                await asyncio.sleep(min(left, pause * random.uniform(0.5, 1.0)))  # noqa: S311 - no secret
                pause = min(pause * 2, 1.0)
            else:
                if self._away:
                    self._away = False
                    _log.info("postgres.back")
                return rows

    async def wait_ready(self) -> None:
        """Return once the server answers as a primary. Raises Unavailable when patience ends."""
        await self.fetch("SELECT 1")

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection for several statements, such as a transaction. Nothing is tried again."""
        with self._translated():
            pool = await self._open()
            async with pool.acquire(timeout=self._config.statement_timeout) as connection:
                yield connection

    async def _attempt(self, query: str, args: tuple[Any, ...]) -> list[Any]:
        with self._translated():
            pool = self._pool or await self._open()
            async with asyncio.timeout(self._config.statement_timeout), pool.acquire() as connection:
                return await connection.fetch(query, *args)  # type: ignore[no-any-return]

    async def _open(self) -> asyncpg.Pool:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._config.dsn,
                    min_size=1,
                    max_size=self._config.max_connections,
                    timeout=self._config.connect_timeout,
                    reset=_keep_session,
                    max_inactive_connection_lifetime=0,
                    # A standby may lag, or belong to a history that is no more: it is never asked.
                    target_session_attrs="primary",
                    server_settings={"application_name": self._config.application_name},
                )
            return self._pool

    @contextlib.contextmanager
    def _translated(self) -> Any:
        try:
            yield
        except Exception as error:
            translated = self._translate(error)
            if translated is None:
                raise
            raise translated from error

    def _translate(self, error: Exception) -> NightshiftError | None:
        if isinstance(error, asyncpg.PostgresError) and error.sqlstate in self._refusals:
            return self._refusals[error.sqlstate](str(error))
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
        if isinstance(error, asyncpg.InterfaceError):
            # asyncpg says so of a connection that broke between two statements.
            return Unavailable(f"PostgreSQL: {_line(error)}")
        if isinstance(error, asyncpg.PostgresError):
            return Fault(f"PostgreSQL: {error.sqlstate} {_line(error)}")
        return None

    def _say_away(self, error: Unavailable) -> None:
        if not self._away:
            self._away = True
            _log.warning("postgres.away", error=str(error), waiting_s=self._config.patience)


async def _keep_session(_connection: asyncpg.Connection) -> None:
    """Nothing here changes a session, so nothing is reset: the default is a round trip after every statement."""


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
