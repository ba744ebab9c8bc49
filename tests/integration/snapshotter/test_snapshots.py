"""Snapshots of a real local sandbox: what is made for whom, what a failing store leads to, and the way back."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from tests.support.stack import store_settings

from nightshift.contracts.events.build import (
    BuildAccepted,
    BuildCancelled,
    BuildWoken,
    CheckpointSaved,
    SleepRequested,
    ToolCallRequested,
)
from nightshift.contracts.events.sandbox import SandboxClosed, SandboxLost, SandboxOpened
from nightshift.contracts.events.snapshot import SnapshotFailed, SnapshotSaved
from nightshift.contracts.model import Event, PendingKind
from nightshift.devstack.parts import S3Address
from nightshift.eventlog.backoff import Backoff
from nightshift.eventlog.errors import ConfigurationError, Unavailable
from nightshift.eventlog.memory import MemoryEventLog, MemoryTables
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.port import NewEvent, build_stream
from nightshift.sandboxes.local.driver import LocalDriver
from nightshift.sandboxes.local.settings import LocalSettings
from nightshift.sandboxes.snapshots.capture import Captured
from nightshift.sandboxes.snapshots.manifest import ProjectKey
from nightshift.sandboxes.snapshots.restore import restore
from nightshift.sandboxes.snapshots.store import SnapshotStore
from nightshift.snapshotter.adapters.sandbox_capture import SandboxCapture
from nightshift.snapshotter.domain.retries import SnapshotRetries
from nightshift.snapshotter.usecases.snapshots import Snapshots

STREAM = build_stream("shop")
SLEEP = SleepRequested(reason="budget", account_id="a", wake_at=None)
END = BuildCancelled(reason="enough", cost_microusd=0, turns=1)


def asked(tool: str) -> ToolCallRequested:
    return ToolCallRequested(
        call_id=f"shop/{uuid4().int % 10**6}/0",
        tool_use_id="t",
        turn=1,
        index=0,
        tool=tool,
        input={"command": "true"},
        timeout_s=9,
        purpose="agent",
    )


class BrokenStore(MemoryObjectStore):
    """An object store that refuses so many writes."""

    failures = 0
    error: Exception = Unavailable("S3: 500 Internal Server Error")

    async def put(self, key: str, body: bytes) -> None:
        if self.failures:
            self.failures -= 1
            raise self.error
        await super().put(key, body)


class SnapshotRig:
    """A snapshotter over real sandboxes and a log in memory; the test plays the build."""

    def __init__(self, driver: LocalDriver, objects: ObjectStore | None = None) -> None:
        self.driver = driver
        self.objects = objects or BrokenStore()
        self.log = MemoryEventLog(MemoryTables())
        self.stores: dict[str, SnapshotStore] = {}
        self.snapshots = self.replica()

    def replica(self) -> Snapshots:
        retries = SnapshotRetries(pre_sleep_attempts=3, backoff=Backoff(first_s=0.001, cap_s=0.001))
        return Snapshots(self.log, SandboxCapture(self.driver, self.store), retries)

    async def make(self, *, attempts: int = 50) -> bool:
        """Do what the handler does: call again after each pause. False when it would go on for ever."""
        for _ in range(attempts):
            if await self.snapshots.make("shop") is None:
                return True
        return False

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


class HeldCapture:
    """Captures, and returns only when it is released."""

    def __init__(self, capture: SandboxCapture) -> None:
        self._capture = capture
        self.held, self.stored = capture.held, capture.stored
        self.captured, self.release = asyncio.Event(), asyncio.Event()

    async def capture(self, *args: Any, **fields: Any) -> Captured:
        captured = await self._capture.capture(*args, **fields)
        self.captured.set()
        await self.release.wait()
        return captured


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[SnapshotRig]:
    driver = LocalDriver(LocalSettings(state_dir=tmp_path))
    yield SnapshotRig(driver)
    for info in await driver.list():
        await driver.kill(info.sandbox_id)


async def test_checkpoints_without_a_write_share_one_upload(rig: SnapshotRig) -> None:
    """Every turn has its snapshot, so that a build can be forked there."""
    await rig.begin()
    await rig.add(CheckpointSaved(turn=1), CheckpointSaved(turn=2))
    newest = await rig.add(CheckpointSaved(turn=3))
    await rig.make()
    saved = await rig.facts(SnapshotSaved)
    assert [(one.at_version, one.uploaded_bytes > 0) for one in saved] == [
        *((newest - 2, False), (newest - 1, False), (newest, True))
    ]
    assert {(one.reason, one.files, one.key, one.consistency) for one in saved} == {
        ("checkpoint", 1, saved[0].key, "exact")
    }
    assert await rig.waiting() == []


async def test_a_checkpoint_that_was_passed_over_is_saved_as_it_was(rig: SnapshotRig) -> None:
    """The snapshotter was away while a turn wrote; the gateway had the sandbox hold the checkpoint."""
    sandbox = await rig.begin()
    first = await rig.add(CheckpointSaved(turn=1))
    await sandbox.hold(first)
    await rig.add(asked("bash"))
    await sandbox.write_file("src/app.py", b"print('changed')\n")
    second = await rig.add(CheckpointSaved(turn=2))
    await rig.add(asked("bash"))
    await sandbox.write_file("src/app.py", b"print('not held')\n")
    third = await rig.add(CheckpointSaved(turn=3))
    await rig.make()
    saved = await rig.facts(SnapshotSaved)
    assert [(one.at_version, one.consistency) for one in saved] == [(first, "exact"), (third, "exact")]
    assert second not in [one.at_version for one in saved], "nobody held it"
    manifest = await rig.store("p").load(saved[0].key)
    contents = [content async for _, content in rig.store("p").read(manifest, manifest.entries[2:])]
    assert contents == [b"print('hello')\n"]


async def test_unchanged_content_is_not_sent_again(rig: SnapshotRig) -> None:
    sandbox = await rig.begin()
    await sandbox.write_file("big.bin", bytes(range(256)) * 2048)
    await rig.add(CheckpointSaved(turn=1))
    await rig.make()
    await sandbox.write_file("small.txt", b"new")
    await rig.add(CheckpointSaved(turn=2))
    await rig.make()
    first, second = await rig.facts(SnapshotSaved)
    assert second.files == first.files + 1
    assert second.uploaded_bytes < first.uploaded_bytes


async def test_the_tree_before_a_sleep_is_restored_in_another_sandbox(
    rig: SnapshotRig,
) -> None:
    sandbox = await rig.begin()
    await sandbox.write_file("run.sh", b"#!/bin/sh\n", mode=0o755)
    await rig.add(CheckpointSaved(turn=1), SLEEP)
    await rig.make()
    [saved] = await rig.facts(SnapshotSaved)
    assert saved.reason == "pre_sleep"
    assert await rig.waiting() == []
    await sandbox.kill()
    other = await rig.driver.create("shop", generation=2)
    restored = await restore(other, rig.store("p"), saved.key)
    assert (restored.tree_digest, restored.lost) == (saved.tree_digest, ())
    assert await other.read_file("run.sh") == b"#!/bin/sh\n"


async def test_a_tree_of_several_packs_goes_to_s3_and_comes_back(tmp_path: Path, s3: S3Address) -> None:
    """What the memory's store cannot show: keys, sizes and ranges as a server on the wire takes them."""
    project = f"p{uuid4().hex}"  # a server of somebody else's keeps what is put
    driver, random = LocalDriver(LocalSettings(state_dir=tmp_path)), Random(1)
    contents = {f"data/{number} ü&=+.bin": random.randbytes(6 * 1024**2) for number in range(4)}
    async with S3ObjectStore(store_settings(s3)) as objects:
        rig = SnapshotRig(driver, objects)
        sandbox = await rig.begin(project)
        for path, content in contents.items():
            await sandbox.write_file(path, content)
        await rig.add(SLEEP)
        await rig.make()
        [saved] = await rig.facts(SnapshotSaved)
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


async def test_each_failure_of_a_store_is_told_and_tried_again(rig: SnapshotRig) -> None:
    await rig.begin()
    rig.objects.failures = 2
    await rig.add(CheckpointSaved(turn=1), SLEEP)
    await rig.make()
    failed = await rig.facts(SnapshotFailed)
    assert [(one.attempt, one.final) for one in failed] == [(1, False), (2, False)]
    assert len(await rig.facts(SnapshotSaved)) == 1


async def test_before_a_sleep_the_last_failed_attempt_is_final(rig: SnapshotRig) -> None:
    await rig.begin()
    rig.objects.failures = 10**6
    await rig.add(SLEEP)
    await rig.make()
    failed = await rig.facts(SnapshotFailed)
    assert [(one.attempt, one.final) for one in failed] == [(1, False), (2, False), (3, True)]
    assert "500" in failed[0].detail
    assert await rig.waiting() == []


async def test_a_failed_checkpoint_is_not_retried_and_the_next_one_is_made(rig: SnapshotRig) -> None:
    await rig.begin()
    rig.objects.failures = 1
    await rig.add(CheckpointSaved(turn=1))
    await rig.make()
    assert [one.final for one in await rig.facts(SnapshotFailed)] == [True]
    await rig.add(CheckpointSaved(turn=2))
    await rig.make()
    assert len(await rig.facts(SnapshotSaved)) == 1


async def test_a_build_that_woke_meanwhile_needs_no_snapshot_for_its_sleep(rig: SnapshotRig) -> None:
    await rig.begin()
    await rig.add(SLEEP, BuildWoken(reason="person"))
    await rig.make()
    assert await rig.facts(SnapshotSaved) == []


async def test_an_end_is_saved_for_the_last_time(rig: SnapshotRig) -> None:
    await rig.begin()
    await rig.add(CheckpointSaved(turn=1), BuildCancelled(reason="enough", cost_microusd=0, turns=1))
    await rig.make()
    assert [one.reason for one in await rig.facts(SnapshotSaved)] == ["checkpoint", "completion"]
    assert await rig.waiting() == []


@pytest.mark.parametrize("rest", [SLEEP, END, CheckpointSaved(turn=1)], ids=lambda fact: fact.type)
async def test_without_a_sandbox_nothing_is_saved_and_nothing_fails(rig: SnapshotRig, rest: Event) -> None:
    sandbox = await rig.begin()
    await rig.add(SandboxClosed(sandbox_id=sandbox.id, reason="test"), rest)
    assert await rig.make()
    assert await rig.facts(SnapshotFailed) == []
    assert await rig.waiting() == []


async def test_a_lost_sandbox_ends_the_snapshots_that_waited_for_it(rig: SnapshotRig) -> None:
    sandbox = await rig.begin()
    await rig.add(CheckpointSaved(turn=1), SLEEP, SandboxLost(sandbox_id=sandbox.id, detail="gone"))
    assert await rig.make()
    assert await rig.facts(SnapshotFailed) == []
    assert await rig.waiting() == []


@pytest.mark.parametrize("error", [BrokenStore.error, ConfigurationError("the key is wrong")], ids=type)
async def test_an_end_is_tried_until_its_files_are_saved(rig: SnapshotRig, error: Exception) -> None:
    """However long the store is full: the sandbox has the files until then, and few events tell of it."""
    await rig.begin()
    rig.objects.failures, rig.objects.error = 100, error
    await rig.add(END)
    assert not await rig.make(attempts=99)
    assert rig.objects.failures > 0
    failed = await rig.facts(SnapshotFailed)
    assert [(one.attempt, one.final) for one in failed] == [(2**n, False) for n in range(7)]
    assert await rig.waiting() == ["shop/completion"]
    assert await rig.make()
    assert [one.reason for one in await rig.facts(SnapshotSaved)] == ["completion"]
    assert await rig.waiting() == []


async def test_a_restart_goes_on_counting_the_attempts_of_an_end(rig: SnapshotRig) -> None:
    await rig.begin()
    rig.objects.failures = 10**6
    await rig.add(END)
    await rig.make(attempts=4)
    rig.snapshots = rig.replica()
    await rig.make(attempts=4)
    assert [one.attempt for one in await rig.facts(SnapshotFailed)] == [1, 2, 4, 8]


async def test_an_end_whose_sandbox_is_gone_is_given_up(rig: SnapshotRig) -> None:
    sandbox = await rig.begin()
    await rig.add(END)
    await sandbox.kill()
    assert await rig.make()
    [failed] = await rig.facts(SnapshotFailed)
    assert (failed.final, failed.attempt) == (True, 1)
    assert await rig.waiting() == []


async def test_a_pause_grows_with_the_failures_and_stays_bounded(rig: SnapshotRig) -> None:
    await rig.begin()
    rig.objects.failures = 10**6
    await rig.add(END)
    retries = SnapshotRetries(backoff=Backoff(first_s=0.5, cap_s=30.0))
    snapshots = Snapshots(rig.log, SandboxCapture(rig.driver, rig.store), retries, jitter=lambda: 1.0)
    pauses = [await snapshots.make("shop") for _ in range(9)]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


async def test_two_replicas_agree_on_one_snapshot(rig: SnapshotRig) -> None:
    """The slow one has captured an older tree when the other one's snapshot is in the log already."""
    sandbox = await rig.begin()
    await rig.add(CheckpointSaved(turn=1))
    fast = rig.replica()
    held = HeldCapture(SandboxCapture(rig.driver, rig.store))
    slow = Snapshots(rig.log, held, SnapshotRetries())
    making = asyncio.create_task(slow.make("shop"))
    await held.captured.wait()
    await sandbox.write_file("later.txt", b"written meanwhile")
    assert await fast.make("shop") is None
    held.release.set()
    assert await making is None
    assert len(await rig.facts(SnapshotSaved)) == 1


async def test_a_fresh_replica_finds_what_waits_in_the_log_alone(rig: SnapshotRig) -> None:
    await rig.begin()
    await rig.add(CheckpointSaved(turn=1))
    for item in await rig.log.pending(PendingKind.SNAPSHOT):
        await rig.replica().make(item.stream_id.removeprefix("build-"))
    assert len(await rig.facts(SnapshotSaved)) == 1
