"""Snapshots of a real local sandbox: what is made for whom, what a failing store leads to, and the way back."""

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest
from tests.support.stack import store_settings

from nightshift.contracts.events.build import (
    BuildAccepted,
    BuildCancelled,
    BuildWoken,
    CheckpointSaved,
    SleepRequested,
)
from nightshift.contracts.events.sandbox import SandboxClosed, SandboxOpened
from nightshift.contracts.events.snapshot import SnapshotFailed, SnapshotSaved
from nightshift.contracts.model import Event, PendingKind
from nightshift.devstack.parts import S3Address
from nightshift.eventlog.errors import Unavailable
from nightshift.eventlog.memory import MemoryEventLog, MemoryTables
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.port import NewEvent, build_stream
from nightshift.sandboxes.local.driver import LocalDriver
from nightshift.sandboxes.local.settings import LocalSettings
from nightshift.sandboxes.snapshots.manifest import ProjectKey
from nightshift.sandboxes.snapshots.store import SnapshotStore
from nightshift.sandboxes.snapshots.transfer import restore
from nightshift.snapshotter.usecases import Patience, Snapshots

STREAM = build_stream("shop")


class BrokenStore(MemoryObjectStore):
    """An object store that answers 500 so often, or for ever."""

    failures = 0

    async def put(self, key: str, body: bytes) -> None:
        if self.failures:
            self.failures -= 1
            raise Unavailable("S3: 500 Internal Server Error")
        await super().put(key, body)


class Desk:
    def __init__(self, driver: LocalDriver, objects: ObjectStore | None = None) -> None:
        self.driver = driver
        self.objects = objects or BrokenStore()
        self.log = MemoryEventLog(MemoryTables())
        self.stores: dict[str, SnapshotStore] = {}
        self.snapshots = self.replica()

    def replica(self) -> Snapshots:
        return Snapshots(self.log, self.driver, self.store, patience=Patience(3, 0.001, 0.001))

    def store(self, project: str) -> SnapshotStore:
        return self.stores.setdefault(
            project, SnapshotStore(self.objects, ProjectKey.derive(b"test", project))
        )

    async def add(self, *facts: Event) -> int:
        appended = await self.log.append(STREAM, [NewEvent(fact, uuid4()) for fact in facts])
        return appended.version

    async def begin(self, project: str = "p"):
        """An accepted build with a sandbox that holds one file."""
        accepted = BuildAccepted(
            build_id="shop",
            project_id=project,
            account_id="a",
            idea_brief="a shop",
            model="scripted-1",
            turn_limit=10,
            tool_call_limit=10,
        )
        sandbox = await self.driver.create("shop", generation=1)
        await sandbox.write_file("src/app.py", b"print('hello')\n")
        await self.add(accepted, SandboxOpened(sandbox_id=sandbox.id, driver="local", generation=1))
        return sandbox

    async def facts(self, kind: type[Event]) -> list[Event]:
        return [event.data async for event in self.log.read_stream(STREAM) if isinstance(event.data, kind)]

    async def waiting(self) -> list[str]:
        return [item.key for item in await self.log.pending(PendingKind.SNAPSHOT)]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    driver = LocalDriver(LocalSettings(state_dir=tmp_path))
    yield Desk(driver)
    for info in await driver.list():
        await driver.kill(info.sandbox_id)


async def test_of_many_checkpoints_the_newest_is_saved_once(desk: Desk) -> None:
    await desk.begin()
    await desk.add(CheckpointSaved(turn=1), CheckpointSaved(turn=2))
    newest = await desk.add(CheckpointSaved(turn=3))
    await desk.snapshots.make("shop")
    [saved] = await desk.facts(SnapshotSaved)
    assert (saved.reason, saved.at_version, saved.files) == ("checkpoint", newest, 1)
    assert await desk.waiting() == []


async def test_unchanged_content_is_not_sent_again(desk: Desk) -> None:
    sandbox = await desk.begin()
    await sandbox.write_file("big.bin", bytes(range(256)) * 2048)
    await desk.add(CheckpointSaved(turn=1))
    await desk.snapshots.make("shop")
    await sandbox.write_file("small.txt", b"new")
    await desk.add(CheckpointSaved(turn=2))
    await desk.snapshots.make("shop")
    first, second = await desk.facts(SnapshotSaved)
    assert second.files == first.files + 1
    assert second.uploaded_bytes < first.uploaded_bytes


async def test_before_a_sleep_the_exact_tree_is_saved_and_comes_back_in_another_sandbox(desk: Desk) -> None:
    sandbox = await desk.begin()
    await sandbox.write_file("run.sh", b"#!/bin/sh\n", mode=0o755)
    await desk.add(CheckpointSaved(turn=1), SleepRequested(reason="budget", account_id="a", wake_at=None))
    await desk.snapshots.make("shop")
    [saved] = await desk.facts(SnapshotSaved)
    assert saved.reason == "pre_sleep"
    assert await desk.waiting() == []
    await sandbox.kill()
    other = await desk.driver.create("shop", generation=2)
    restored = await restore(other, desk.store("p"), saved.key)
    assert (restored.tree_digest, restored.lost) == (saved.tree_digest, ())
    assert await other.read_file("run.sh") == b"#!/bin/sh\n"


async def test_a_tree_of_several_packs_goes_to_s3_and_comes_back(tmp_path: Path, s3: S3Address) -> None:
    """What the memory's store cannot show: keys, sizes and ranges as a server on the wire takes them."""
    project = f"p{uuid4().hex}"  # a server of somebody else's keeps what is put
    driver, random = LocalDriver(LocalSettings(state_dir=tmp_path)), Random(1)
    contents = {f"data/{number} ü&=+.bin": random.randbytes(6 * 1024**2) for number in range(4)}
    async with S3ObjectStore(store_settings(s3)) as objects:
        desk = Desk(driver, objects)
        sandbox = await desk.begin(project)
        for path, content in contents.items():
            await sandbox.write_file(path, content)
        await desk.add(SleepRequested(reason="budget", account_id="a", wake_at=None))
        await desk.snapshots.make("shop")
        [saved] = await desk.facts(SnapshotSaved)
        await sandbox.kill()
        other = await driver.create("shop", generation=2)
        # As another replica does it, which has put nothing itself.
        fresh = SnapshotStore(objects, ProjectKey.derive(b"test", project))
        restored = await restore(other, fresh, saved.key)
        assert (restored.tree_digest, restored.lost) == (saved.tree_digest, ())
        for path, content in contents.items():
            assert await other.read_file(path) == content, path
        await other.kill()
        prefix = saved.key.partition("/builds/")[0]
        packs = [info async for info in objects.list(f"{prefix}/packs/") if info.key.endswith(".pack")]
        assert len(packs) > 1
        async for info in objects.list(f"{prefix}/"):
            await objects.delete(info.key)


async def test_a_store_that_fails_twice_is_tried_again_and_each_failure_is_told(desk: Desk) -> None:
    await desk.begin()
    desk.objects.failures = 2
    await desk.add(CheckpointSaved(turn=1), SleepRequested(reason="budget", account_id="a", wake_at=None))
    await desk.snapshots.make("shop")
    failed = await desk.facts(SnapshotFailed)
    assert [(one.attempt, one.final) for one in failed] == [(1, False), (2, False)]
    assert len(await desk.facts(SnapshotSaved)) == 1


async def test_a_store_that_always_fails_ends_in_a_final_failure_and_nothing_waits(desk: Desk) -> None:
    await desk.begin()
    desk.objects.failures = 10**6
    await desk.add(SleepRequested(reason="budget", account_id="a", wake_at=None))
    await desk.snapshots.make("shop")
    failed = await desk.facts(SnapshotFailed)
    assert [(one.attempt, one.final) for one in failed] == [(1, False), (2, False), (3, True)]
    assert "500" in failed[0].detail
    assert await desk.waiting() == []


async def test_a_failed_checkpoint_is_not_retried_and_the_next_one_is_made(desk: Desk) -> None:
    await desk.begin()
    desk.objects.failures = 1
    await desk.add(CheckpointSaved(turn=1))
    await desk.snapshots.make("shop")
    assert [one.final for one in await desk.facts(SnapshotFailed)] == [True]
    await desk.add(CheckpointSaved(turn=2))
    await desk.snapshots.make("shop")
    assert len(await desk.facts(SnapshotSaved)) == 1


async def test_a_build_that_woke_meanwhile_needs_no_snapshot_for_its_sleep(desk: Desk) -> None:
    await desk.begin()
    await desk.add(SleepRequested(reason="budget", account_id="a", wake_at=None), BuildWoken(reason="person"))
    await desk.snapshots.make("shop")
    assert await desk.facts(SnapshotSaved) == []


async def test_an_end_is_saved_for_the_last_time(desk: Desk) -> None:
    await desk.begin()
    await desk.add(CheckpointSaved(turn=1), BuildCancelled(reason="enough", cost_microusd=0, turns=1))
    await desk.snapshots.make("shop")
    assert [one.reason for one in await desk.facts(SnapshotSaved)] == ["completion"]
    assert await desk.waiting() == []


async def test_without_a_sandbox_an_end_waits_for_nobody(desk: Desk) -> None:
    sandbox = await desk.begin()
    await desk.add(
        SandboxClosed(sandbox_id=sandbox.id, reason="test"),
        BuildCancelled(reason="enough", cost_microusd=0, turns=1),
    )
    await desk.snapshots.make("shop")
    [failed] = await desk.facts(SnapshotFailed)
    assert failed.final
    assert await desk.waiting() == []


async def test_two_replicas_agree_on_one_snapshot(desk: Desk) -> None:
    sandbox = await desk.begin()
    await desk.add(CheckpointSaved(turn=1))
    slow, fast = desk.replica(), desk.replica()
    stale = await slow._view("shop")
    await fast.make("shop")
    await sandbox.write_file("later.txt", b"written meanwhile")
    wanted = stale.next
    assert wanted is not None
    await slow._append("shop", wanted, await slow._try("shop", stale, wanted))
    assert len(await desk.facts(SnapshotSaved)) == 1


async def test_a_fresh_replica_finds_what_waits_in_the_log_alone(desk: Desk) -> None:
    await desk.begin()
    await desk.add(CheckpointSaved(turn=1))
    for item in await desk.log.pending(PendingKind.SNAPSHOT):
        await desk.replica().make(item.stream_id.removeprefix("build-"))
    assert len(await desk.facts(SnapshotSaved)) == 1
