"""Blobs in packs: sent once, verified on every read, never larger than they said."""

import os
from collections.abc import Sequence
from dataclasses import replace

import pytest
from backports import zstd

from nightshift.eventlog.errors import NotFound
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.sandboxes.errors import HostileTree
from nightshift.sandboxes.port import Entry, ExportedBlock, ExportedPart
from nightshift.sandboxes.snapshots import packs
from nightshift.sandboxes.snapshots.manifest import Location, Manifest, ProjectKey
from nightshift.sandboxes.snapshots.packs import inflate
from nightshift.sandboxes.snapshots.store import SnapshotStore

KEY = ProjectKey.derive(b"master", "p1")


def new_store(objects: MemoryObjectStore, key: ProjectKey = KEY) -> SnapshotStore:
    return SnapshotStore(objects, key)


async def save(
    store: SnapshotStore, files: dict[str, bytes], *, build: str = "b1", version: int = 1
) -> tuple[str, int]:
    await store.refresh()
    upload = store.begin_upload()
    parts = [ExportedPart(path, len(body)) for path, body in files.items()]
    await upload.add(ExportedBlock(parts, b"".join(files.values())))
    await upload.finish()
    entries = [
        Entry(path, "file", mode=0o644, size=len(body), digest=store.key.of(body))
        for path, body in sorted(files.items())
    ]
    return await put_manifest(store, entries, build=build, version=version), upload.sent


async def put_manifest(
    store: SnapshotStore, entries: Sequence[Entry], *, build: str = "b1", version: int = 1
) -> str:
    blobs, pieces = store.located(entries)
    manifest = Manifest(build, version, tuple(entries), blobs, pieces)
    key, _ = await store.put_manifest(manifest, reason="checkpoint")
    return key


async def load(store: SnapshotStore, key: str) -> dict[str, bytes | None]:
    manifest = await store.load(key)
    return {entry.path: content async for entry, content in store.read(manifest, manifest.entries)}


async def test_what_was_saved_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "PACK_BYTES", 4096)
    objects = MemoryObjectStore()
    files = {f"f{n}": os.urandom(n * 37) for n in range(60)} | {"same": b"x", "as": b"x", "empty": b""}
    key, _ = await save(new_store(objects), files)
    assert await load(new_store(objects), key) == files
    assert len([key for key in objects.bodies if key.endswith(".pack")]) > 5


async def test_unchanged_content_is_never_sent_again_also_across_builds() -> None:
    objects = MemoryObjectStore()
    files = {f"f{n}": os.urandom(1000) for n in range(50)}
    _, first = await save(new_store(objects), files)
    _, again = await save(new_store(objects), files, version=2)
    _, other = await save(new_store(objects), files | {"new": b"one more"}, build="b2")
    assert first > 50_000
    assert again == 0
    assert 0 < other < 500


async def test_another_project_shares_nothing() -> None:
    objects = MemoryObjectStore()
    key, first = await save(new_store(objects), {"f": b"content" * 100})
    stranger = new_store(objects, ProjectKey.derive(b"master", "p2"))
    _, second = await save(stranger, {"f": b"content" * 100})
    assert second == first
    with pytest.raises(NotFound):
        await stranger.load(key)


async def test_a_flipped_bit_in_a_pack_or_manifest_is_never_served() -> None:
    objects = MemoryObjectStore()
    files = {f"f{n}": bytes([n]) * 300 for n in range(4)}
    key, _ = await save(new_store(objects), files)
    [pack] = [name for name in objects.bodies if name.endswith(".pack")]
    for name in (pack, key):
        whole = objects.bodies[name]
        for position in range(len(whole)):
            objects.bodies[name] = whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :]
            try:
                found = await load(new_store(objects), key)
            except (HostileTree, NotFound):
                continue
            assert all(found.get(path) in (body, None) for path, body in files.items()), (name, position)
            assert set(found.values()) <= {*files.values(), None}
        objects.bodies[name] = whole


async def test_files_of_a_missing_or_cut_pack_are_returned_as_missing() -> None:
    objects = MemoryObjectStore()
    key, _ = await save(new_store(objects), {"a": os.urandom(500), "b": os.urandom(500)})
    [pack] = [name for name in objects.bodies if name.endswith(".pack")]
    objects.bodies[pack] = objects.bodies[pack][:700]
    found = await load(new_store(objects), key)
    assert sorted(body is None for body in found.values()) == [False, True]
    del objects.bodies[pack]
    assert await load(new_store(objects), key) == {"a": None, "b": None}


async def test_a_pack_without_an_index_is_not_reused() -> None:
    objects = MemoryObjectStore()
    await save(new_store(objects), {"a": b"1" * 500})
    for name in [name for name in objects.bodies if name.endswith(".index")]:
        del objects.bodies[name]
    _, sent = await save(new_store(objects), {"a": b"1" * 500}, version=2)
    assert sent > 0


async def test_a_blob_in_another_project_s_pack_is_refused() -> None:
    objects = MemoryObjectStore()
    store = new_store(objects)
    key, _ = await save(store, {"a": b"1"})
    manifest = await store.load(key)
    stolen = {digest: replace(at, pack="projects/p2/packs/x.pack") for digest, at in manifest.blobs.items()}
    store._known.update(stolen)
    key = await put_manifest(store, manifest.entries, version=2)
    with pytest.raises(HostileTree, match="outside the project"):
        await store.load(key)


async def test_a_file_larger_than_it_said_is_not_served() -> None:
    objects = MemoryObjectStore()
    store = new_store(objects)
    body = b"0" * 1000
    key, _ = await save(store, {"a": body})
    manifest = await store.load(key)
    lying = Manifest("b1", 1, (replace(manifest.entries[0], size=10),), manifest.blobs)
    assert [content async for _, content in store.read(lying, lying.entries)] == [None]
    unknown = replace(manifest.entries[0], digest="ab" * 32)
    nowhere = Manifest("b1", 1, (unknown,), {"ab" * 32: Location("projects/p1/packs/x", 0, 5)})
    assert [content async for _, content in store.read(nowhere, nowhere.entries)] == [None]


def test_a_bomb_is_stopped_at_its_limit() -> None:
    bomb = zstd.compress(bytes(200 * 1024**2))
    assert len(bomb) < 100_000
    with pytest.raises(HostileTree, match="inflates"):
        inflate(bomb, 1024)
    with pytest.raises(HostileTree):
        inflate(bomb[:-5], 300 * 1024**2)
    with pytest.raises(HostileTree):
        inflate(b"no frame at all", 10)


async def test_a_manifest_s_key_never_holds_another_manifest() -> None:
    """Trees that differ in times alone have the same digest."""
    store = new_store(MemoryObjectStore())
    keys = {
        await put_manifest(store, [Entry("d", "directory", mode=0o755, mtime_ns=time)]) for time in (1, 2, 2)
    }
    assert len(keys) == 2
    assert {(await store.load(key)).entries[0].mtime_ns for key in keys} == {1, 2}
