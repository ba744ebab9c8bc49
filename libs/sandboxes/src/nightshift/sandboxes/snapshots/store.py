"""Snapshots in an object store: packs of compressed blobs, an index beside each pack, and the manifest last.

Keys, all under the project's prefix:
    projects/<project>/packs/<random>.pack      one zstd frame for each blob
    projects/<project>/packs/<random>.index     the blobs of that pack, written after it; later snapshots reuse them
    projects/<project>/builds/<build>/<version>-<reason>-<digest of the object>.manifest
    projects/<project>/gc/<number>.json         what garbage collection is about to delete
"""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from nightshift.eventlog.errors import NotFound, Transient
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.sandboxes.errors import HostileTree
from nightshift.sandboxes.port import PIECE, Entry, ExportedBlock
from nightshift.sandboxes.snapshots import encoding
from nightshift.sandboxes.snapshots.doomed import newest
from nightshift.sandboxes.snapshots.known_trees import KnownTrees
from nightshift.sandboxes.snapshots.manifest import Location, Manifest, ProjectKey, TreeLimits, check
from nightshift.sandboxes.snapshots.off_loop import off_loop
from nightshift.sandboxes.snapshots.packs import (
    Pack,
    Packer,
    Range,
    ReadFile,
    compress,
    inflate,
    ranges,
    verified,
)

#: Seconds for which the lists of stored blobs and of doomed packs are used before they are read again.
REFRESH_S = 60.0
#: Seconds that an upload may take. Garbage collection waits longer than this before it deletes what an upload may have
#: reused.
LONGEST_UPLOAD_S = 3600.0
#: How many indexes are read, packs are sent, and ranges are fetched at the same time.
_READS, _SENDS, _FETCHES = 16, 2, 3


class UploadTookTooLong(Transient):
    """The upload took so long that garbage collection may have deleted blobs that it reused.

    No manifest was written.
    """


class SnapshotStore:
    """The snapshots of one project.

    The store remembers in memory which blobs exist, so the builds of a project may share one. `clock` returns seconds
    since 1970.
    """

    def __init__(
        self,
        objects: ObjectStore,
        key: ProjectKey,
        *,
        trees: KnownTrees | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.key = key
        self.trees = trees or KnownTrees()
        self.limits = TreeLimits()
        self.objects = objects
        self.prefix = f"projects/{key.project_id}"
        self._clock = clock
        self._known: dict[str, Location] = {}
        self._pieces: dict[str, tuple[str, ...]] = {}  # the blobs of large files that this process has stored
        self._indexes: set[str] = set()
        self._collections = 0  # the number of the newest garbage collection
        self._doomed: frozenset[str] = frozenset()
        self._refreshed: float | None = None
        self._refreshing = asyncio.Lock()

    async def refresh(self) -> None:
        """Find out which blobs exist and which objects are doomed. Reads each index once.

        Does nothing when the last refresh was less than REFRESH_S seconds ago.
        """
        async with self._refreshing:
            now = self._clock()
            if self._refreshed is not None and now - self._refreshed < REFRESH_S:
                return
            number, doomed = await newest(self.objects, self.prefix)
            if number != self._collections:
                # Packs may be gone and their blobs copied to others. So everything is read again.
                self._collections, self._doomed = number, frozenset(doomed)
                self._known, self._indexes = {}, set()
            new = [
                found.key
                async for found in self.objects.list(f"{self.prefix}/packs/")
                if found.key.endswith(".index") and found.key not in self._indexes
            ]
            for start in range(0, len(new), _READS):
                keys = new[start : start + _READS]
                for key, body in zip(keys, await asyncio.gather(*map(self._index, keys)), strict=True):
                    await off_loop(self._learn, key, body)
            self._refreshed = now

    async def _index(self, key: str) -> bytes:
        try:
            return await self.objects.get(key)
        except NotFound:  # the index was deleted after it was listed
            return b"{}"

    def _learn(self, key: str, body: bytes) -> None:
        pack = key.removesuffix(".index") + ".pack"
        for digest, (offset, length) in json.loads(body).items():
            if pack not in self._doomed:
                self._known.setdefault(digest, Location(pack, offset, length))
        self._indexes.add(key)

    def is_doomed(self, key: str) -> bool:
        return key in self._doomed

    def knows(self, digest: str) -> bool:
        """Return whether this content is stored, as one blob or as the pieces of a large file."""
        return digest in self._known or (
            digest in self._pieces and all(piece in self._known for piece in self._pieces[digest])
        )

    def learn_pieces(self, digest: str, pieces: Sequence[str]) -> None:
        """Remember which blobs make up a large file, by the digest of the whole file. All of them must be stored
        already.
        """
        self._pieces[digest] = tuple(pieces)

    def begin_upload(self) -> "Upload":
        return Upload(self, Packer(self.key, lambda digest: digest in self._known), self._clock())

    async def put_pack(self, pack: Pack) -> int:
        """Store a pack and its index. Returns the number of bytes sent."""
        # The name is random, because another pack with the same content may be about to be deleted.
        key = f"{self.prefix}/packs/{uuid4().hex}"
        body = await off_loop(b"".join, pack.frames)
        pack.frames.clear()  # so that memory contains only one copy of the bytes while they are sent
        index = await off_loop(json.dumps, pack.index)
        await self.objects.put(f"{key}.pack", body)
        await self.objects.put(f"{key}.index", index.encode())
        self._learn(f"{key}.index", index.encode())
        return len(body) + len(index)

    def located(self, entries: Iterable[Entry]) -> tuple[dict[str, Location], dict[str, tuple[str, ...]]]:
        """Return the locations of these files' blobs, and for each large file the digests of its blobs.

        All these blobs must be stored already.
        """
        digests = {entry.digest for entry in entries if entry.digest is not None}
        pieces = {digest: self._pieces[digest] for digest in digests if digest not in self._known}
        return {one: self._known[one] for whole in digests for one in pieces.get(whole, (whole,))}, pieces

    async def put_manifest(
        self, manifest: Manifest, *, reason: str, base: str | None = None, gone: Sequence[str] = ()
    ) -> tuple[str, int]:
        """Write a manifest whose blobs are stored. Returns its key and the number of bytes sent.

        If `base` is a manifest's key, stores only the differences from that manifest. A key contains a digest of the
        content, so an object is never overwritten by another manifest.
        """
        body = await off_loop(self._encoded, manifest, base, gone)
        name = f"{manifest.at_version:010d}-{reason}-{hashlib.sha256(body).hexdigest()[:16]}"
        key = f"{self.prefix}/builds/{manifest.build_id}/{name}.manifest"
        await self.objects.put_if_absent(key, body)
        return key, len(body)

    def _encoded(self, manifest: Manifest, base: str | None, gone: Sequence[str]) -> bytes:
        if base is None:
            check(manifest.entries, self.limits)
        return compress(encoding.dump(manifest, base=base, gone=gone))

    async def load(self, key: str) -> Manifest:
        """Read the manifest with this key, and its base if it is a difference. Raises NotFound and HostileTree."""
        found = await self._parsed(key)
        if found.base is None:
            return found.own
        base = await self._parsed(found.base)
        if base.base is not None:
            raise HostileTree("the base of a manifest has a base itself")
        return await off_loop(found.onto, base.own, self.limits)

    async def _parsed(self, key: str) -> encoding.Delta:
        if not key.startswith(f"{self.prefix}/builds/"):
            raise NotFound("no such snapshot in this project")
        body = await self.objects.get(key)
        data = await off_loop(inflate, body, self.limits.manifest_bytes)
        found = await off_loop(encoding.parse, data, self.limits)
        for at in found.own.blobs.values():
            if not at.pack.startswith(f"{self.prefix}/packs/") or not at.pack.endswith(".pack"):
                raise HostileTree("a blob lies outside the project")
        return found

    async def read(
        self, manifest: Manifest, entries: Iterable[Entry]
    ) -> AsyncIterator[tuple[Entry, bytes | None]]:
        """Yield these files with their contents. A missing or corrupt content is None.

        The order is that of the packs, not that of `entries`, and several parts of packs are fetched in advance.
        """
        left, nowhere = await off_loop(ranges, manifest.blobs, entries)
        for entry in nowhere:
            yield entry, None
        fetching = [asyncio.ensure_future(self._contents(part)) for part in left[:_FETCHES]]
        try:
            for number in range(len(left)):
                contents = await fetching.pop(0)
                if number + _FETCHES < len(left):
                    fetching.append(asyncio.ensure_future(self._contents(left[number + _FETCHES])))
                for entry, content in contents:
                    yield entry, content
        finally:
            for task in fetching:
                task.cancel()

    async def _contents(self, part: Range) -> list[tuple[Entry, bytes | None]]:
        try:
            data = await self.objects.get_range(part.pack, part.start, part.end - part.start)
        except NotFound:
            await self._look_again(part.pack)
            moved, nowhere = ranges(self._known, (entry for _, entries in part.wanted for entry in entries))
            found = [pair for one in moved for pair in await self._contents(one)]
            return [*found, *((entry, None) for entry in nowhere)]
        return await off_loop(part.contents, data, self.key)

    async def _look_again(self, pack: str) -> None:
        """Forget a pack that is missing, and refresh. Garbage collection may have copied its used blobs to another
        pack.
        """
        self._known = {digest: at for digest, at in self._known.items() if at.pack != pack}
        self._refreshed = None
        await self.refresh()

    async def read_large(self, manifest: Manifest, entry: Entry) -> AsyncIterator[bytes]:
        """Yield the pieces of a large file. Stops before a piece that is missing or corrupt."""
        for digest in manifest.pieces.get(entry.digest or "", ()):
            piece = await self._piece(manifest.blobs.get(digest), digest)
            if piece is None:
                return
            yield piece

    async def _piece(self, at: Location | None, digest: str) -> bytes | None:
        if at is None:
            return None
        try:
            frame = await self.objects.get_range(at.pack, at.offset, at.length)
        except NotFound:
            await self._look_again(at.pack)
            return await self._piece(self._known.get(digest), digest)
        return await off_loop(verified, frame, PIECE, digest, self.key)


@dataclass(slots=True)
class Upload:
    """Stores the contents of one snapshot. `begun` is its start in seconds since 1970, `sent` the number of bytes
    sent.
    """

    store: SnapshotStore
    packer: Packer
    begun: float
    sent: int = 0
    _sending: set[asyncio.Task[int]] = field(default_factory=set)

    async def add(self, block: ExportedBlock) -> tuple[list[ReadFile], dict[str, str]]:
        """Store the contents in this block of an export that the object store does not have yet.

        Returns the files that end in this block, and the paths of unreadable files, each with its reason.
        """
        files, problems, full = await off_loop(self.packer.add, block)
        for file in files:
            if file.pieces:
                self.store.learn_pieces(file.digest, file.pieces)
        for pack in full:
            await self._send(pack)
        return files, problems

    async def _send(self, pack: Pack) -> None:
        while len(self._sending) >= _SENDS:
            done, self._sending = await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)
            self.sent += sum(task.result() for task in done)
        self._sending.add(asyncio.ensure_future(self.store.put_pack(pack)))

    async def finish(self) -> None:
        """Wait until everything is stored. Raises UploadTookTooLong when the upload took too long."""
        pack = self.packer.take()
        if pack.index:
            await self._send(pack)
        for task in list(self._sending):
            self.sent += await task
        self._sending.clear()
        self.require_recent()

    def require_recent(self) -> None:
        """Raise UploadTookTooLong when blobs that this upload reuses may have been deleted meanwhile."""
        if self.store._clock() - self.begun > LONGEST_UPLOAD_S:
            raise UploadTookTooLong(f"the upload took more than {LONGEST_UPLOAD_S:.0f} s")

    async def abandon(self) -> None:
        """After an error, wait until the running transfers have ended. Ignores their errors."""
        await asyncio.gather(*self._sending, return_exceptions=True)
