"""The snapshotter's facts: which workspace of a build is in the object store, and under which key."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nightshift.contracts.model import Count, Digest, Event, Owner, Pending, PendingKind, SealedText

SnapshotReason = Literal["checkpoint", "pre_sleep", "completion"]


class _SnapshotFact(Event):
    owner: ClassVar[Owner] = Owner.SNAPSHOTTER
    after_close: ClassVar[bool] = True


class SnapshotSaved(_SnapshotFact, type="snapshot.saved"):
    """The workspace as of stream version `at_version` is stored under `key`. Its manifest was written last."""

    reason: SnapshotReason
    at_version: Count
    tree_digest: Digest
    files: Count
    bytes: Count
    uploaded_bytes: Count
    key: Annotated[str, Field(max_length=1024)]

    def pending(self, subject: str) -> Sequence[Pending]:
        # A later snapshot covers an earlier checkpoint too: after a sleep no sandbox is left to save that one from.
        covered: set[SnapshotReason] = {self.reason, "checkpoint"}
        return tuple(
            Pending(PendingKind.SNAPSHOT, f"{subject}/{reason}", opens=False, through_version=self.at_version)
            for reason in sorted(covered)
        )


class SnapshotFailed(_SnapshotFact, type="snapshot.failed"):
    """An attempt to save a snapshot failed. After a `final` one the snapshotter makes no further attempt."""

    reason: SnapshotReason
    at_version: Count
    detail: SealedText
    attempt: Count
    final: bool

    def pending(self, subject: str) -> Sequence[Pending]:
        if not self.final:
            return ()
        return (
            Pending(
                PendingKind.SNAPSHOT, f"{subject}/{self.reason}", opens=False, through_version=self.at_version
            ),
        )


SnapshotEvent = SnapshotSaved | SnapshotFailed
