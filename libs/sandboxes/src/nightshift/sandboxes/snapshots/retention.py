"""Decides which snapshots of a build garbage collection must keep. Pure."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from nightshift.contracts.events.build import BuildAccepted, BuildForked, BuildRewound
from nightshift.contracts.events.sandbox import SandboxRestored
from nightshift.contracts.events.snapshot import SnapshotSaved
from nightshift.eventlog.port import RecordedEvent


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """How many of its newest snapshots an ended build keeps. `by_account` overrides `keep_last` for an account.

    The snapshot of the build's completion is kept in any case.
    """

    keep_last: int = 10
    by_account: Mapping[str, int] = field(default_factory=dict)

    def of(self, account_id: str) -> int:
        return self.by_account.get(account_id, self.keep_last)


@dataclass(slots=True)
class BuildSnapshotKeys:
    """The keys of snapshots in the log of one build. `saved` has (reason, key) of each of its own snapshots.

    `borrowed` are the keys of snapshots from which this build was forked, rewound or restored.
    """

    account_id: str = ""
    project_id: str = ""
    ended: bool = False
    saved: list[tuple[str, str]] = field(default_factory=list)  # reason and key, in the order of the log
    borrowed: set[str] = field(default_factory=set)

    def kept(self, rules: RetentionRules) -> set[str]:
        """Return the keys of the snapshots to keep.

        A build that has not ended keeps all its snapshots and the borrowed ones. An ended build keeps its newest ones
        and that of its completion.
        """
        keys = [key for _, key in self.saved]
        if not self.ended:
            return {*keys, *self.borrowed}
        last = rules.of(self.account_id)
        ends = {key for reason, key in self.saved if reason == "completion"}
        return {*(keys[-last:] if last else ()), *ends}


def keys_of(events: Iterable[RecordedEvent]) -> BuildSnapshotKeys:
    """Return the snapshot keys in the events of one build."""
    found = BuildSnapshotKeys()
    for event in events:
        match event.data:
            case BuildAccepted() as fact:
                found.account_id, found.project_id = fact.account_id, fact.project_id
            case SnapshotSaved() as fact:
                found.saved.append((fact.reason, fact.key))
            case BuildForked() | BuildRewound() as fact if fact.snapshot_key is not None:
                found.borrowed.add(fact.snapshot_key)
            case SandboxRestored() as fact:
                found.borrowed.add(fact.from_snapshot)
            case _:
                found.ended = found.ended or event.data.terminal
    return found


def keep(builds: Mapping[str, BuildSnapshotKeys], rules: RetentionRules) -> Callable[[str], bool]:
    """Return a function that says whether to keep the manifest with a key.

    The function says yes for all manifests of builds that have not ended, and of builds that are not in `builds`.
    """
    kept = set[str]().union(*(build.kept(rules) for build in builds.values()))

    def decide(key: str) -> bool:
        build = builds.get(key.split("/")[-2])
        return build is None or not build.ended or key in kept

    return decide
