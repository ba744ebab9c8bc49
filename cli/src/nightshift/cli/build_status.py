"""The status of a build, folded from the events of its stream: the source of `watch`, `wait` and `builds`. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from nightshift.cli.questions import Questions, open_questions, person_wait
from nightshift.cli.text import short, text_of
from nightshift.cli.waits import Owed, Wait, model_wait, overslept, sleep_wait
from nightshift.contracts.events.budget import BudgetDenied, BudgetGranted, WakeRequested
from nightshift.contracts.events.build import (
    BudgetRequested,
    BuildAccepted,
    BuildCancelled,
    BuildFailed,
    BuildPhaseChanged,
    BuildReady,
    BuildResumed,
    BuildStalled,
    BuildWaiting,
    BuildWoken,
    CheckpointSaved,
    ModelCallFailed,
    ModelCallResponded,
    Phase,
    SleepRequested,
    ToolCallRequested,
)
from nightshift.contracts.events.sandbox import (
    PreviewOpened,
    SandboxClosed,
    SandboxLost,
    SandboxOpened,
    SandboxStalled,
    ToolCallCompleted,
)
from nightshift.contracts.events.snapshot import SnapshotFailed, SnapshotSaved
from nightshift.contracts.model import Event, Owner
from nightshift.eventlog.port import RecordedEvent


@dataclass(frozen=True, slots=True)
class BuildStatus:
    """The status of a build after an event. Money is in microdollars; `asleep_until` is set only during a sleep."""

    build_id: str
    project_id: str = ""
    account_id: str = ""
    brief: str = ""
    model: str = ""
    phase: Phase = Phase.QUEUED
    state: str = "running"  # running, sleeping, waiting, ready, failed, cancelled
    began_at: datetime | None = None
    last_at: datetime | None = None
    version: int = 0
    turns: int = 0
    tool_calls: int = 0
    checkpoints: int = 0
    snapshots: int = 0
    sleeps: int = 0
    cost: int = 0
    left_today: int | None = None
    asleep_until: datetime | None = None
    sandbox_id: str | None = None
    preview_url: str | None = None
    build_version: int | None = None
    completed_snapshot: bool = False  # the snapshot after the end is saved, or was given up
    reason: str | None = None  # why the build failed or was cancelled
    sandbox_open: bool = False
    has_checks: bool = False  # its request names the checks; otherwise the orchestrator detects its tests
    asked: Mapping[str, ToolCallRequested] = field(default_factory=dict)
    blocked: Wait | None = None  # what the last events say that the build waits for
    unanswered: Owed | None = None
    questions: Questions = field(default_factory=dict)  # that wait for a person

    @property
    def ended(self) -> bool:
        """True when the build is ready, failed or cancelled."""
        return self.state in ("ready", "failed", "cancelled")

    def waiting(self, now: datetime) -> Wait | None:
        """Returns why the build makes no progress at `now`. None while it does, and after its end."""
        if self.ended:
            return None
        if self.blocked is None and self.unanswered is not None:
            return self.unanswered.late(now)
        if self.asleep_until is not None and now > self.asleep_until:
            return overslept(self.account_id, self.asleep_until, now) or self.blocked
        return self.blocked

    def as_json(self, now: datetime) -> dict[str, Any]:
        """The status as `--json` prints it."""
        waiting = self.waiting(now)
        return {
            "build_id": self.build_id,
            "project_id": self.project_id,
            "account_id": self.account_id,
            "status": self.state,
            "phase": self.phase.value,
            "model": self.model,
            "turns": self.turns,
            "tool_calls": self.tool_calls,
            "checkpoints": self.checkpoints,
            "snapshots": self.snapshots,
            "sleeps": self.sleeps,
            "cost_microusd": self.cost,
            "left_today_microusd": self.left_today,
            "asleep_until": self.asleep_until,
            "sandbox_id": self.sandbox_id,
            "preview_url": self.preview_url,
            "build_version": self.build_version,
            "reason": self.reason,
            "waiting": None if waiting is None else waiting.as_json(),
            "questions": [one.as_json() for one in self.questions.values()],
            "events": self.version,
            "began_at": self.began_at,
            "last_at": self.last_at,
        }


def evolve(status: BuildStatus, event: RecordedEvent) -> BuildStatus:
    """Returns the status after one more event of the build's stream."""
    status = replace(
        status,
        version=event.version,
        last_at=event.recorded_at,
        began_at=status.began_at or event.recorded_at,
        blocked=_blocked(status, event),
        unanswered=_unanswered(status, event),
        questions=open_questions(status.questions, status.build_id, event),
    )
    return _moved(_counted(status, event.data), event.data)


def _blocked(status: BuildStatus, event: RecordedEvent) -> Wait | None:
    """Returns what the build waits for after this event. A later event of the service that waits ends the wait."""
    at = event.recorded_at
    match event.data:
        case BuildWaiting() as fact:
            return person_wait(fact, status.questions, status.build_id, at)
        case fact if status.state == "waiting" and not (isinstance(fact, BuildResumed) or fact.terminal):
            return status.blocked
        case ModelCallFailed() as fact:
            return model_wait(fact, status.build_id, at)
        case SleepRequested() as fact:
            return sleep_wait(fact, status.build_id, at, status.blocked)
        case BuildStalled() as fact:
            detail = short(text_of(fact.detail), 100)
            return Wait(f"the orchestrator cannot go on: {detail}", fact.action, at, fact.owner)
        case SandboxStalled() as fact:
            detail = short(text_of(fact.detail), 100)
            why = fact.reason if fact.attempt < 2 else f"{fact.reason}, {fact.attempt} failures"
            return Wait(f"its sandbox is not ready ({why}): {detail}", fact.action, fact.since, fact.owner)
        case WakeRequested():
            return None
        case fact if status.blocked is not None and fact.owner is status.blocked.owner:
            return None
        case _:
            return status.blocked


def _unanswered(status: BuildStatus, event: RecordedEvent) -> Owed | None:
    """Returns the step that a service owes the build after this event."""
    at = event.recorded_at
    match event.data:
        case BuildAccepted():
            return Owed("no orchestrator has started it", "orchestrator", at)
        case BudgetRequested():
            return Owed("its request for money is not answered", "budget service", at)
        case WakeRequested():
            return Owed("no orchestrator has woken it", "orchestrator", at)
        case ToolCallRequested() if not status.sandbox_open:
            return Owed("its tool calls have no sandbox", "sandbox-gateway", at)
        case fact if fact.owner in (Owner.ORCHESTRATOR, Owner.SANDBOX_GATEWAY):
            return None
        case BudgetGranted() | BudgetDenied():
            return None
        case _:
            return status.unanswered


def _counted(status: BuildStatus, fact: Event) -> BuildStatus:
    """Returns the status with this event counted: turns, calls, cost, snapshots."""
    match fact:
        case ModelCallResponded():
            return replace(status, turns=max(status.turns, fact.turn), cost=status.cost + fact.cost_microusd)
        case ModelCallFailed():
            return replace(status, cost=status.cost + fact.cost_microusd)
        case ToolCallRequested():
            asked = {**status.asked, fact.call_id: fact}
            return replace(status, tool_calls=status.tool_calls + 1, asked=asked)
        case ToolCallCompleted():
            asked = {key: call for key, call in status.asked.items() if key != fact.call_id}
            return replace(status, asked=asked)
        case CheckpointSaved():
            return replace(status, checkpoints=status.checkpoints + 1)
        case SnapshotSaved():
            completed = status.completed_snapshot or fact.reason == "completion"
            return replace(status, snapshots=status.snapshots + 1, completed_snapshot=completed)
        case SnapshotFailed(reason="completion", final=True):
            return replace(status, completed_snapshot=True)
        case BudgetGranted() | BudgetDenied():
            return replace(status, left_today=fact.left_today_microusd)
        case _:
            return status


def _moved(status: BuildStatus, fact: Event) -> BuildStatus:
    """Returns the status after a transition: accepted, phase changed, asleep, awake, sandbox changed, ended."""
    match fact:
        case BuildAccepted():
            return replace(
                status,
                project_id=fact.project_id,
                account_id=fact.account_id,
                brief=fact.idea_brief,
                model=fact.model,
                has_checks=bool(fact.checks),
            )
        case BuildPhaseChanged():
            return replace(status, phase=fact.to_phase)
        case SleepRequested():
            return replace(status, state="sleeping", sleeps=status.sleeps + 1, asleep_until=fact.wake_at)
        case BuildWoken() | BuildResumed():
            return replace(status, state="running", asleep_until=None)
        case BuildWaiting():
            return replace(status, state="waiting", asleep_until=None)
        case SandboxOpened():
            return replace(status, sandbox_id=fact.sandbox_id, sandbox_open=True)
        case SandboxClosed() | SandboxLost():
            return replace(status, sandbox_open=False)
        case PreviewOpened():
            return replace(status, preview_url=fact.url)
        case BuildReady():
            return replace(
                status,
                state="ready",
                phase=Phase.READY,
                cost=fact.cost_microusd,
                sandbox_id=fact.sandbox_id,
                preview_url=fact.preview_url,
                build_version=fact.build_version,
            )
        case BuildFailed():
            reason = f"{fact.reason}: {short(text_of(fact.detail), 200)}"
            return replace(status, state="failed", phase=Phase.FAILED, reason=reason, asleep_until=None)
        case BuildCancelled():
            reason = short(text_of(fact.reason), 200)
            return replace(status, state="cancelled", phase=Phase.CANCELLED, reason=reason, asleep_until=None)
        case _:
            return status
