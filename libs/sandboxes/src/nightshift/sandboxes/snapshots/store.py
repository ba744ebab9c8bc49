"""Snapshots in an object store: packs of compressed blobs, an index beside each pack, and the manifest last.

Keys, all under the project's prefix:
    projects/<project>/packs/<sha256>.pack      one zstd frame for each blob
    projects/<project>/packs/<sha256>.index     the blobs of that pack, written after it; later snapshots reuse them
    projects/<project>/builds/<build>/<version>-<reason>-<digest>.manifest
"""

import asyncio
import hashlib
import hmac
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from nightshift.eventlog.errors import NotFound
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.sandboxes.errors import HostileTree
from nightshift.sandboxes.port import PIECE, Entry
from nightshift.sandboxes.snapshots import manifest as manifests
from nightshift.sandboxes.snapshots.manifest import Listing, Location, Manifest, ProjectKey, TreeLimits

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_T = TypeVar("_T")
_LEVEL = 3
#: Hashing and compressing more than this is done in a thread.
_INLINE_BYTES = 64 * 1024
#: A pack is closed at this size: large enough to make few objects, small enough to send again after an error.
PACK_BYTES = 16 * 1024**2
#: Frames closer together than this in a pack are fetched in one range.
_GAP_BYTES = 256 * 1024


@dataclass(slots=True)
class _Pack:
    body: bytearray = field(default_factory=bytearray)
    index: dict[str, tuple[int, int]] = field(default_factory=dict)


class SnapshotStore:
    """The snapshots of one project. Keeps in memory which blobs exist; builds of the project may share it."""

    def __init__(self, objects: ObjectStore, key: ProjectKey) -> None:
        self.key = key
        self.limits = TreeLimits()
        self._objects = objects
        self._prefix = f"projects/{key.project_id}"
        self._known: dict[str, Location] = {}
        self._pieces: dict[str, tuple[str, ...]] = {}  # of large files that this process stored
        self._last: dict[str, tuple[int, str]] = {}  # by build: the tree of its last manifest, and the key
        self._indexes: set[str] = set()

    async def refresh(self) -> None:
        """Learn from the indexes which blobs exist. Reads each index once."""
        async for found in self._objects.list(f"{self._prefix}/packs/"):
            if found.key.endswith(".index") and found.key not in self._indexes:
                self._learn(found.key, await self._objects.get(found.key))

    def _learn(self, key: str, body: bytes) -> None:
        pack = key.removesuffix(".index") + ".pack"
        for digest, (offset, length) in json.loads(body).items():
            self._known.setdefault(digest, Location(pack, offset, length))
        self._indexes.add(key)

    def knows(self, digest: str) -> bool:
        """Whether this content is stored, as one blob or as the pieces of a large file."""
        return digest in self._known or digest in self._pieces

    def learn_pieces(self, digest: str, pieces: Sequence[str]) -> None:
        """Remember the blobs of a large file. They are stored already."""
        self._pieces[digest] = tuple(pieces)

    async def put_blobs(self, contents: AsyncIterator[tuple[str, bytes]]) -> int:
        """Store these (keyed digest, content) pairs in packs. Skips existing ones. Returns the bytes sent."""
        sent, pack = 0, _Pack()
        async for digest, content in contents:
            if digest in self._known or digest in pack.index:
                continue
            frame = await heavy(len(content), zstd.compress, content, _LEVEL)
            pack.index[digest] = (len(pack.body), len(frame))
            pack.body += frame
            if len(pack.body) >= PACK_BYTES:
                sent += await self._put_pack(pack)
                pack = _Pack()
        return sent + (await self._put_pack(pack) if pack.index else 0)

    async def _put_pack(self, pack: _Pack) -> int:
        body = bytes(pack.body)
        name = (await asyncio.to_thread(hashlib.sha256, body)).hexdigest()
        key = f"{self._prefix}/packs/{name}"
        index = json.dumps(pack.index, separators=(",", ":"), sort_keys=True).encode()
        await self._objects.put(f"{key}.pack", body)
        await self._objects.put(f"{key}.index", index)
        self._learn(f"{key}.index", index)
        return len(body) + len(index)

    async def put_manifest(
        self, build_id: str, *, at_version: int, reason: str, tree: Listing
    ) -> tuple[str, Manifest, int]:
        """Write the manifest of a tree whose blobs are stored. Returns key, manifest and bytes sent.

        Writes nothing when the build's last manifest, of this process, holds the same tree.
        """
        manifest, digest, body, same = await asyncio.to_thread(self._encoded, build_id, at_version, tree)
        last = self._last.get(build_id)
        if last is not None and last[0] == same:
            return last[1], manifest, 0
        short = digest.removeprefix("sha256:")[:16]
        key = f"{self._prefix}/builds/{build_id}/{at_version:010d}-{reason}-{short}.manifest"
        await self._objects.put(key, body)
        self._last[build_id] = same, key
        return key, manifest, len(body)

    def _encoded(self, build_id: str, at_version: int, tree: Listing) -> tuple[Manifest, str, bytes, int]:
        """Returns the manifest, its tree's digest, its compressed form, and a hash of the tree with times."""
        manifests.check(tree.entries, self.limits)
        digests = {entry.digest for entry in tree.entries if entry.digest is not None}
        pieces = {digest: self._pieces[digest] for digest in digests if digest not in self._known}
        blobs = {one: self._known[one] for whole in digests for one in pieces.get(whole, (whole,))}
        manifest = Manifest(build_id, at_version, tree.entries, blobs, pieces, tree.skipped)
        same = hash((tree.entries, tuple(tree.skipped.items()), frozenset(blobs.items())))
        return manifest, manifest.tree_digest, zstd.compress(manifests.dump(manifest), _LEVEL), same

    async def load(self, key: str) -> Manifest:
        """Read the manifest with this key. Raises NotFound and HostileTree."""
        if not key.startswith(f"{self._prefix}/builds/"):
            raise NotFound("no such snapshot in this project")
        body = await self._objects.get(key)
        data = await asyncio.to_thread(inflate, body, self.limits.manifest_bytes)
        manifest = await asyncio.to_thread(manifests.parse, data, self.limits)
        for at in manifest.blobs.values():
            if not at.pack.startswith(f"{self._prefix}/packs/") or not at.pack.endswith(".pack"):
                raise HostileTree("a blob lies outside the project")
        return manifest

    async def read(
        self, manifest: Manifest, entries: Iterable[Entry]
    ) -> AsyncIterator[tuple[Entry, bytes | None]]:
        """Yields these files with their content, or None for a content that is missing or corrupt.

        The order follows the packs, not the input.
        """
        by_pack: dict[str, dict[Location, list[Entry]]] = {}
        for entry in entries:
            at = manifest.blobs.get(entry.digest or "")
            if at is None:
                yield entry, None
            else:
                by_pack.setdefault(at.pack, {}).setdefault(at, []).append(entry)
        for pack, wanted in by_pack.items():
            for group in _ranges(sorted(wanted, key=lambda at: at.offset)):
                start = group[0].offset
                try:
                    data = await self._objects.get_range(pack, start, _end(group[-1]) - start)
                except NotFound:
                    data = b""
                for at in group:
                    frame = data[at.offset - start : _end(at) - start]
                    await asyncio.sleep(0)  # let other tasks run between the files of a pack
                    for entry in wanted[at]:
                        yield entry, await self._content(entry, frame)

    async def read_large(self, manifest: Manifest, entry: Entry) -> AsyncIterator[bytes]:
        """Yields the pieces of a large file. Stops before one that is missing or corrupt."""
        for digest in manifest.pieces.get(entry.digest or "", ()):
            at = manifest.blobs.get(digest)
            if at is None:
                return
            try:
                frame = await self._objects.get_range(at.pack, at.offset, at.length)
                piece = await asyncio.to_thread(inflate, frame, PIECE)
            except (NotFound, HostileTree):
                return
            if not hmac.compare_digest(await asyncio.to_thread(self.key.of, piece), digest):
                return
            yield piece

    async def _content(self, entry: Entry, frame: bytes) -> bytes | None:
        """Decompress a frame. Returns None when it is not the content that the entry's digest names."""
        try:
            content = await heavy(entry.size, inflate, frame, entry.size)
        except HostileTree:
            return None
        digest = await heavy(len(content), self.key.of, content)
        return content if hmac.compare_digest(digest, entry.digest or "") else None


async def heavy(size: int, function: Callable[..., _T], *arguments: object) -> _T:
    """Call the function: in a thread when `size` bytes take it long, else here, which costs no change of threads."""
    if size > _INLINE_BYTES:
        return await asyncio.to_thread(function, *arguments)
    return function(*arguments)


def _end(at: Location) -> int:
    return at.offset + at.length


def _ranges(places: Sequence[Location]) -> list[list[Location]]:
    """Group the locations of one pack, sorted by offset, into ranges to fetch at once."""
    groups: list[list[Location]] = []
    for at in places:
        last = groups[-1] if groups else None
        if last and at.offset - _end(last[-1]) <= _GAP_BYTES and _end(at) - last[0].offset <= PACK_BYTES:
            last.append(at)
        else:
            groups.append([at])
    return groups


def inflate(frame: bytes, limit: int) -> bytes:
    """Decompress at most `limit` bytes, in memory of about that size. Raises HostileTree when there are more."""
    decompressor = zstd.ZstdDecompressor()
    try:
        data = decompressor.decompress(frame, max_length=limit + 1)
    except zstd.ZstdError as error:
        raise HostileTree(f"not a zstd frame: {error}") from None
    if len(data) > limit:
        raise HostileTree(f"inflates to more than {limit} bytes")
    if not decompressor.eof:
        raise HostileTree("the zstd frame is cut")
    return data
