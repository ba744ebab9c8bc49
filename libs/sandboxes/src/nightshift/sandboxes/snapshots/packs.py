"""Packs: many compressed blobs in one object, and their index in another object.

Builds packs, and reads blobs from them.
"""

import hashlib
import hmac
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from nightshift.sandboxes.errors import HostileTree
from nightshift.sandboxes.port import PIECE, Entry, ExportedBlock
from nightshift.sandboxes.snapshots.manifest import Location, ProjectKey

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_LEVEL = 3
#: The size at which a pack is complete: large enough that there are few objects, small enough to send again after an
#: error.
PACK_BYTES = 8 * 1024**2
#: Blobs of a pack with a smaller gap than this between them are fetched in one range.
_GAP_BYTES = 256 * 1024
#: The most bytes of the blobs that are fetched in one range: compressed and uncompressed.
_RANGE_BYTES, _RANGE_CONTENT = 4 * 1024**2, 4 * PIECE


@dataclass(slots=True)
class Pack:
    """A pack that is being built. `index` has the offset and the length of each blob, by its digest."""

    frames: list[bytes] = field(default_factory=list)
    index: dict[str, tuple[int, int]] = field(default_factory=dict)
    size: int = 0

    def add(self, digest: str, content: bytes | memoryview) -> None:
        """Compress a content and append it to the pack."""
        self.append(digest, zstd.compress(content, _LEVEL))

    def append(self, digest: str, frame: bytes) -> None:
        self.index[digest] = (self.size, len(frame))
        self.frames.append(frame)
        self.size += len(frame)


@dataclass(frozen=True, slots=True)
class ReadFile:
    """A file whose content was read to its end: its keyed digest and its size.

    `pieces` are the digests of its blobs, in order, when it has several.
    """

    path: str
    digest: str
    size: int
    pieces: tuple[str, ...]


@dataclass(slots=True)
class Packer:
    """Computes the digests of exported blocks and compresses them into packs.

    `is_stored` returns True for the digest of a blob that is stored already.
    """

    key: ProjectKey
    is_stored: Callable[[str], bool]
    pack: Pack = field(default_factory=Pack)
    _whole: "hashlib._Hash | None" = None
    _pieces: list[str] = field(default_factory=list)
    _size: int = 0

    def add(self, block: ExportedBlock) -> tuple[list[ReadFile], dict[str, str], list[Pack]]:
        """Add a block.

        Returns the files that end in this block, the paths that cannot be read with the reasons, and the packs that
        are full.
        """
        files, problems, full, offset = list[ReadFile](), dict[str, str](), list[Pack](), 0
        for part in block.parts:
            content = memoryview(block.data)[offset : offset + part.bytes]
            offset += part.bytes
            if part.problem is not None:
                problems[part.path] = part.problem
                self._begin()
                continue
            sha = hashlib.sha256(content)
            digest = self.key.digest(sha.hexdigest())
            if not self.is_stored(digest) and digest not in self.pack.index:
                self.pack.add(digest, content)
            if self.pack.size >= PACK_BYTES:
                full.append(self.take())
            self._pieces.append(digest)
            self._size += part.bytes
            if part.more or self._whole is not None:
                self._whole = self._whole or hashlib.sha256()
                self._whole.update(content)
            if not part.more:
                files.append(self._end(part.path))
        return files, problems, full

    def take(self) -> Pack:
        """Return the pack that is being built, and begin another one."""
        done, self.pack = self.pack, Pack()
        return done

    def _end(self, path: str) -> ReadFile:
        if self._whole is None:
            file = ReadFile(path, self._pieces[0], self._size, ())
        else:
            file = ReadFile(path, self.key.digest(self._whole.hexdigest()), self._size, tuple(self._pieces))
        self._begin()
        return file

    def _begin(self) -> None:
        self._whole, self._pieces, self._size = None, [], 0


@dataclass(frozen=True, slots=True)
class Range:
    """A part of a pack to fetch in one request. `wanted` has the locations in it, each with the entries of that
    content.
    """

    pack: str
    start: int
    end: int
    wanted: Sequence[tuple[Location, Sequence[Entry]]]

    def contents(self, data: bytes, key: ProjectKey) -> list[tuple[Entry, bytes | None]]:
        """Decompress the fetched bytes into the contents of the entries.

        A content is None when it does not have the digest that its entry names.
        """
        found = list[tuple[Entry, bytes | None]]()
        for at, entries in self.wanted:
            frame = data[at.offset - self.start : at.offset - self.start + at.length]
            content = verified(frame, entries[0].size, entries[0].digest or "", key)
            for entry in entries:
                found.append((entry, content if content is None or len(content) == entry.size else None))
        return found


def verified(frame: bytes, limit: int, digest: str, key: ProjectKey) -> bytes | None:
    """Decompress a blob of at most `limit` bytes. Returns None unless the content has this keyed digest."""
    try:
        content = inflate(frame, limit)
    except HostileTree:
        return None
    return content if hmac.compare_digest(key.of(content), digest) else None


def ranges(blobs: Mapping[str, Location], entries: Iterable[Entry]) -> tuple[list[Range], list[Entry]]:
    """Group the entries by ranges of packs that contain their contents. Near contents share a range.

    Returns the ranges, and the entries whose content has no location.
    """
    by_pack: dict[str, dict[Location, list[Entry]]] = {}
    nowhere = list[Entry]()
    for entry in entries:
        at = blobs.get(entry.digest or "")
        if at is None:
            nowhere.append(entry)
        else:
            by_pack.setdefault(at.pack, {}).setdefault(at, []).append(entry)
    found = list[Range]()
    for pack, wanted in by_pack.items():
        group, size = list[tuple[Location, list[Entry]]](), 0
        for at in sorted(wanted, key=lambda at: at.offset):
            if group and (
                at.offset - _end(group[-1][0]) > _GAP_BYTES
                or _end(at) - group[0][0].offset > _RANGE_BYTES
                or size > _RANGE_CONTENT
            ):
                found.append(Range(pack, group[0][0].offset, _end(group[-1][0]), tuple(group)))
                group, size = [], 0
            group.append((at, wanted[at]))
            size += wanted[at][0].size
        if group:
            found.append(Range(pack, group[0][0].offset, _end(group[-1][0]), tuple(group)))
    return found, nowhere


def _end(at: Location) -> int:
    return at.offset + at.length


def compress(data: bytes) -> bytes:
    return zstd.compress(data, _LEVEL)


def inflate(frame: bytes, limit: int) -> bytes:
    """Decompress a zstd frame. Raises HostileTree when it has more than `limit` bytes, without using more memory."""
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
