"""The status of a build, folded from the events of its stream. `watch`, `wait` and `builds` show it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any

from nightshift.cli.questions import Questions, open_questions, person_wait
from nightshift.cli.text import short, text_of
from nightshift.cli.waits import Owed, Wait, model_wait, overslept, sleep_wait
from nightshift.contracts.events import budget, build, sandbox, snapshot
from nightshift.contracts.events.proof import Proof
from nightshift.contracts.events.requests import idea_text
from nightshift.contracts.model import Event, Owner
from nightshift.eventlog.port import RecordedEvent


@dataclass(frozen=True, slots=True)
class BuildStatus:
    """The status of a build after an event. Money is in microdollars."""

    build_id: str
    project_id: str = ""
    account_id: str = ""
    brief: str = ""
    model: str = ""
    phase: build.Phase = build.Phase.QUEUED
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
    next_call: int = 0  # the highest cost of its next model call, from its last request for money
    asleep_until: datetime | None = None
    sandbox_id: str | None = None
    preview_url: str | None = None
    build_version: int | None = None
    proof: Proof | None = None
    criteria_met: tuple[int, int] | None = None  # (met, all) criteria in the last round of judging
    judged: bool = False  # a judge is inspecting the finished work
    completed_snapshot: bool = False  # the snapshot after the end was saved or given up
    reason: str | None = None  # why the build failed or was cancelled
    sandbox_open: bool = False
    has_checks: bool = False  # the request names checks; otherwise the orchestrator looks for tests
    asked: Mapping[str, build.ToolCallRequested] = field(default_factory=dict)
    blocked: Wait | None = None  # what the build waits for, as far as its events say
    unanswered: Owed | None = None
    # Questions, escalations and approvals that wait for a person.
    questions: Questions = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """True when the build is ready, failed or cancelled."""
        return self.state in ("ready", "failed", "cancelled")

    def waiting(self, now: datetime) -> Wait | None:
        """Returns why the build makes no progress at `now`. Returns None while it makes progress, and when it has
        ended.
        """
        if self.ended:
            return None
        if self.blocked is None and self.unanswered is not None:
            return self.unanswered.late(now)
        if self.asleep_until is not None and now > self.asleep_until:
            return overslept(self.account_id, self.asleep_until, now) or self.blocked
        return self.blocked

    def as_json(self, now: datetime) -> dict[str, Any]:
        """Returns the status in the form of `--json`."""
        waiting = self.waiting(now)
        names = (one.name for one in fields(self) if one.name not in _NOT_SHOWN)
        shown = {_JSON_NAMES.get(name, name): getattr(self, name) for name in names}
        proof = None if self.proof is None else self.proof.model_dump(mode="json")
        shown["questions"] = [one.as_json() for one in self.questions.values()]
        return {**shown, "proof": proof, "waiting": None if waiting is None else waiting.as_json()}


#: The fields that `--json` leaves out.
_NOT_SHOWN = {
    "brief",
    "next_call",
    "completed_snapshot",
    "sandbox_open",
    "has_checks",
    "judged",
    "asked",
    "blocked",
    "unanswered",
}
_JSON_NAMES = {
    "state": "status",
    "version": "events",
    "cost": "cost_microusd",
    "left_today": "left_today_microusd",
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
    """Returns the Wait of the build after this event, or None when the build waits for nothing.

    A wait ends with the next event of the service that caused the wait.
    """
    at = event.recorded_at
    match event.data:
        case build.BuildWaiting() as fact:
            return person_wait(fact, status.questions, status.asked, status.build_id, at)
        case fact if status.state == "waiting" and not (
            isinstance(fact, build.BuildResumed) or fact.terminal
        ):
            return status.blocked
        case build.ModelCallFailed() as fact:
            return model_wait(fact, status.build_id, at)
        case build.SleepRequested() as fact:
            return sleep_wait(fact, status.build_id, at, status.blocked)
        case build.BuildStalled() as fact:
            detail = short(text_of(fact.detail), 100)
            return Wait(f"the orchestrator cannot go on: {detail}", fact.action, at, fact.owner)
        case sandbox.SandboxStalled() as fact:
            detail = short(text_of(fact.detail), 100)
            why = fact.reason if fact.attempt < 2 else f"{fact.reason}, {fact.attempt} failures"
            return Wait(f"its sandbox is not ready ({why}): {detail}", fact.action, fact.since, fact.owner)
        case budget.WakeRequested():
            return None
        case fact if status.blocked is not None and fact.owner is status.blocked.owner:
            return None
        case _:
            return status.blocked


_OWED: dict[type[Event], tuple[str, str]] = {
    build.BuildAccepted: ("no orchestrator has started it", "orchestrator"),
    build.BudgetRequested: ("its request for money is not answered", "budget service"),
    budget.WakeRequested: ("no orchestrator has woken it", "orchestrator"),
    build.ToolCallRequested: ("its tool calls have no sandbox", "sandbox-gateway"),
}


def _unanswered(status: BuildStatus, event: RecordedEvent) -> Owed | None:
    """Returns the step that a service must take for the build after this event, such as answering a request for money.

    Returns None when no such step is missing.
    """
    fact = event.data
    if isinstance(fact, build.ToolCallRequested) and (status.sandbox_open or fact.purpose == "customer"):
        return None
    if type(fact) in _OWED:
        return Owed(*_OWED[type(fact)], event.recorded_at)
    if fact.owner in (Owner.ORCHESTRATOR, Owner.SANDBOX_GATEWAY):
        return None
    return None if isinstance(fact, budget.BudgetGranted | budget.BudgetDenied) else status.unanswered


def _counted(status: BuildStatus, fact: Event) -> BuildStatus:
    """Returns the status with this event added to the counts of turns, calls, cost and snapshots."""
    match fact:
        case build.ModelCallResponded():
            return replace(status, turns=max(status.turns, fact.turn), cost=status.cost + fact.cost_microusd)
        case build.ModelCallFailed():
            return replace(status, cost=status.cost + fact.cost_microusd)
        case build.ModelCallStarted():
            return replace(status, judged=fact.role == "judge")
        case build.CriteriaJudged():
            met = sum(one.met for one in fact.verdicts)
            return replace(status, judged=False, criteria_met=(met, len(fact.verdicts)))
        case build.ToolCallRequested():
            asked = {**status.asked, fact.call_id: fact}
            return replace(status, tool_calls=status.tool_calls + 1, asked=asked)
        case sandbox.ToolCallCompleted() | build.ToolCallAnswered():
            asked = {key: call for key, call in status.asked.items() if key != fact.call_id}
            return replace(status, asked=asked)
        case build.CheckpointSaved():
            return replace(status, checkpoints=status.checkpoints + 1)
        case snapshot.SnapshotSaved():
            completed = status.completed_snapshot or fact.reason == "completion"
            return replace(status, snapshots=status.snapshots + 1, completed_snapshot=completed)
        case snapshot.SnapshotFailed(reason="completion", final=True):
            return replace(status, completed_snapshot=True)
        case build.BudgetRequested():
            return replace(status, next_call=fact.minimum_microusd)
        case budget.BudgetGranted() | budget.BudgetDenied():
            return replace(status, left_today=fact.left_today_microusd)
        case budget.BudgetSettled():
            return replace(status, left_today=None)  # more is left now; the event does not say how much
        case _:
            return status


def _moved(status: BuildStatus, fact: Event) -> BuildStatus:
    """Returns the status after a change of state: accepted, phase, sleep, wake, sandbox, end."""
    match fact:
        case build.BuildAccepted():
            status = replace(status, project_id=fact.project_id, account_id=fact.account_id, model=fact.model)
            return replace(status, brief=idea_text(fact.idea_brief), has_checks=bool(fact.checks))
        case build.BuildPhaseChanged():
            return replace(status, phase=fact.to_phase)
        case build.SleepRequested():
            return replace(status, state="sleeping", sleeps=status.sleeps + 1, asleep_until=fact.wake_at)
        case build.BuildWoken() | build.BuildResumed():
            return replace(status, state="running", asleep_until=None)
        case build.BuildWaiting():
            return replace(status, state="waiting", asleep_until=None)
        case sandbox.SandboxOpened():
            return replace(status, sandbox_id=fact.sandbox_id, sandbox_open=True)
        case sandbox.SandboxClosed() | sandbox.SandboxLost():
            return replace(status, sandbox_open=False)
        case sandbox.PreviewOpened():
            return replace(status, preview_url=fact.url)
        case build.BuildReady():
            status = replace(status, state="ready", phase=build.Phase.READY, build_version=fact.build_version)
            status = replace(status, sandbox_id=fact.sandbox_id, preview_url=fact.preview_url)
            return replace(status, cost=fact.cost_microusd, proof=fact.proof)
        case build.BuildFailed():
            return _ended(status, build.Phase.FAILED, f"{fact.reason}: {short(text_of(fact.detail), 200)}")
        case build.BuildCancelled():
            return _ended(status, build.Phase.CANCELLED, short(text_of(fact.reason), 200))
        case _:
            return status


def _ended(status: BuildStatus, phase: build.Phase, reason: str) -> BuildStatus:
    return replace(status, state=phase.value, phase=phase, reason=reason, asleep_until=None)
