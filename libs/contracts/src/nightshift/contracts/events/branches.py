"""The orchestrator's facts about builds that go back to the end of a turn: as a fork, or in the same build."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from nightshift.contracts.events.build_steps import BuildFact
from nightshift.contracts.model import Count, Digest, Id, Pending, PendingKind, SealedObject

#: The key of a snapshot in the object store.
SnapshotKey = Annotated[str, Field(max_length=1024)]


class BuildForked(BuildFact, type="build.forked"):
    """The build starts as a copy of `base_build_id` as it was at its event `at_version`, the end of `at_turn`.

    `conversation` holds what was said up to there, so that the fork can be folded without the other build's log.
    `snapshot_key` names the snapshot with the files of that moment; it is null when there were none.
    """

    base_build_id: Id
    at_version: Count
    at_turn: Count
    conversation: SealedObject | None = None
    tool_calls: Count = 0
    wrote: bool = False
    snapshot_key: SnapshotKey | None = None
    tree_digest: Digest | None = None


class BuildRewound(BuildFact, type="build.rewound"):
    """The build goes on from the end of `to_turn`, its event `to_version`. What came after it stays in the log.

    `conversation`, `snapshot_key` and `tree_digest` are those of that moment, as in `build.forked`. Turns keep counting
    from the newest one, because the id of each tool call is used once.
    """

    to_turn: Count
    to_version: Count
    conversation: SealedObject | None = None
    snapshot_key: SnapshotKey | None = None
    tree_digest: Digest | None = None

    def pending(self, subject: str) -> Sequence[Pending]:
        # The sandbox holds the files of the abandoned branch. The sweeper ends it; nothing is saved from it any more.
        return (
            Pending(PendingKind.SANDBOX, subject, opens=False),
            Pending(PendingKind.SNAPSHOT, f"{subject}/checkpoint", opens=False),
            Pending(PendingKind.SNAPSHOT, f"{subject}/pre_sleep", opens=False),
        )
