"""Describes events of a build to a person, mostly in one line each. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, assert_never

from nightshift.cli.build_status import BuildStatus
from nightshift.cli.text import dollars, joined, short, text_of, visible
from nightshift.contracts.events import (
    BudgetEvent,
    BuildEvent,
    SandboxEvent,
    SnapshotEvent,
    budget,
    build,
    sandbox,
    snapshot,
)
from nightshift.contracts.events.proof import Proof
from nightshift.contracts.events.requests import idea_text
from nightshift.contracts.model import BlobRef, Event
from nightshift.eventlog.port import RecordedEvent

#: The fields of a tool's input that explain a call best; the first one present is shown.
_TELLING = ("command", "file_path", "pattern", "port", "message", "action")

#: Marks the headings in the output of the orchestrator's own test run.
_HEADING = "== "
_EXIT_HEADING = "== exit code "
_EXIT_CODE = re.compile(r"\[exit code -?\d+\]")
_NAMES_AN_ERROR = re.compile(r"[\w.]*(Error|Exception|error|fatal|FAILED)\b[^:]*: \S")


@dataclass(frozen=True, slots=True)
class Line:
    """A line for a person. `kind` is a fixed word, such as `tool` or `money`. `tone` selects the colour."""

    at: datetime
    kind: str
    text: str
    tone: str = "plain"  # plain, dim, good, bad, warn, strong


def input_in_words(call: build.ToolCallRequested) -> str:
    """Returns the input of a tool call in a few words."""
    return short(_given(call.input), 64)


def _given(given: Mapping[str, Any] | BlobRef) -> str:
    if isinstance(given, BlobRef):
        return text_of(given)
    for name in _TELLING:
        if name in given:
            return _flat(str(given[name]))
    return ", ".join(f"{name}={value}" for name, value in sorted(given.items()))


def _flat(command: str) -> str:
    """Returns a shell script in one line, without leading comments and `set` lines."""
    kept = [line.strip() for line in command.splitlines() if line.strip()]
    while len(kept) > 1 and kept[0].startswith(("set -", "#")):
        kept = kept[1:]
    return "; ".join(kept)


def lines(status: BuildStatus, event: RecordedEvent) -> Iterator[Line]:
    """Yields the lines that describe an event. `status` is the build's status before the event. Some events have no
    line.
    """
    for kind, text, tone in _parts(status, event.data):
        yield Line(event.recorded_at, kind, text, tone)


def _parts(status: BuildStatus, fact: Event) -> Iterator[tuple[str, str, str]]:
    if isinstance(fact, BuildEvent):
        yield from _build_lines(fact)
    elif isinstance(fact, SandboxEvent):
        yield from _sandbox_lines(status, fact)
    elif isinstance(fact, SnapshotEvent):
        yield from _snapshot_lines(status, fact)
    elif isinstance(fact, BudgetEvent):
        yield from _budget_lines(fact)


def _build_lines(fact: BuildEvent) -> Iterator[tuple[str, str, str]]:
    match fact:
        case build.BuildAccepted():
            yield "build", joined(idea_text(fact.idea_brief)), "strong"
        case build.BuildPhaseChanged():
            yield "phase", f"{fact.from_phase} → {fact.to_phase}", "strong"
        case build.ModelCallResponded():
            yield from _answer_lines(fact)
        case build.ModelCallFailed():
            again = "" if fact.retry_at is None else ", tried again"
            yield "model", f"{_caller(fact)}: {fact.kind}{again}: {short(text_of(fact.detail))}", "warn"
        case build.AgentSteered():
            yield "steer", f"{fact.reason}: {joined(text_of(fact.message))}", "warn"
        case build.ContextCondensed():
            form = "summary" if fact.written_by == "model" else "list"
            yield "condense", f"turns up to {fact.through_turn} are a {form} now", "dim"
        case build.CriteriaJudged():
            yield from _verdict_lines(fact)
        case build.SleepRequested():
            until = "" if fact.wake_at is None else f" until {fact.wake_at.astimezone():%H:%M:%S}"
            yield "sleep", f"asleep{until} ({fact.reason})", "warn"
        case build.BuildWoken():
            yield "wake", f"awake again ({fact.reason})", "good"
        case (
            build.QuestionAsked()
            | build.ToolCallAnswered()
            | build.ApprovalRequested()
            | build.ApprovalResolved()
            | build.EscalationRaised()
            | build.EscalationResolved()
            | build.BuildWaiting()
            | build.BuildResumed()
            | build.BuildLimitsChanged()
        ):
            yield _waiting_line(fact)
        case build.BuildReady():
            if fact.proof is not None:
                yield "proof", "; ".join(proof_in_words(fact.proof)), "good"
            text = f"version {fact.build_version}, {fact.turns} turns, {dollars(fact.cost_microusd)}"
            yield "ready", f"{text}: {fact.preview_url}", "good"
            if fact.unsaved:
                yield "save", f"not saved: {short(', '.join(one.path for one in fact.unsaved))}", "bad"
        case build.BuildFailed():
            yield "failed", f"{fact.reason}: {short(text_of(fact.detail))}", "bad"
        case build.BuildCancelled():
            yield "cancelled", short(text_of(fact.reason)), "bad"
        case build.BuildStalled():
            yield "stalled", f"{fact.reason}: {short(text_of(fact.detail))}", "bad"
        case build.ProviderBlocked():
            yield "provider", f"refuses the key for all its builds: {short(text_of(fact.detail))}", "bad"
        case build.ProviderRecovered():
            yield "provider", f"takes key {fact.key_id} again", "good"
        case build.BuildRewound():
            yield (
                "rewind",
                f"back to the end of turn {fact.to_turn}; what came after it is given up",
                "strong",
            )
        case build.BuildForked():
            yield "fork", f"from {fact.base_build_id} at turn {fact.at_turn}", "strong"
        case build.CheckpointSaved():
            yield "save", f"checkpoint of turn {fact.turn}", "dim"
        case build.ModelCallStarted() | build.ToolCallRequested() | build.BudgetRequested():
            return
        case _:
            assert_never(fact)


def _waiting_line(
    fact: build.QuestionAsked
    | build.ToolCallAnswered
    | build.ApprovalRequested
    | build.ApprovalResolved
    | build.EscalationRaised
    | build.EscalationResolved
    | build.BuildWaiting
    | build.BuildResumed
    | build.BuildLimitsChanged,
) -> tuple[str, str, str]:
    match fact:
        case build.EscalationRaised():
            return "ask", f"{fact.kind}: {short(text_of(fact.detail))} [{', '.join(fact.options)}]", "warn"
        case build.EscalationResolved():
            return "answer", joined(f"{fact.option} {text_of(fact.comment or '')}"), "good"
        case build.QuestionAsked():
            options = f" [{', '.join(fact.options)}]" if fact.options else ""
            return "ask", f"{joined(text_of(fact.question))}{options}", "warn"
        case build.ToolCallAnswered():
            tone = "bad" if fact.is_error else "good"
            return "answer", f"{joined(text_of(fact.output))} ({fact.by})", tone
        case build.ApprovalRequested():
            what = joined(visible(f"{fact.tool} {_given(fact.input)}"))
            return "ask", f"approve? {what} ({joined(text_of(fact.reason))})", "warn"
        case build.ApprovalResolved():
            who = f"{fact.by} {fact.given_by}" if fact.given_by else fact.by
            said = "" if fact.comment is None else f": {joined(text_of(fact.comment))}"
            how = "approved" if fact.approved else "denied"
            return "answer", f"{how} ({who}){said}", "good" if fact.approved else "bad"
        case build.BuildWaiting():
            until = "" if fact.until is None else f" until {fact.until.astimezone():%H:%M:%S}"
            why = "" if fact.detail is None else f": {short(text_of(fact.detail))}"
            return "wait", f"waits{until} ({fact.reason}{why})", "warn"
        case build.BuildResumed():
            return "wait", f"goes on ({fact.reason})", "good"
        case build.BuildLimitsChanged():
            limits = f"{fact.turn_limit} turns, {fact.tool_call_limit} tool calls"
            if fact.cost_limit_microusd is not None:
                limits += f", {dollars(fact.cost_limit_microusd)}"
            return "limits", limits, "strong"
        case _:
            assert_never(fact)


def proof_in_words(proof: Proof) -> Iterator[str]:
    """Yields in a few words each part of the proof that a build works, such as passed checks."""
    if proof.tests_executed:
        yield f"{proof.tests_executed} test{'s' * (proof.tests_executed != 1)} executed"
    yield from (
        f"{short(_flat(one.name), 40)} {'passed' if one.passed else 'failed'}" for one in proof.checks
    )
    if proof.preview is not None:
        yield f"the preview answers {proof.preview.status} on {short(proof.preview.path, 40)}"
    if proof.criteria:
        met = sum(one.met for one in proof.criteria)
        taken = ", the rest accepted by a person" if any(one.accepted for one in proof.criteria) else ""
        yield f"{met} of {len(proof.criteria)} criteria met{taken}"
    if proof.mode == "none":
        yield "the request demanded no proof"


def _verdict_lines(fact: build.CriteriaJudged) -> Iterator[tuple[str, str, str]]:
    met = sum(one.met for one in fact.verdicts)
    tone = "good" if met == len(fact.verdicts) else "warn"
    text = f"{met} of {len(fact.verdicts)} criteria met, {dollars(fact.cost_microusd)}"
    yield "judge", f"round {fact.round}: {text}", tone
    for one in fact.verdicts:
        if not one.met:
            yield "judge", f"criterion {one.index + 1} is not met: {short(_flat(one.evidence))}", "warn"


def _answer_lines(fact: build.ModelCallResponded) -> Iterator[tuple[str, str, str]]:
    role = fact.role or "builder"
    speaker = "agent" if role == "builder" else role
    for block in fact.content if not isinstance(fact.content, BlobRef) else ():
        if block.get("type") == "text" and str(block.get("text", "")).strip():
            yield speaker, joined(str(block["text"])), "plain"
    usage = fact.usage
    read = usage.input_tokens + usage.cache_read_input_tokens
    read += usage.cache_write_5m_input_tokens + usage.cache_write_1h_input_tokens
    seconds = fact.latency_ms / 1000
    counted = f"{read:,} in, {usage.output_tokens:,} out, {dollars(fact.cost_microusd)}, {seconds:.1f} s"
    yield "think", f"{_caller(fact)}: {counted}", "dim"


def _caller(fact: build.ModelCallResponded | build.ModelCallFailed) -> str:
    return f"turn {fact.turn}" if fact.role in (None, "builder") else f"{fact.role}, turn {fact.turn}"


def _sandbox_lines(status: BuildStatus, fact: SandboxEvent) -> Iterator[tuple[str, str, str]]:
    match fact:
        case sandbox.ToolCallCompleted():
            yield _result_line(status, fact)
        case sandbox.SandboxOpened():
            yield "sandbox", f"opened {fact.sandbox_id} ({fact.driver})", "dim"
        case sandbox.SandboxRestored(lost=(".",)):
            yield "restore", "the last snapshot could not be read: the workspace is empty", "bad"
        case sandbox.SandboxRestored():
            lost = f", {fact.lost_count or len(fact.lost)} lost" if fact.lost else ""
            text = f"{fact.files} files are back, {fact.healed} healed{lost}"
            yield "restore", text, "bad" if lost else "good"
        case sandbox.SandboxPaused():
            yield "sandbox", f"paused and kept ({fact.reason})", "warn"
        case sandbox.SandboxStalled():
            yield "sandbox", f"waits: {short(text_of(fact.detail))}. {fact.action}", "warn"
        case sandbox.SandboxLost():
            yield "sandbox", f"lost: {short(text_of(fact.detail))}", "bad"
        case sandbox.SandboxClosed():
            yield "sandbox", f"closed ({fact.reason})", "dim"
        case sandbox.PreviewOpened():
            yield "preview", fact.url, "good"
        case sandbox.SourceDelivered(pushed=True):
            yield (
                "source",
                f"pushed {fact.commits} commits to {fact.branch}, the last is {fact.commit}",
                "good",
            )
        case sandbox.SourceDelivered():
            kept = f"; {fact.commits} commits are in {fact.bundle}" if fact.bundle else ""
            yield "source", f"not pushed: {short(fact.detail or 'no reason')}{kept}", "warn"
        case _:
            assert_never(fact)


def _result_line(status: BuildStatus, fact: sandbox.ToolCallCompleted) -> tuple[str, str, str]:
    call = status.asked.get(fact.call_id)
    name = "call" if call is None else call.tool
    if call is not None and name == "narrate" and not fact.is_error:
        return "agent", _narrated_text(call), "strong"
    kind, what = "tool", f"{name} {fact.call_id if call is None else input_in_words(call)}"
    if call is not None and call.purpose == "judge":
        kind = "judge"
    elif call is not None and call.purpose == "instructions":
        what = "reading the workspace's instructions"
    elif call is not None and call.purpose != "agent":
        kind, what = "check", _what_was_checked(status, call, fact)
    outcome = "ok"
    if fact.is_error:
        outcome = f"exit {fact.exit_code}" if fact.exit_code is not None else fact.error_kind or "error"
        outcome += _reason_in_output(fact)
    return kind, f"{what} · {outcome} · {fact.duration_ms / 1000:.1f} s", "bad" if fact.is_error else "plain"


def _narrated_text(call: build.ToolCallRequested) -> str:
    given = call.input
    return text_of(given) if isinstance(given, BlobRef) else joined(str(given.get("message", "")))


def _what_was_checked(
    status: BuildStatus, call: build.ToolCallRequested, fact: sandbox.ToolCallCompleted
) -> str:
    """Returns in words what the orchestrator has checked with this tool call: the preview, or the tests by name."""
    if call.purpose == "preview":
        return f"the preview on port {input_in_words(call)}"
    headings = [
        line.removeprefix(_HEADING)
        for line in _output(fact)
        if line.startswith(_HEADING) and not line.startswith(_EXIT_HEADING)
    ]
    if not headings and not status.has_checks:
        headings = _output(fact)[:1]  # the output then says that there are no tests
    return short(", ".join(headings) or input_in_words(call), 64)


def _reason_in_output(fact: sandbox.ToolCallCompleted) -> str:
    """Returns the most helpful line of a failed call's output: the first that names an error, else the last one."""
    # The exit code is shown elsewhere.
    printed = [line for line in _output(fact) if not _EXIT_CODE.fullmatch(line)]
    naming = [line for line in printed if _NAMES_AN_ERROR.match(line)]
    return "".join(f" · {short(line, 64)}" for line in (naming or printed[-1:])[:1])


def _output(fact: sandbox.ToolCallCompleted) -> list[str]:
    printed = "" if isinstance(fact.output, BlobRef) else fact.output
    return [line.strip() for line in printed.splitlines() if line.strip()]


def _snapshot_lines(status: BuildStatus, fact: SnapshotEvent) -> Iterator[tuple[str, str, str]]:
    match fact:
        case snapshot.SnapshotFailed() if status.sandbox_id is None:
            yield "save", "no sandbox was opened yet, so there are no files to keep", "dim"
        case snapshot.SnapshotSaved():
            text = f"{fact.files} files, {fact.uploaded_bytes:,} bytes sent"
            yield "save", f"snapshot ({fact.reason}): {text}", "dim"
            if fact.consistency == "late":
                yield "save", "this snapshot was taken after the next turn had begun", "warn"
            if fact.torn:
                yield "save", f"changed while they were saved: {short(', '.join(fact.torn))}", "warn"
            if fact.skipped:
                named = ", ".join(f"{one.path} ({one.reason})" for one in fact.skipped)
                yield "save", f"not saved: {fact.skipped_count or len(fact.skipped)}: {short(named)}", "bad"
        case snapshot.SnapshotFailed():
            end = "" if not fact.final else "; given up"
            yield "save", f"snapshot ({fact.reason}) failed{end}: {short(text_of(fact.detail))}", "warn"
        case _:
            assert_never(fact)


def _budget_lines(fact: BudgetEvent) -> Iterator[tuple[str, str, str]]:
    match fact:
        case budget.BudgetGranted():
            left = dollars(fact.left_today_microusd)
            yield "money", f"{dollars(fact.amount_microusd)} set aside, {left} left today", "dim"
        case budget.BudgetDenied():
            text = "the day's money is gone"
            if fact.first_build_id is not None:
                text = f"{fact.first_build_id} has had less of {fact.account_id}'s money today and goes first"
            elif fact.left_today_microusd > 0:
                text = f"{dollars(fact.left_today_microusd)} left today, and the next call may cost more"
            yield "money", f"{text}; more at {fact.refresh_at.astimezone():%H:%M:%S}", "warn"
        case budget.BudgetSettled():
            spent, released = dollars(fact.posted_microusd), dollars(fact.released_microusd)
            yield "money", f"{spent} spent, {released} given back", "dim"
        case budget.WakeRequested():
            return
        case _:
            assert_never(fact)
