"""The sandbox-gateway's facts: the results of tool calls, and the lifecycle of sandboxes."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from nightshift.contracts.events.snapshot import PathProblems
from nightshift.contracts.model import (
    SEALED,
    CallId,
    Count,
    Digest,
    Event,
    Milliseconds,
    Owner,
    Pending,
    PendingKind,
    SealedBlocks,
    SealedPath,
    SealedText,
    Word,
)

SandboxId = Annotated[str, Field(min_length=1, max_length=255)]


class _SandboxFact(Event):
    owner: ClassVar[Owner] = Owner.SANDBOX_GATEWAY
    after_close: ClassVar[bool] = True


def _closed(subject: str) -> Sequence[Pending]:
    """Return the changes that close the pending rows of a sandbox and of its snapshots, because no files are left to
    save.
    """
    snapshots = (f"{subject}/{reason}" for reason in ("checkpoint", "completion", "pre_sleep"))
    return (
        Pending(PendingKind.SANDBOX, subject, opens=False),
        *(Pending(PendingKind.SNAPSHOT, key, opens=False) for key in snapshots),
    )


class SandboxOpened(_SandboxFact, type="sandbox.opened"):
    """A sandbox of the build is running. `generation` numbers the sandboxes of the build from 0."""

    sandbox_id: SandboxId
    driver: Literal["local", "e2b"]
    generation: Count

    def pending(self, subject: str) -> Sequence[Pending]:
        return (Pending(PendingKind.SANDBOX, subject, opens=True),)


class SandboxRestored(_SandboxFact, type="sandbox.restored"):
    """The files of the snapshot `from_snapshot` are in the sandbox. `lost` names files that could not be restored.

    `healed` counts files that were different at first and were written again. If there are many lost files, `lost`
    names only the first ones, and `lost_count` counts all. `differs` gives the reasons, also for files with the right
    content but another mode or modification time.
    """

    sandbox_id: SandboxId
    from_snapshot: Annotated[str, Field(max_length=1024)]
    tree_digest: Digest
    files: Count
    healed: Count
    lost: tuple[SealedPath, ...] = ()
    lost_count: Count | None = None
    differs: PathProblems | None = None


class NetworkUse(BaseModel):
    """The traffic with one host, in bytes.

    `refused` counts refused connections; `reason` is why the last one was refused.
    """

    model_config = ConfigDict(frozen=True)

    host: Annotated[str, Field(max_length=253), SEALED]
    connections: Count = 0
    sent: Count = 0
    received: Count = 0
    refused: Count = 0
    reason: Annotated[str, Field(max_length=1000), SEALED] | None = None


class ToolCallCompleted(_SandboxFact, type="tool_call.completed"):
    """The only result of a tool call. The agent receives `blocks` when they are present, otherwise `output`.

    `network` is the sandbox's traffic since the previous call, including background commands. It is absent when there
    was no traffic, and always at E2B.
    """

    call_id: CallId
    is_error: bool
    error_kind: (
        Literal[
            "exit", "timeout", "bad_input", "unknown_tool", "sandbox_lost", "cancelled", "refused", "tool"
        ]
        | None
    ) = None
    output: SealedText
    blocks: SealedBlocks | None = None
    exit_code: int | None = None
    duration_ms: Milliseconds
    truncated: bool = False
    attempt: Count = 1
    network: tuple[NetworkUse, ...] | None = None

    def pending(self, subject: str) -> Sequence[Pending]:
        return (Pending(PendingKind.TOOL_CALL, self.call_id, opens=False),)


class SandboxPaused(_SandboxFact, type="sandbox.paused"):
    """The provider paused the sandbox with all its state, because no snapshot could be saved."""

    sandbox_id: SandboxId
    reason: Word


class SandboxLost(_SandboxFact, type="sandbox.lost"):
    """The provider no longer has the sandbox. The newest snapshot is restored into a new one."""

    sandbox_id: SandboxId
    detail: SealedText

    def pending(self, subject: str) -> Sequence[Pending]:
        return _closed(subject)


class SandboxClosed(_SandboxFact, type="sandbox.closed"):
    """The sandbox was closed. From now on it costs nothing."""

    sandbox_id: SandboxId
    reason: Word

    def pending(self, subject: str) -> Sequence[Pending]:
        return _closed(subject)


class SandboxStalled(_SandboxFact, type="sandbox.stalled"):
    """The build waits for its sandbox; `action` says what a person can do.

    The sandbox gateway keeps trying. It appends this event within 10 seconds of the first failure, and again only when
    the reason changes. Any later event of the sandbox gateway means that the build continues. `attempt` counts the
    failures so far, 0 while the provider has not answered at all. `since` is the time of the first failure.
    """

    reason: Literal[
        "slow",  # the provider, the restore or the sandbox has not answered yet
        "unavailable",  # the provider or the sandbox does not answer
        "refused",  # the provider refuses it: a wrong key, an unknown template, a limit of the plan
        "restore_refused",  # the snapshot cannot be restored into the sandbox
        "dependency",  # another server that the gateway needs, such as the object store, does not answer
        "fault",  # an error in the gateway itself
    ]
    detail: SealedText
    action: Annotated[str, Field(max_length=1000)]
    attempt: Count
    since: AwareDatetime


class PreviewOpened(_SandboxFact, type="preview.opened"):
    """A server in the sandbox can be reached from outside at `url`."""

    sandbox_id: SandboxId
    port: Annotated[int, Field(ge=1, le=65_535)]
    url: Annotated[str, Field(max_length=2048), SEALED]


class SourceDelivered(_SandboxFact, type="source.delivered"):
    """The work of a ready build that had a `source`, as git commits: one for each turn that changed files.

    `pushed` says whether the repository has `branch`. Otherwise `bundle` is the object store key of a git bundle, or
    null when nothing was committed or the bundle failed. `detail` says why it was not pushed.
    """

    branch: Annotated[str, Field(max_length=255)]
    commit: Annotated[str, Field(max_length=64)] | None = None
    commits: Count
    pushed: bool
    bundle: Annotated[str, Field(max_length=1024)] | None = None
    detail: Annotated[str, Field(max_length=2000), SEALED] | None = None


SandboxEvent = (
    SandboxOpened
    | SandboxRestored
    | ToolCallCompleted
    | SandboxPaused
    | SandboxLost
    | SandboxClosed
    | SandboxStalled
    | PreviewOpened
    | SourceDelivered
)
