"""What must be done to a tree so that it is the one of a manifest. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from nightshift.sandboxes.port import Entry


@dataclass(frozen=True, slots=True)
class HealPlan:
    """missing: only in the manifest. different: in both, with other content, mode, kind or target. extra: only here."""

    missing: tuple[Entry, ...]
    different: tuple[Entry, ...]
    extra: tuple[Entry, ...]

    @property
    def empty(self) -> bool:
        return not (self.missing or self.different or self.extra)

    @property
    def wanted(self) -> tuple[Entry, ...]:
        """What has to be made, parents before children."""
        return tuple(sorted((*self.missing, *self.different), key=lambda entry: entry.path))


def compare(present: Sequence[Entry], wanted: Sequence[Entry]) -> HealPlan:
    """Both as `manifest.storable` gives them (keyed digests, no times)."""
    have = {entry.path: entry for entry in present}
    want = {entry.path: entry for entry in wanted}
    return HealPlan(
        missing=tuple(entry for path, entry in want.items() if path not in have),
        different=tuple(entry for path, entry in want.items() if path in have and have[path] != entry),
        extra=tuple(entry for path, entry in have.items() if path not in want),
    )


def must_go(plan: HealPlan, present: Sequence[Entry]) -> tuple[str, ...]:
    """What has to be removed first: extras, and what stands in the way with another kind; topmost only."""
    kinds = {entry.path: entry.kind for entry in present}
    going = {entry.path for entry in plan.extra}
    going |= {entry.path for entry in plan.different if kinds[entry.path] != entry.kind}
    return tuple(sorted(path for path in going if not _has_parent_in(path, going)))


def _has_parent_in(path: str, paths: set[str]) -> bool:
    parent = path.rpartition("/")[0]
    while parent:
        if parent in paths:
            return True
        parent = parent.rpartition("/")[0]
    return False
