"""Deletes what no snapshot needs any more, in two phases, beside uploads that may reuse it at any moment.

1. Mark: an object that nothing kept refers to is doomed. Uploads that begin from now on do not reuse it.
2. After a wait that is longer than any upload, what is still not referred to is deleted. What an upload in between has
   referred to is doomed no more.

A pack of which little is used is rewritten: its used blobs are copied to a new pack, and the old one is doomed.
Manifests stay as they are; a reader that misses a pack finds its blobs by the indexes.
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

#: Seconds from dooming an object to its deletion. Longer than any upload, and than an upload's list of doomed objects.
WAIT_S = 24 * 3600.0
#: A pack is rewritten when less than this part of its bytes is used.
_USED = 0.3
#: The states of garbage collection that stay, for readers that have just listed them.
_STATES = 4


class Beaten(Exception):
    """Another collection of the same project has written first."""


@dataclass(slots=True)
class Collected:
    """What a collection did, or would do. `doomed` waits for its deletion; `kept` is all that is referred to."""

    deleted: list[str] = field(default_factory=list)
    doomed: list[str] = field(default_factory=list)
    spared: list[str] = field(default_factory=list)  # doomed before, and referred to since
    rewritten: list[str] = field(default_factory=list)
    deleted_bytes: int = 0


@dataclass(slots=True)
class _Found:
    """The objects of a project. `packs`: the index of each pack. `sizes`: bytes by key."""

    manifests: dict[str, encoding.Delta] = field(default_factory=dict)
    packs: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    partial: set[str] = field(default_factory=set)  # packs without an index, from uploads that were cut


@dataclass(frozen=True, slots=True)
class Collector:
    """Collects the garbage of one project. `keep` decides about a manifest by its key; `clock`: seconds since 1970."""

    objects: ObjectStore
    key: ProjectKey
    keep: Callable[[str], bool]
    wait_s: float = WAIT_S
    clock: Callable[[], float] = time.time

    async def collect(self, *, dry_run: bool = False) -> Collected:
        """Do both phases once. Raises Beaten when another collection runs, and HostileTree for a broken manifest."""
        if self.wait_s < 2 * (LONGEST_UPLOAD_S + REFRESH_S):
            raise ValueError("the wait must be longer than any upload")
        prefix = f"projects/{self.key.project_id}"
        number, before = await doomed.newest(self.objects, prefix)
        found, now, done = await self._list(prefix), self.clock(), Collected()
        kept = self._kept_manifests(found)
        gone = await self._due(found, kept, before, now, done)
        # What is deleted now stays doomed until the next collection: an upload may begin before it is gone.
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
        """Read manifests last: one that is written meanwhile refers to packs that were listed or are young."""
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
        """What was doomed long ago and is still not needed. Notes in `done` what is needed again."""
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
        """Manifests that are not kept, and packs of which no blob is used."""
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
        """Copy the used blobs of packs that are mostly unused to new packs, and doom the old ones."""
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
        """Delete indexes before their packs, so that nobody learns of a pack that is going."""
        packs = [key for key in gone if key.endswith(".pack")]
        for key in [*(key.removesuffix(".pack") + ".index" for key in packs), *sorted(gone)]:
            await self.objects.delete(key)
        async for one in self.objects.list(f"{prefix}/gc/"):
            if int(one.key.rpartition("/")[2].removesuffix(".json")) <= number - _STATES:
                await self.objects.delete(one.key)


def _used(found: _Found, kept: Iterable[str], *, without: set[str]) -> dict[str, set[str]]:
    """The blobs of each pack that kept manifests need it for.

    A blob that another pack has too, which is not in `without`, is needed there alone.
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
