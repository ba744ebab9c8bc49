"""Garbage collection beside uploads that reuse blobs: nothing that a kept snapshot needs is ever deleted."""

import asyncio
import os
import random
from collections.abc import AsyncIterator

import pytest
from tests.unit.sandboxes.test_store import load, put_manifest

from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.objects.port import ObjectInfo
from nightshift.sandboxes.port import Entry, ExportedBlock, ExportedPart
from nightshift.sandboxes.snapshots import garbage, packs
from nightshift.sandboxes.snapshots.garbage import Beaten, Collector
from nightshift.sandboxes.snapshots.manifest import ProjectKey
from nightshift.sandboxes.snapshots.store import LONGEST_UPLOAD_S, SnapshotStore, UploadTookTooLong

KEY = ProjectKey.derive(b"master", "p1")
#: `make test-garbage` sets this to 1,000.
ROUNDS = int(os.environ.get("NIGHTSHIFT_GARBAGE_ROUNDS", "25"))


class BusyProject:
    """Uploads and collections over one store, on a clock of the test."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.now = 0.0
        self.objects = YieldingStore(self)
        self.kept: dict[str, dict[str, bytes]] = {}
        self.contents = [self.draw.randbytes(self.draw.randint(1, 3000)) for _ in range(30)]
        self.stores = [SnapshotStore(self.objects, KEY, clock=lambda: self.now) for _ in range(3)]
        self.forgotten: set[str] = set()
        self.done = {"uploads": 0, "deleted": 0, "rewritten": 0, "spared": 0, "late": 0}

    async def pause(self) -> None:
        """Any other task may run here, and time may pass, as long as no upload takes longer than it may."""
        for _ in range(self.draw.choice((0, 0, 1, 3))):
            await asyncio.sleep(0)
        self.now += self.draw.choice((0, 0.1, 5, 60, LONGEST_UPLOAD_S / 40))

    async def upload(self, number: int) -> None:
        store = self.draw.choice(self.stores)
        files = {
            f"f{n}": one for n, one in enumerate(self.draw.sample(self.contents, self.draw.randint(1, 6)))
        }
        await store.refresh()
        upload = store.begin_upload()
        new = {path: body for path, body in files.items() if not store.knows(store.key.of(body))}
        await self.pause()
        try:
            if new:
                parts = [ExportedPart(path, len(body)) for path, body in new.items()]
                await upload.add(ExportedBlock(parts, b"".join(new.values())))
            await upload.finish()
            await self.pause()
            entries = [
                Entry(path, "file", mode=0o644, size=len(body), digest=store.key.of(body))
                for path, body in sorted(files.items())
            ]
            if not all(store.knows(entry.digest or "") for entry in entries):
                return  # a refresh of another upload has learned of a collection: `capture` exports again
            upload.require_recent()
        except UploadTookTooLong:
            self.done["late"] += 1
            return
        key = await put_manifest(store, entries, build=f"b{number}", version=number)
        self.kept[key] = files
        self.done["uploads"] += 1

    async def collect(self) -> None:
        collector = Collector(
            self.objects, KEY, lambda key: key in self.kept or key in self.young, clock=lambda: self.now
        )
        try:
            done = await collector.collect()
        except Beaten:
            return
        for name in ("deleted", "rewritten", "spared"):
            self.done[name] += len(getattr(done, name))

    @property
    def young(self) -> set[str]:
        """Keys that are in the store, and not in the log yet: their builds run."""
        return {key for key in self.objects.bodies if "/builds/" in key and key not in self.forgotten}

    async def round(self, number: int) -> None:
        work = [self.upload(number * 10 + n) for n in range(3)]
        work += [self.collect() for _ in range(self.draw.choice((0, 1, 1, 2)))]
        self.draw.shuffle(work)
        await asyncio.gather(*work)
        for key in self.draw.sample(sorted(self.kept), min(len(self.kept), self.draw.randint(0, 4))):
            del self.kept[key]
            self.forgotten.add(key)
        self.now += self.draw.choice((0, 600, garbage.WAIT_S / 2, garbage.WAIT_S * 1.1))


class YieldingStore(MemoryObjectStore):
    """Lets other tasks run at every call."""

    def __init__(self, project: BusyProject) -> None:
        super().__init__()
        self._project = project

    async def put(self, key: str, body: bytes) -> None:
        await self._project.pause()
        await super().put(key, body)

    async def put_if_absent(self, key: str, body: bytes) -> bool:
        await self._project.pause()
        return await super().put_if_absent(key, body)

    async def get(self, key: str) -> bytes:
        await self._project.pause()
        return await super().get(key)

    async def delete(self, key: str) -> None:
        await self._project.pause()
        await super().delete(key)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        async for one in super().list(prefix):
            yield one


@pytest.mark.timeout(600)
async def test_no_blob_of_a_kept_snapshot_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "PACK_BYTES", 6000)
    monkeypatch.setattr(garbage, "_USED", 0.7)  # rewrite often
    project = BusyProject(seed=ROUNDS)
    for number in range(ROUNDS):
        await project.round(number)
        if number % 5 == 4:
            fresh = SnapshotStore(project.objects, KEY, clock=lambda: project.now)
            for key, files in project.kept.items():
                assert await load(fresh, key) == files, (number, key)
    assert project.done["uploads"] > ROUNDS
    assert project.done["deleted"] > ROUNDS / 2
    assert ROUNDS < 25 or min(project.done["rewritten"], project.done["spared"]) > 0, project.done


async def test_a_dry_run_changes_nothing_and_names_what_a_run_would_doom() -> None:
    project = BusyProject(seed=1)
    await project.upload(1)
    [key] = project.kept
    project.kept.clear()
    project.forgotten.add(key)
    before = dict(project.objects.bodies)
    collector = Collector(project.objects, KEY, lambda _: False, clock=lambda: project.now)
    done = await collector.collect(dry_run=True)
    assert project.objects.bodies == before
    assert key in done.doomed
    assert any(one.endswith(".pack") for one in done.doomed)
    assert (await collector.collect()).doomed == done.doomed
    assert (await collector.collect()).deleted == [], "the wait is not over"
    project.now += garbage.WAIT_S
    assert (await collector.collect()).deleted == sorted(done.doomed)
    assert not [one for one in project.objects.bodies if "/gc/" not in one]


def test_a_wait_shorter_than_an_upload_is_refused() -> None:
    collector = Collector(MemoryObjectStore(), KEY, lambda _: True, wait_s=LONGEST_UPLOAD_S)
    with pytest.raises(ValueError, match="longer than any upload"):
        asyncio.run(collector.collect())
