"""Fixtures and markers for all tests. What a test costs is told by its top folder."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.scheduling import Turns, turn
from tests.support.stack import (
    TEMPLATE,
    Database,
    create_database,
    fresh_database,
    fresh_topics,
    postgres_part,
    session_folder,
)
from tests.support.waiting import eventually as _eventually

from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import (
    UNSAFE_FAST,
    EmbeddedKafka,
    EmbeddedS3,
    KafkaAddress,
    PostgresAddress,
    S3Address,
)
from nightshift.devstack.ports import draw_port
from nightshift.eventlog.migrate import migrate

_HERE = Path(__file__).parent
_S3_NAMES = ("bucket", "access_key", "secret_key")
_LANES = {"unit", "memory", "integration", "e2e"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test the marker of its top folder, and put what takes long first."""
    for item in items:
        if _HERE in item.path.parents and (lane := item.path.relative_to(_HERE).parts[0]) in _LANES:
            item.add_marker(lane)
    items.sort(key=lambda item: turn(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Our own order of modules for `--dist loadscope`."""
    if config.getoption("dist") != "loadscope":
        return None
    config.option.loadscopereorder = False  # by the number of tests: the longest would come last
    return Turns(config, log)


@pytest.fixture
def eventually():
    """`await eventually(predicate, timeout=…)`."""
    return _eventually


@pytest.fixture
def unused_tcp_port() -> int:
    """A port on which nobody listens, nor will: pytest-asyncio's own could be drawn by any outgoing connection."""
    return draw_port()


@pytest.fixture(scope="session")
def stack_folder() -> Iterator[Path]:
    """Where this session's servers keep their data."""
    with session_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def postgres(stack_folder: Path) -> Iterator[PostgresAddress]:
    """One PostgreSQL per session, tuned for tests, with a migrated template database.

    NIGHTSHIFT_POSTGRES_BIN names the programs of another version.
    """
    part = postgres_part(
        stack_folder / "postgres",
        settings={**UNSAFE_FAST, "max_connections": "300", "shared_buffers": "128MB"},
    )
    address = asyncio.run(part.start())
    try:
        asyncio.run(_make_template(address))
        yield address
    finally:
        asyncio.run(part.stop())


async def _make_template(address: PostgresAddress) -> None:
    template = await create_database(address, TEMPLATE)
    await migrate(template.dsn())


@pytest.fixture
async def database(postgres: PostgresAddress) -> AsyncIterator[Database]:
    """A fresh migrated database: `.dsn()` for the superuser, `.dsn("nightshift_relay")` for a role."""
    async with fresh_database(postgres) as one:
        yield one


@pytest.fixture(scope="session")
def kafka(stack_folder: Path) -> Iterator[KafkaAddress]:
    """One broker per session: the embedded one, or that of NIGHTSHIFT_KAFKA_BOOTSTRAP, or of a container."""
    given = os.environ.get("NIGHTSHIFT_KAFKA_BOOTSTRAP")
    if given:
        yield KafkaAddress(given, idempotence=True, adaptive_fetch=False)
    elif os.environ.get("NIGHTSHIFT_KAFKA") == "testcontainers":
        from tests.support.kafka_container import kafka_container  # its libraries are slow to load

        with kafka_container() as address:
            yield address
    else:
        part = EmbeddedKafka(stack_folder)
        address = asyncio.run(part.start())
        try:
            yield address
        finally:
            asyncio.run(part.stop())


@pytest.fixture
async def topics(kafka: KafkaAddress) -> AsyncIterator[Topics]:
    """This test's own topics, created on the broker."""
    async with fresh_topics(kafka.bootstrap, keep=not kafka.idempotence) as own:
        yield own


@pytest.fixture(scope="session")
def s3(stack_folder: Path) -> Iterator[S3Address]:
    """One object store per session: the embedded one, or that of NIGHTSHIFT_S3_ENDPOINT with its bucket and keys.

    A test that needs a store of its own uses a key prefix of its own.
    """
    given = os.environ.get("NIGHTSHIFT_S3_ENDPOINT")
    if given:
        named = {name: os.environ[f"NIGHTSHIFT_S3_{name.upper()}"] for name in _S3_NAMES}
        yield S3Address(given, **named, region=os.environ.get("NIGHTSHIFT_S3_REGION", "us-east-1"))
        return
    part = EmbeddedS3(stack_folder / "s3")
    address = asyncio.run(part.start())
    try:
        yield address
    finally:
        asyncio.run(part.stop())
