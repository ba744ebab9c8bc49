"""The state of a build, which `evolve` folds from the events.

It contains sums, so that no step must read all events.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from nightshift.contracts.events.build import (
    BuildAccepted,
    BuildCancelled,
    BuildFailed,
    BuildReady,
    Phase,
    ToolCallRequested,
    Usage,
)
from nightshift.contracts.events.proof import CriterionVerdict
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.events.snapshot import PathProblem
from nightshift.contracts.model import BlobRef
from nightshift.contracts.models import Role
from nightshift.orchestrator.domain.entries import Entries

Purpose = Literal["agent", "check", "preview", "judge", "instructions", "setup", "customer"]
#: Problems about which a person decides. When the person ends the build, this is the reason of its failure.
EscalationKind = Literal["turn_limit", "tool_call_limit", "cost_limit", "day_limit", "repetition", "unproven"]
Text = str | BlobRef
Blocks = tuple[dict[str, Any], ...] | BlobRef


class RunMode(StrEnum):
    """Whether the build runs. This is independent of the build's phase."""

    RUNNING = "running"
    SLEEPING = "sleeping"
    WAITING = "waiting"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The result of one tool call, as the agent sees it."""

    tool_use_id: str
    is_error: bool
    output: Text
    blocks: Blocks | None = None


@dataclass(frozen=True, slots=True)
class AssistantMessage:
    """One answer of the model, with its blocks unchanged."""

    turn: int
    content: Blocks


@dataclass(frozen=True, slots=True)
class ToolResults:
    """The results of all tool calls of one answer, in the order of the calls."""

    results: tuple[ToolResult, ...]


@dataclass(frozen=True, slots=True)
class UserMessage:
    """A text for the agent, from a person or from the loop itself.

    If `begins`, the text begins a new message of the user, because an earlier request has sent the content before it.
    """

    text: Text
    begins: bool = False


Entry = AssistantMessage | ToolResults | UserMessage


@dataclass(frozen=True, slots=True)
class PastWork:
    """What is kept word for word from the turns that a summary replaced.

    `outputs` pairs tool calls with the files that contain their long outputs. `answers` pairs the agent's questions
    with their answers.
    """

    files: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Conversation:
    """The conversation with the model.

    Entries are only added, until `summary` replaces the oldest entries. The last request has sent the first `sent`
    entries. `waiting` contains the messages that the next model call adds.
    """

    turn: int = 0
    attempt: int = 0
    answered: bool = True  # True: the current turn has its answer
    entries: Entries[Entry] = field(default_factory=Entries)
    waiting: tuple[Text, ...] = ()
    sent: int = 0
    limits_told: tuple[int, ...] | None = None  # the levels in the last line about what is left
    #: The most tokens that the next request can have, without the messages that the loop then adds. None: unknown.
    tokens: int | None = None
    #: The part of `tokens` that the provider has counted. The rest is estimated.
    counted: int | None = None
    checkpoint: int = 0  # the last turn that has a checkpoint
    too_long: bool = (
        False  # the provider refused the last request for its length, or had no room for the answer
    )
    summary: Text | None = None  # replaces the turns before the entries
    condensed_at: int | None = None  # the turn at which the summary was written
    past: PastWork = PastWork()
    said: tuple[Text, ...] = ()  # what people have said since the build began


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A model call that has started and has not ended. Its price depends on `model`."""

    turn: int
    attempt: int
    lease_id: UUID
    reserve_microusd: int
    event_id: UUID
    model: str
    role: Role = "builder"


@dataclass(frozen=True, slots=True)
class PreviewTarget:
    """The port and the path of an `open_port` call."""

    port: int
    path: str


@dataclass(frozen=True)
class ToolCall:
    """A requested tool call. `result` is None until its result is in the log."""

    call_id: str
    index: int
    tool: str
    tool_use_id: str
    purpose: Purpose
    digest: str  # a digest of tool and input
    words: str = ""  # tool and input in words, for a person
    preview: PreviewTarget | None = None
    may_write: bool = False  # False also when an earlier call of the build has written
    result: ToolCallCompleted | None = None

    @property
    def by_agent(self) -> bool:
        """True when the agent made the call and gets its result."""
        return self.purpose in {"agent", "customer"}


@dataclass(frozen=True)
class Grant:
    """A reservation of money. `left_microusd` is the part that no started call has reserved."""

    lease_id: UUID
    left_microusd: int
    expires_at: datetime


@dataclass(frozen=True)
class Funds:
    """The money of a build, in microdollars.

    - `spent`: the sum of all costs in the log.
    - `asked`: the open request for money.
    - `needs`: the worst case that the last request named.
    - `refused_until`: the time that the last denial named.
    - `day_most`: the most that the account can pay in a day, by the last denial.
    """

    grants: tuple[Grant, ...] = ()
    asked: UUID | None = None
    refused_until: datetime | None = None
    needs: int = 0
    day_most: int | None = None
    spent: int = 0
    day: str | None = None
    day_limit: int | None = None
    # What the account had left for the day at the last grant or denial, without the grants of this build.
    day_left: int = 0
    warned_day: str | None = None


@dataclass(frozen=True, slots=True)
class RecentCall:
    """A tool call, as a digest, with its result.

    Two calls with the same digest and result are equal, whatever their turns. `line` is the most telling line of the
    output. For a failed call, `error` is that line without the parts that vary.
    """

    call: str
    result: tuple[bool, int | None, Text, str]  # is_error, exit_code, output, blocks
    turn: str = field(default="", compare=False)
    words: str = field(default="", compare=False)
    line: str = field(default="", compare=False)
    error: str = field(default="", compare=False)


@dataclass(frozen=True)
class FailureCounters:
    """Counts of what went wrong, so that no failure repeats for ever."""

    failures: int = 0  # failures of the model since the last answer or wake
    paid_failures: int = 0  # calls in a row that cost money and had no answer
    retry_at: datetime | None = None
    provider_sleeps: int = 0  # sleeps because of the provider since the last answer
    cuts: int = 0  # answers in a row that ended at the output limit
    check_rounds: int = 0  # rounds of checks that failed or proved nothing
    recent_calls: tuple[RecentCall, ...] = ()  # with their results, the oldest first
    warned_calls: tuple[RecentCall, ...] = ()  # the calls before the last warning about repetition
    # Reasons for which the loop has sent a message that it sends only once.
    steered: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """A question without an answer. `kind` is the kind of an escalation, or None for a question of the agent."""

    question_id: str
    kind: EscalationKind | None
    options: tuple[str, ...]
    deadline: datetime | None = None
    default: Text | None = None


@dataclass(frozen=True, slots=True)
class OpenApproval:
    """A tool call that waits for a person's approval. `call` is the request that is recorded after an approval."""

    call: ToolCallRequested
    deadline: datetime | None = None


@dataclass(frozen=True, slots=True)
class CustomerCall:
    """A call of a customer's tool that has no result.

    At `deadline` the call gets `default` as its result, or an error when `default` is None.
    """

    call_id: str
    timeout_s: int
    deadline: datetime | None
    default: str | None = None


@dataclass(frozen=True)
class Workspace:
    """The agent's sandbox. `news` contains messages about the sandbox that the agent has not received yet."""

    sandbox_id: str | None = None
    preview_port: int | None = None
    preview_url: str | None = None  # as the sandbox gateway reported it
    preview_path: str | None = None  # the path that the agent opened on that port
    news: tuple[str, ...] = ()
    instructions: str = ""  # AGENTS.md and the heads of skills, as they were last read
    instructions_new: bool = False  # True: the agent does not know them yet
    # Paths of which the agent was told that snapshots do not contain them.
    unsaved: frozenset[str] = frozenset()
    skipped: tuple[PathProblem, ...] = ()  # what the newest snapshot does not contain
    preparing: str | None = None  # the id of the call that prepares the workspace
    not_prepared: Text | None = None  # why the workspace could not be prepared
    # True: the sandbox of the last round of checks is gone, and so is everything that ran in it.
    replaced: bool = False


@dataclass(frozen=True)
class Judging:
    """A round of judging: the judge's conversation, the tool calls of its last answer, and the round's cost.

    `verdicts` is None until the verdicts have ended the round.
    """

    conversation: Conversation = Conversation()
    tool_calls: tuple[ToolCall, ...] = ()
    calls_made: int = 0
    answers: int = 0
    usage: Usage = field(default_factory=Usage)
    cost: int = 0
    verdicts: tuple[CriterionVerdict, ...] | None = None


@dataclass(frozen=True)
class Judgement:
    """What the judge has found in all rounds of judging. `verdicts` are those of the newest round.

    `rounds_in_row` counts the rounds since a person last answered an escalation about unmet criteria. `accepted` is
    True when a person has accepted the build although criteria are not met.
    """

    rounds: int = 0
    rounds_in_row: int = 0
    verdicts: tuple[CriterionVerdict, ...] = ()
    accepted: bool = False


End = BuildReady | BuildFailed | BuildCancelled


@dataclass(frozen=True)
class BuildState:
    """A build at one version of its stream.

    `cause` is the id of the newest event after which the loop of the agent may take a step.
    """

    version: int = 0
    cause: UUID | None = None
    accepted: BuildAccepted | None = None
    phase: Phase = Phase.QUEUED
    mode: RunMode = RunMode.RUNNING
    wake_reason: Literal["refresh", "top_up", "person", "provider"] | None = None
    conversation: Conversation = Conversation()
    call: OpenCall | None = None
    side_calls: int = 0  # model calls of roles other than the builder since the turn began
    tool_calls: tuple[ToolCall, ...] = ()
    tool_calls_made: int = 0
    wrote: bool = False  # a call that can write files has succeeded, and no later snapshot was empty
    wrote_at: int = 0  # the version of the first such result
    waited: bool = False  # for a person or a long call, so that the provider's short cache was gone
    funds: Funds = Funds()
    counters: FailureCounters = FailureCounters()
    workspace: Workspace = Workspace()
    judging: Judging | None = None  # set from the first call of a round to the end of the checks
    judgement: Judgement = Judgement()
    questions: tuple[OpenQuestion, ...] = ()
    approvals: tuple[OpenApproval, ...] = ()
    approved_calls: tuple[ToolCallRequested, ...] = ()  # approved during a pause, and requested when it ends
    customer_calls: tuple[CustomerCall, ...] = ()
    waits_for: str | None = None  # the reason of the wait in the mode WAITING
    waits_on: str | None = None  # the id of the question or call that `build.waiting` named
    waits_until: datetime | None = None
    end: End | None = None

    @property
    def request(self) -> BuildAccepted:
        """The accepted request. Raises ValueError when no request is accepted."""
        if self.accepted is None:
            raise ValueError("the build is not accepted yet")
        return self.accepted

    @property
    def open_outside(self) -> frozenset[str]:
        """The ids of the questions and calls that a person or a customer's consumer must answer."""
        return frozenset(
            (
                *(one.question_id for one in self.questions),
                *(one.call.call_id for one in self.approvals),
                *(one.call_id for one in self.customer_calls),
            )
        )


INITIAL = BuildState()
