"""The snapshotter's facts: which workspace of a build is in the object store, and under which key."""

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
    """A path of the workspace, and why it could not be saved or restored as it was."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    path: SealedPath
    reason: Annotated[str, Field(max_length=200)]


#: Path problems that an event names: the first of them only, when there are many.
PathProblems = Annotated[tuple[PathProblem, ...], SEALED]


class _SnapshotFact(Event):
    owner: ClassVar[Owner] = Owner.SNAPSHOTTER
    after_close: ClassVar[bool] = True


class SnapshotSaved(_SnapshotFact, type="snapshot.saved"):
    """The workspace as of stream version `at_version` is stored under `key`. Its manifest was written last.

    The snapshot does not hold the paths in `skipped`, nor what is below them. `skipped_count` counts all such paths.
    `consistency` is `exact` for the tree of `at_version`, `late` for a tree after a tool call may have written, and
    `torn` when the files in `torn` were read while they changed.
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
