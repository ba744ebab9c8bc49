"""Remembers the tree of each build's newest snapshot, so that the next snapshot can be stored as a difference."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from nightshift.sandboxes.port import Entry

#: The most entries to remember for all builds together, about 100 MB. The tree of a forgotten build is listed whole.
_ENTRIES = 150_000


@dataclass(frozen=True, slots=True)
class KnownTree:
    """The tree of a stored snapshot.

    - `mark`: the version of the checkpoint, by which the sandbox knows this tree.
    - `whole`: the key of a manifest that contains a whole tree, not a difference.
    - `changed`: the paths that were added, changed or removed since that manifest.
    """

    sandbox_id: str
    mark: int
    key: str
    tree_digest: str
    entries: Mapping[str, Entry]
    skipped: Mapping[str, str]
    whole: str
    changed: frozenset[str] = frozenset()
    files: int = field(init=False)
    bytes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", sum(entry.kind == "file" for entry in self.entries.values()))
        object.__setattr__(self, "bytes", sum(entry.size for entry in self.entries.values()))


class KnownTrees:
    """The tree of each build's newest snapshot. Beyond a total number of entries, forgets the trees used least
    recently.
    """

    def __init__(self) -> None:
        self._trees: OrderedDict[str, KnownTree] = OrderedDict()

    def of(self, build_id: str, sandbox_id: str) -> KnownTree | None:
        """Return the tree of the build's newest snapshot. None when it is unknown or comes from another sandbox."""
        known = self._trees.get(build_id)
        return known if known is not None and known.sandbox_id == sandbox_id else None

    def remember(self, build_id: str, tree: KnownTree) -> None:
        self._trees[build_id] = tree
        self._trees.move_to_end(build_id)
        held = sum(len(one.entries) for one in self._trees.values())
        while held > _ENTRIES and len(self._trees) > 1:
            held -= len(self._trees.popitem(last=False)[1].entries)
        if held > _ENTRIES:
            self._trees.clear()
