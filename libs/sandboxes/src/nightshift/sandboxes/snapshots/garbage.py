"""Deletes objects that no snapshot needs any more, in two phases, while uploads may reuse the same objects.

- Mark: an object to which no kept manifest refers is doomed. Uploads that begin from now on do not reuse it.
- Delete: after a wait longer than any upload, a doomed object is deleted. It is spared, and no longer doomed, when an
  upload has referred to it meanwhile.

A pack with few used blobs is rewritten: the used blobs are copied to a new pack, and the old pack is doomed. Manifests
are not changed. A reader that finds a pack missing finds its blobs through the indexes.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from nightshift.eventlog.errors import NotFound
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.sandboxes.snapshots import doomed, encoding
from nightshift.sandboxes.snapshots.manifest import ProjectKey, TreeLimits
from nightshift.sandboxes.snapshots.off_loop import off_loop
from nightshift.sandboxes.snapshots.packs import PACK_BYTES, Pack, inflate
from nightshift.sandboxes.snapshots.store import LONGEST_UPLOAD_S, REFRESH_S, SnapshotStore

#: Seconds between dooming an object and deleting it. This is longer than any upload, plus the time for which an upload
#: uses its list of doomed objects.
WAIT_S = 24 * 3600.0
#: A pack is rewritten when less than this part of its bytes is used.
_USED = 0.3
#: How many states of garbage collection are kept for readers that have just listed them.
_STATES = 4


class Beaten(Exception):
    """Another garbage collection of the same project wrote its state first, so this one stops."""


@dataclass(slots=True)
class Collected:
    """The keys of objects that a collection changed, or would change in a dry run.

    Objects in `doomed` wait for their deletion. Objects in `spared` were doomed, and are needed again.
    """

    deleted: list[str] = field(default_factory=list)
    doomed: list[str] = field(default_factory=list)
    spared: list[str] = field(default_factory=list)  # doomed earlier, but something refers to them again
    rewritten: list[str] = field(default_factory=list)
    deleted_bytes: int = 0


@dataclass(slots=True)
class _Found:
    """The objects of a project. `packs` has the index of each pack, and `sizes` the bytes of each object, by key.

    `partial` are the packs without a readable index.
    """

    manifests: dict[str, encoding.Delta] = field(default_factory=dict)
    packs: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    # Packs without an index, left by uploads that were cut short.
    partial: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Collector:
    """Collects the garbage of one project.

    `keep` returns whether to keep the manifest with this key. `clock` returns seconds since 1970.
    """

    objects: ObjectStore
    key: ProjectKey
    keep: Callable[[str], bool]
    wait_s: float = WAIT_S
    clock: Callable[[], float] = time.time

    async def collect(self, *, dry_run: bool = False) -> Collected:
        """Do both phases once. If `dry_run`, only reports what they would do.

        Raises Beaten when another collection runs, and HostileTree when a manifest is broken.
        """
        if self.wait_s < 2 * (LONGEST_UPLOAD_S + REFRESH_S):
            raise ValueError("the wait must be longer than any upload")
        prefix = f"projects/{self.key.project_id}"
        number, before = await doomed.newest(self.objects, prefix)
        found, now, done = await self._list(prefix), self.clock(), Collected()
        kept = self._kept_manifests(found)
        gone = await self._due(found, kept, before, now, done)
        # Objects that are deleted now stay doomed until the next collection, because an upload may begin before they
        # are gone.
        after = {key: at for key, at in before.items() if key in found.sizes and key not in done.spared}
        used = _used(found, kept, without=set(after))
        for key in self._unused(found, kept, used):
            if key not in after:
                after[key] = now
                done.doomed.append(key)
        if not dry_run:
            await self._rewrite(found, used, after, now, done)
            if (gone or dict(before) != after) and not await doomed.write(
                self.objects, prefix, number + 1, after
            ):
                raise Beaten
            await self._delete(prefix, number, gone)
        done.deleted = sorted(gone)
        done.deleted_bytes = sum(found.sizes.get(key, 0) for key in gone)
        return done

    async def _list(self, prefix: str) -> _Found:
        """List the project's objects, the packs before the manifests.

        So a manifest that is written meanwhile refers only to packs that were listed, or to new ones.
        """
        found = _Found()
        async for one in self.objects.list(f"{prefix}/packs/"):
            found.sizes[one.key] = one.bytes
        for key in [key for key in found.sizes if key.endswith(".pack")]:
            index = key.removesuffix(".pack") + ".index"
            try:
                found.packs[key] = json.loads(await self.objects.get(index)) if index in found.sizes else {}
            except NotFound:
                found.packs[key] = {}
            if not found.packs[key]:
                found.partial.add(key)
        async for one in self.objects.list(f"{prefix}/builds/"):
            found.sizes[one.key] = one.bytes
            body = await self.objects.get(one.key)
            found.manifests[one.key] = await off_loop(_parsed, body)
        return found

    def _kept_manifests(self, found: _Found) -> set[str]:
        kept = {key for key in found.manifests if self.keep(key)}
        return kept | {base for key in kept if (base := found.manifests[key].base) is not None}

    async def _due(
        self, found: _Found, kept: set[str], before: Mapping[str, float], now: float, done: Collected
    ) -> set[str]:
        """Return the objects to delete: doomed for at least `wait_s` seconds, and still not needed.

        Adds doomed objects that are needed again to `done.spared`.
        """
        used = _used(found, kept, without=set(before))
        unused = set(self._unused(found, kept, used))
        gone = set()
        for key, at in before.items():
            if key not in unused and key in found.sizes:
                done.spared.append(key)
            elif now - at >= self.wait_s and key in found.sizes:
                gone.add(key)
        return gone

    def _unused(self, found: _Found, kept: set[str], used: Mapping[str, set[str]]) -> Iterable[str]:
        """Yield the manifests that are not kept, and the packs without a used blob."""
        yield from (key for key in found.manifests if key not in kept)
        yield from (key for key in found.packs if not used.get(key))

    async def _rewrite(
        self,
        found: _Found,
        used: Mapping[str, set[str]],
        after: dict[str, float],
        now: float,
        done: Collected,
    ) -> None:
        """Copy the used blobs of packs with few used blobs to new packs.

        Adds the old packs to the doomed objects `after`, doomed at the time `now`, and to `done.rewritten`.
        """
        pack, moved = Pack(), list[str]()
        store = SnapshotStore(self.objects, self.key)
        for key, index in found.packs.items():
            blobs = [digest for digest in index if digest in used.get(key, ())]
            size = sum(index[digest][1] for digest in blobs)
            if not blobs or key in after or size >= _USED * found.sizes[key]:
                continue
            for digest in blobs:
                offset, length = index[digest]
                pack.append(digest, await self.objects.get_range(key, offset, length))
            moved.append(key)
            if pack.size >= PACK_BYTES:
                await store.put_pack(pack)
                pack = Pack()
        if pack.index:
            await store.put_pack(pack)
        after.update(dict.fromkeys(moved, now))
        done.rewritten += moved

    async def _delete(self, prefix: str, number: int, gone: set[str]) -> None:
        """Delete the objects `gone`, and old states of the record. Deletes an index before its pack, so that no reader
        finds a missing pack.
        """
        packs = [key for key in gone if key.endswith(".pack")]
        for key in [*(key.removesuffix(".pack") + ".index" for key in packs), *sorted(gone)]:
            await self.objects.delete(key)
        async for one in self.objects.list(f"{prefix}/gc/"):
            if int(one.key.rpartition("/")[2].removesuffix(".json")) <= number - _STATES:
                await self.objects.delete(one.key)


def _used(found: _Found, kept: Iterable[str], *, without: set[str]) -> dict[str, set[str]]:
    """Return for each pack the blobs that kept manifests need from it.

    When a pack in `without` and another pack have the same blob, the blob counts only for the other pack.
    """
    where: dict[str, str] = {}
    for pack, index in found.packs.items():
        if pack not in without:
            where.update(dict.fromkeys(index, pack))
    used: dict[str, set[str]] = {}
    for key in kept:
        for digest, at in found.manifests[key].own.blobs.items():
            named = at.pack not in without and digest in found.packs.get(at.pack, ())
            used.setdefault(at.pack if named else where.get(digest, at.pack), set()).add(digest)
    return used


def _parsed(body: bytes) -> encoding.Delta:
    limits = TreeLimits()
    return encoding.parse(inflate(body, limits.manifest_bytes), limits)
