"""A log restored into a fresh cluster keeps its shards and positions, and appends after them."""

import asyncio
import subprocess
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from tests.support import facts
from tests.support.stack import Database as Place
from tests.support.stack import postgres_part, postgres_tool, session_folder

from nightshift.contracts.model import PendingKind
from nightshift.devstack.parts import UNSAFE_FAST
from nightshift.eventlog.errors import ForeignEventType
from nightshift.eventlog.migrate import migrate
from nightshift.eventlog.port import SHARDS
from nightshift.eventlog.postgres import PostgresEventLog

ALL = dict.fromkeys(range(SHARDS), 0)


async def run(folder: Path, program: str, *arguments: str) -> None:
    tool = await asyncio.to_thread(postgres_tool, folder, program)
    await asyncio.to_thread(subprocess.run, [str(tool), *arguments], check=True)


@pytest.mark.fault
async def test_the_log_goes_on_after_a_dump_and_restore(
    database: Place, log: PostgresEventLog, make_log, tmp_path: Path
):
    cause = uuid4()
    for number in range(20):
        await log.append(f"build-b{number}", [facts.note(), facts.call(f"b{number}/1/0")])
    await log.append("build-b0", [facts.note("once", cause=cause)])
    before = await log.read_shards(ALL, limit=100)
    dump = str(tmp_path / "dump")
    with session_folder() as folder:
        await run(folder / "postgres", "pg_dump", "--format=custom", f"--file={dump}", database.dsn())
        other = postgres_part(folder / "postgres", settings=UNSAFE_FAST)
        address = await other.start()
        try:
            admin = await asyncpg.connect(address.admin_dsn)
            await admin.execute("CREATE DATABASE nightshift")
            await admin.close()
            # The roles belong to the old cluster: without them first, and made and given again by the migration.
            bare = ("--no-owner", "--no-privileges", f"--dbname={address.dsn()}")
            await run(folder / "postgres", "pg_restore", *bare, dump)
            assert await migrate(address.dsn()) == ()
            restored = make_log(address.dsn("nightshift_orchestrator"), patience=0)
            assert await restored.read_shards(ALL, limit=100) == before
            assert len(await restored.pending(PendingKind.TOOL_CALL)) == 20
            again = await restored.append("build-b0", [facts.note("once", cause=cause)])
            assert not again.fresh
            cursors = {row.shard: row.position for row in before}
            done = await restored.append("build-b0", [facts.note("later")], expected_version=3)
            (row,) = await restored.read_shards(cursors, limit=100)
            assert (row.stream_id, row.version, row.event_id) == ("build-b0", 4, done.event_ids[0])
            assert row.position > max(one.position for one in before)
            with pytest.raises(ForeignEventType):
                await make_log(address.dsn("nightshift_budget")).append("build-b0", [facts.note()])
            owner = await asyncpg.connect(address.dsn("nightshift_owner"))
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await owner.execute("DELETE FROM nightshift.events")
            await owner.close()
        finally:
            await other.stop()
