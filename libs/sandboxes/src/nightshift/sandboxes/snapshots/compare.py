"""Computes the changes that make a workspace equal to the tree of a manifest. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from nightshift.sandboxes.port import Entry


@dataclass(frozen=True, slots=True)
class HealPlan:
    """The differences between a workspace and a manifest.

    - `missing`: entries only in the manifest.
    - `different`: entries in both, with different content or of different kinds.
    - `extra`: entries only in the workspace.
    - `touched`: entries in both with the same content, but with another mode, modification time or hard link.
    """

    missing: tuple[Entry, ...]
    different: tuple[Entry, ...]
    extra: tuple[Entry, ...]
    touched: tuple[Entry, ...] = ()

    @property
    def empty(self) -> bool:
        return not (self.missing or self.different or self.extra or self.touched)

    @property
    def wanted(self) -> tuple[Entry, ...]:
        """The entries to create or change, parents before their children."""
        return tuple(sorted((*self.missing, *self.different, *self.touched), key=lambda entry: entry.path))


def compare(present: Sequence[Entry], wanted: Sequence[Entry]) -> HealPlan:
    """Compare the existing entries with the wanted ones. Both must come from `storable`.

    A manifest of format 1 has no modification times. So an entry without one is equal to an entry with any time.
    """
    have = {entry.path: entry for entry in present}
    want = {entry.path: entry for entry in wanted}
    both = [(have[path], entry) for path, entry in want.items() if path in have]
    return HealPlan(
        missing=tuple(entry for path, entry in want.items() if path not in have),
        different=tuple(entry for there, entry in both if _content(there) != _content(entry)),
        extra=tuple(entry for path, entry in have.items() if path not in want),
        touched=tuple(
            entry for there, entry in both if _content(there) == _content(entry) and _touched(there, entry)
        ),
    )


def _content(entry: Entry) -> tuple[object, ...]:
    return entry.kind, entry.size, entry.digest, entry.target


def _touched(there: Entry, wanted: Entry) -> bool:
    if wanted.mtime_ns is None:
        return there.mode != wanted.mode
    return (there.mode, there.mtime_ns, there.link) != (wanted.mode, wanted.mtime_ns, wanted.link)


def difference(there: Entry, wanted: Entry) -> str:
    """Say for a person how an entry differs from the wanted one in mode, hard link or modification time."""
    if there.mode != wanted.mode:
        return f"has the mode {there.mode:o} and not {wanted.mode:o}"
    return "is no hard link" if there.link != wanted.link else "has another modification time"


def must_go(plan: HealPlan, present: Sequence[Entry]) -> tuple[str, ...]:
    """Return the paths to remove before entries are written: extra entries, and entries of the wrong kind.

    Leaves out entries below a directory that is removed itself.
    """
    kinds = {entry.path: entry.kind for entry in present}
    going = {entry.path for entry in plan.extra}
    going |= {entry.path for entry in plan.different if kinds[entry.path] != entry.kind}
    topmost = (path for path in going if not any(str(at) in going for at in PurePosixPath(path).parents))
    return tuple(sorted(topmost))
