"""Computes the changes that turn a workspace into the tree of a manifest. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from nightshift.sandboxes.port import Entry


@dataclass(frozen=True, slots=True)
class HealPlan:
    """`missing`: only in the manifest. `different`: in both, unequal. `extra`: only in the workspace."""

    missing: tuple[Entry, ...]
    different: tuple[Entry, ...]
    extra: tuple[Entry, ...]

    @property
    def empty(self) -> bool:
        return not (self.missing or self.different or self.extra)

    @property
    def wanted(self) -> tuple[Entry, ...]:
        """The entries to make, parents before children."""
        return tuple(sorted((*self.missing, *self.different), key=lambda entry: entry.path))


def compare(present: Sequence[Entry], wanted: Sequence[Entry]) -> HealPlan:
    """Compare the entries that exist with those wanted. Both are as `storable` returns them."""
    have = {entry.path: entry for entry in present}
    want = {entry.path: entry for entry in wanted}
    return HealPlan(
        missing=tuple(entry for path, entry in want.items() if path not in have),
        different=tuple(entry for path, entry in want.items() if path in have and have[path] != entry),
        extra=tuple(entry for path, entry in have.items() if path not in want),
    )


def must_go(plan: HealPlan, present: Sequence[Entry]) -> tuple[str, ...]:
    """The paths to remove first: extra entries, and entries of the wrong kind. Leaves out those below another one."""
    kinds = {entry.path: entry.kind for entry in present}
    going = {entry.path for entry in plan.extra}
    going |= {entry.path for entry in plan.different if kinds[entry.path] != entry.kind}
    topmost = (path for path in going if not any(str(at) in going for at in PurePosixPath(path).parents))
    return tuple(sorted(topmost))
