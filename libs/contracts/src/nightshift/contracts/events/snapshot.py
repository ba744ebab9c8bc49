"""The snapshotter's facts: which snapshots of a build's workspace are in the object store, and under which keys."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from nightshift.contracts.model import (
    SEALED,
    Count,
    Digest,
    Event,
    Owner,
    Pending,
    PendingKind,
    SealedPath,
    SealedText,
)

SnapshotReason = Literal["checkpoint", "pre_sleep", "completion"]


class PathProblem(BaseModel):
    """A path of the workspace that could not be saved or restored as it was, with the reason."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    path: SealedPath
    reason: Annotated[str, Field(max_length=200)]


#: Path problems. When there are many, an event names only the first of them.
PathProblems = Annotated[tuple[PathProblem, ...], SEALED]


class _SnapshotFact(Event):
    owner: ClassVar[Owner] = Owner.SNAPSHOTTER
    after_close: ClassVar[bool] = True


class SnapshotSaved(_SnapshotFact, type="snapshot.saved"):
    """The workspace at stream version `at_version` is in the object store; `key` names its manifest.

    The snapshot lacks the paths in `skipped` and everything below them; `skipped_count` counts all of them.
    `consistency` is `exact` for the files as they were at `at_version`. It is `late` when a tool call may have changed
    them since, and `torn` when the files in `torn` changed while they were read.
    """

    reason: SnapshotReason
    at_version: Count
    tree_digest: Digest
    files: Count
    bytes: Count
    uploaded_bytes: Count
    key: Annotated[str, Field(max_length=1024)]
    skipped: PathProblems | None = None
    skipped_count: Count | None = None
    consistency: Literal["exact", "late", "torn"] | None = None
    torn: tuple[SealedPath, ...] | None = None

    def pending(self, subject: str) -> Sequence[Pending]:
        # A later snapshot also covers an earlier checkpoint. After a sleep there is no sandbox from which that could
        # still be saved.
        covered: set[SnapshotReason] = {self.reason, "checkpoint"}
        return tuple(
            Pending(PendingKind.SNAPSHOT, f"{subject}/{reason}", opens=False, through_version=self.at_version)
            for reason in sorted(covered)
        )


class SnapshotFailed(_SnapshotFact, type="snapshot.failed"):
    """An attempt to save a snapshot failed. When `final` is true, the snapshotter does not try again."""

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
