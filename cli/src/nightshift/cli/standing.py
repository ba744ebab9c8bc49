"""Where a build stands after each event of its stream: what every command that shows a build shows. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from nightshift.contracts.events.budget import BudgetDenied, BudgetGranted
from nightshift.contracts.events.build import (
    BuildAccepted,
    BuildCancelled,
    BuildFailed,
    BuildPhaseChanged,
    BuildReady,
    BuildWoken,
    CheckpointSaved,
    ModelCallFailed,
    ModelCallResponded,
    Phase,
    SleepRequested,
    ToolCallRequested,
)
from nightshift.contracts.events.sandbox import PreviewOpened, SandboxOpened, ToolCallCompleted
from nightshift.contracts.events.snapshot import SnapshotFailed, SnapshotSaved
from nightshift.contracts.model import BlobRef
from nightshift.eventlog.port import RecordedEvent

_WIDTH = 88
#: Of what an agent says, this much is shown.
_SAID = 480


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a build stands. Money in microdollars; `asleep_until` only while it sleeps."""

    build_id: str
    project_id: str = ""
    account_id: str = ""
    brief: str = ""
    model: str = ""
    phase: Phase = Phase.QUEUED
    status: str = "running"  # running, sleeping, ready, failed, cancelled
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
    completed_snapshot: bool = False  # the last snapshot is there, or was given up
    reason: str | None = None
    asked: Mapping[str, ToolCallRequested] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Nothing more will happen to the build itself."""
        return self.status in ("ready", "failed", "cancelled")

    def as_json(self) -> dict[str, Any]:
        """The standing as `--json` tells it."""
        return {
            "build_id": self.build_id,
            "project_id": self.project_id,
            "account_id": self.account_id,
            "status": self.status,
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
            "events": self.version,
            "began_at": self.began_at,
            "last_at": self.last_at,
        }


def dollars(microdollars: int) -> str:
    """`$0.0123`; four digits, for single calls cost fractions of a cent."""
    return f"${microdollars / 1_000_000:,.4f}"


def text_of(value: str | BlobRef) -> str:
    """Text, or what stands for it where it is kept by reference."""
    return value if isinstance(value, str) else f"[{value.bytes:,} bytes, {value.ref[:19]}…]"


def short(text: str, width: int = _WIDTH) -> str:
    """The first line, cut to `width`."""
    first = text.strip().partition("\n")[0]
    return first if len(first) <= width else first[: width - 1] + "…"


def said(text: str) -> str:
    """What somebody said, in one line: its first paragraphs, as far as they are shown."""
    flat = " ".join(text.split())
    return flat if len(flat) <= _SAID else flat[: _SAID - 1] + "…"


def advance(standing: Standing, event: RecordedEvent) -> Standing:
    """The standing after one more event of the build's stream."""
    now = replace(
        standing,
        version=event.version,
        last_at=event.recorded_at,
        began_at=standing.began_at or event.recorded_at,
    )
    match event.data:
        case BuildAccepted() as fact:
            return replace(
                now,
                project_id=fact.project_id,
                account_id=fact.account_id,
                brief=fact.idea_brief,
                model=fact.model,
            )
        case BuildPhaseChanged() as fact:
            return replace(now, phase=fact.to_phase)
        case ModelCallResponded() as fact:
            return replace(now, turns=max(now.turns, fact.turn), cost=now.cost + fact.cost_microusd)
        case ModelCallFailed() as fact:
            return replace(now, cost=now.cost + fact.cost_microusd)
        case ToolCallRequested() as fact:
            return replace(now, tool_calls=now.tool_calls + 1, asked={**now.asked, fact.call_id: fact})
        case ToolCallCompleted() as fact:
            return replace(now, asked={key: call for key, call in now.asked.items() if key != fact.call_id})
        case CheckpointSaved():
            return replace(now, checkpoints=now.checkpoints + 1)
        case SnapshotSaved() as fact:
            completed = now.completed_snapshot or fact.reason == "completion"
            return replace(now, snapshots=now.snapshots + 1, completed_snapshot=completed)
        case SnapshotFailed(reason="completion", final=True):
            return replace(now, completed_snapshot=True)
        case BudgetGranted() | BudgetDenied() as fact:
            return replace(now, left_today=fact.left_today_microusd)
        case SleepRequested() as fact:
            return replace(now, status="sleeping", sleeps=now.sleeps + 1, asleep_until=fact.wake_at)
        case BuildWoken():
            return replace(now, status="running", asleep_until=None)
        case SandboxOpened() as fact:
            return replace(now, sandbox_id=fact.sandbox_id)
        case PreviewOpened() as fact:
            return replace(now, preview_url=fact.url)
        case BuildReady() as fact:
            return replace(
                now,
                status="ready",
                phase=Phase.READY,
                cost=fact.cost_microusd,
                sandbox_id=fact.sandbox_id,
                preview_url=fact.preview_url,
                build_version=fact.build_version,
            )
        case BuildFailed() as fact:
            reason = f"{fact.reason}: {short(text_of(fact.detail), 200)}"
            return replace(now, status="failed", phase=Phase.FAILED, reason=reason, asleep_until=None)
        case BuildCancelled() as fact:
            reason = short(text_of(fact.reason), 200)
            return replace(now, status="cancelled", phase=Phase.CANCELLED, reason=reason, asleep_until=None)
        case _:
            return now
