"""The orchestrator's facts about builds that return to the end of an earlier turn: as a fork, or within the same
build.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from nightshift.contracts.events.build_steps import BuildFact
from nightshift.contracts.model import Count, Digest, Id, Pending, PendingKind, SealedObject

#: The key of a snapshot in the object store.
SnapshotKey = Annotated[str, Field(max_length=1024)]


class BuildForked(BuildFact, type="build.forked"):
    """The build starts as a copy of the build `base_build_id` at the end of turn `at_turn`, its event `at_version`.

    `conversation` is the conversation up to that turn, so that nobody has to read the other build's events.
    `snapshot_key` names the snapshot with the files of that turn; it is null when there was none.
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
    """The build continues from the end of turn `to_turn`, its event `to_version`. Later events stay in the log.

    `conversation`, `snapshot_key` and `tree_digest` are those of that turn, as in `build.forked`. Each tool call id is
    used only once, so the next turn gets the number after the highest one so far.
    """

    to_turn: Count
    to_version: Count
    conversation: SealedObject | None = None
    snapshot_key: SnapshotKey | None = None
    tree_digest: Digest | None = None

    def pending(self, subject: str) -> Sequence[Pending]:
        # The sandbox holds the files of the abandoned branch. The gateway ends it without saving anything from it.
        return (
            Pending(PendingKind.SANDBOX, subject, opens=False),
            Pending(PendingKind.SNAPSHOT, f"{subject}/checkpoint", opens=False),
            Pending(PendingKind.SNAPSHOT, f"{subject}/pre_sleep", opens=False),
        )
