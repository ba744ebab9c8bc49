"""An imported build is history: it can be read, replayed and verified, and no service is told of it."""

import asyncio
from pathlib import Path

import pytest
from tests.support.long_build import long_build
from tests.support.stack import Database

from nightshift.cli import main
from nightshift.cli.archive import write_archive
from nightshift.cli.exits import Exit
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.errors import StreamClosed
from nightshift.eventlog.port import SHARDS, NewEvent, build_stream
from nightshift.eventlog.postgres import PostgresEventLog, log_database

EVENTS = long_build(3)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "b1.nightshift.zip"
    write_archive(path, EVENTS, redact=False)
    return path


@pytest.fixture
async def log(database: Database, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NIGHTSHIFT_POSTGRES_DSN", database.dsn())
    pool = log_database(PgConfig(dsn=database.dsn()))
    yield PostgresEventLog(pool, actor="test", notify=False)
    await pool.close()


async def _run(*words: str) -> int:
    return await asyncio.to_thread(main.run, list(words))


async def test_an_archive_becomes_a_build_that_nobody_runs(archive: Path, log: PostgresEventLog, capfd):
    assert await _run("import", str(archive)) == Exit.OK
    found = [event async for event in log.read_stream(build_stream("b1"))]
    assert found == EVENTS  # with its versions, ids and times
    assert await log.read_shards(dict.fromkeys(range(SHARDS), 0), limit=100) == []
    assert await log.read_open_streams(range(SHARDS), limit=100) == []
    assert await log.pending(EVENTS[0].data.pending("b1")[0].kind) == []
    with pytest.raises(StreamClosed):
        await log.append(build_stream("b1"), [NewEvent(EVENTS[5].data, EVENTS[0].event_id)])
    assert await _run("verify", "b1") == Exit.OK
    assert await _run("replay", "b1", "--at", "turn:2") == Exit.OK
    assert "turn:              2" in capfd.readouterr().out


async def test_a_second_import_changes_nothing(archive: Path, log: PostgresEventLog, capfd):
    assert await _run("import", str(archive)) == Exit.OK
    assert await _run("import", str(archive)) == Exit.ERROR
    assert "already" in capfd.readouterr().err
    assert len([event async for event in log.read_stream(build_stream("b1"))]) == len(EVENTS)


async def test_a_redacted_archive_is_not_imported(tmp_path: Path, log: PostgresEventLog, capfd):
    path = tmp_path / "b1.nightshift.zip"
    write_archive(path, EVENTS, redact=True)
    assert await _run("import", str(path)) == Exit.ERROR
    assert "redacted" in capfd.readouterr().err


async def test_only_the_owner_of_the_schema_may_import(archive: Path, database: Database, monkeypatch, capfd):
    monkeypatch.setenv("NIGHTSHIFT_POSTGRES_DSN", database.dsn("nightshift_orchestrator"))
    assert await _run("import", str(archive)) == Exit.CONFIGURATION
    assert "permission denied" in capfd.readouterr().err
