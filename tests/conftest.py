"""Fixtures and markers for all tests. The top folder of a test decides its marker and its cost."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.scheduling import LongestFirst, place_of
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
_MARKERS = {"unit", "memory", "integration", "e2e"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test with its top folder, skips long ones where they are not wanted, and sorts long modules first."""
    for item in items:
        if os.environ.get("NIGHTSHIFT_LONG_TESTS") is None and item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="takes long: `make test-long` runs it"))
        if _HERE in item.path.parents and (folder := item.path.relative_to(_HERE).parts[0]) in _MARKERS:
            item.add_marker(folder)
    items.sort(key=lambda item: place_of(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Replaces the order of modules that `--dist loadscope` uses."""
    if config.getoption("dist") != "loadscope":
        return None
    config.option.loadscopereorder = False  # xdist would sort modules by their number of tests
    return LongestFirst(config, log)


@pytest.fixture
def eventually():
    """Returns `eventually`: `await eventually(predicate, timeout=…)` waits until the predicate is truthy."""
    return _eventually


@pytest.fixture
def unused_tcp_port() -> int:
    """Returns a port outside the range of outgoing connections, so that no other process takes it."""
    return draw_port()


@pytest.fixture(scope="session")
def stack_folder() -> Iterator[Path]:
    """Returns the folder for the data of this session's servers."""
    with session_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def postgres(stack_folder: Path) -> Iterator[PostgresAddress]:
    """Starts one PostgreSQL per session, without fsync, with a migrated template database.

    NIGHTSHIFT_POSTGRES_BIN names the folder of the programs of another version.
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
    """Creates a migrated database: `.dsn()` for the superuser, `.dsn("nightshift_relay")` for a role."""
    async with fresh_database(postgres) as database:
        yield database


@pytest.fixture(scope="session")
def kafka(stack_folder: Path) -> Iterator[KafkaAddress]:
    """Starts one broker per session: embedded, at NIGHTSHIFT_KAFKA_BOOTSTRAP, or in a container."""
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
    """Creates topics for this test only."""
    async with fresh_topics(kafka.bootstrap, keep=not kafka.idempotence) as own:
        yield own


@pytest.fixture(scope="session")
def s3(stack_folder: Path) -> Iterator[S3Address]:
    """Starts one object store per session: embedded, or at NIGHTSHIFT_S3_ENDPOINT with its bucket and keys.

    Tests that must not share objects use a key prefix each.
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
