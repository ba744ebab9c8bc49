"""Servers for tests. Each worker starts them once a session; each test gets a database and topics of its own."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from pydantic import SecretStr

from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import SUPERUSER, EmbeddedPostgres, PostgresAddress, S3Address
from nightshift.devstack.parts.part_directory import find_part_directory
from nightshift.eventlog.settings import ObjectStoreSettings

_PREFIX = "nightshift-test"
TEMPLATE = "nightshift_template"


@dataclass(frozen=True, slots=True)
class Database:
    """The empty, migrated database of one test."""

    server: PostgresAddress
    name: str

    def dsn(self, role: str = SUPERUSER) -> str:
        """Returns the DSN for a role, such as `nightshift_relay`."""
        return self.server.dsn(role, self.name)


def postgres_programs() -> Path | None:
    """Returns the folder of NIGHTSHIFT_POSTGRES_BIN, or None for the programs of the installed wheel."""
    given = os.environ.get("NIGHTSHIFT_POSTGRES_BIN")
    return Path(given) if given else None


def postgres_tool(near: Path, name: str) -> Path:
    """Returns the path of a client program, such as pg_dump, of the version that the tests run on.

    Skips the test when that version has no client programs: another version writes dumps that this server cannot read.
    """
    tool = find_part_directory(near, postgres_programs()).programs / name
    if not tool.is_file():
        pytest.skip(f"there is no {name} in {tool.parent}")
    return tool


def postgres_part(data_dir: Path, *, settings: Mapping[str, str] | None = None) -> EmbeddedPostgres:
    """Returns a server, not started, of the version that NIGHTSHIFT_POSTGRES_BIN names."""
    return EmbeddedPostgres(data_dir, settings=settings, programs=postgres_programs())


def store_settings(s3: S3Address) -> ObjectStoreSettings:
    """Returns the settings with which a service reaches this store."""
    return ObjectStoreSettings(
        s3_bucket=s3.bucket,
        s3_endpoint=s3.endpoint,
        s3_region=s3.region,
        s3_access_key=s3.access_key,
        s3_secret_key=SecretStr(s3.secret_key),
    )


@contextlib.contextmanager
def session_folder() -> Iterator[Path]:
    """Creates a folder that the database's user can read, which pytest's folders are not, and removes it at the end.

    Removes the folders of killed sessions too.
    """
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}-{os.getpid()}-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep() -> None:
    for old in Path(tempfile.gettempdir()).glob(f"{_PREFIX}-*-*"):
        match = re.fullmatch(rf"{_PREFIX}-(\d+)-\w+", old.name)
        if match is not None and not _alive(int(match[1])):
            shutil.rmtree(old, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.asynccontextmanager
async def fresh_database(server: PostgresAddress) -> AsyncIterator[Database]:
    """Creates a copy of the migrated template database and drops it at the end."""
    name = f"test_{uuid4().hex[:16]}"
    await _admin(server, f'CREATE DATABASE "{name}" TEMPLATE "{TEMPLATE}"')
    try:
        yield Database(server, name)
    finally:
        await _admin(server, f'DROP DATABASE "{name}" WITH (FORCE)')


async def create_database(server: PostgresAddress, name: str) -> Database:
    """Creates an empty database."""
    await _admin(server, f'CREATE DATABASE "{name}"')
    return Database(server, name)


async def _admin(server: PostgresAddress, statement: str) -> None:
    connection = await asyncpg.connect(server.admin_dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def fresh_topics(bootstrap: str, *, keep: bool, partitions: int = 2) -> AsyncIterator[Topics]:
    """Creates all topics under a random prefix. Deletes them at the end, unless `keep`."""
    topics = Topics(f"t{uuid4().hex[:12]}")
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics(
            [NewTopic(name, num_partitions=partitions, replication_factor=1) for name in topics.all]
        )
        yield topics
        if not keep:
            await admin.delete_topics(list(topics.all))
    finally:
        await admin.close()
