"""Given, when, then for a build: a state folded from recorded events, and the facts of other services."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from nightshift.contracts import ids
from nightshift.contracts.events.budget import BudgetDenied, BudgetGranted, WakeRequested
from nightshift.contracts.events.build import BudgetRequested, ToolCallRequested, Usage
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.model import Event
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.domain import context
from nightshift.orchestrator.domain.commands import AcceptBuild, Answer, Command
from nightshift.orchestrator.domain.decide import causes, decide
from nightshift.orchestrator.domain.evolve import evolve
from nightshift.orchestrator.domain.next_step import CountPrompt, Wait, next_step
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import INITIAL, BuildState, ToolCall

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
REQUEST = BuildRequested(
    build_id="b1", project_id="p1", account_id="a1", idea_brief="A page that says hello."
)
#: The output of a successful call, by its purpose.
RESULTS = {
    "agent": "ok",
    "check": "== make test\n3 passed in 0.02s\n== exit code 0\n",
    "preview": "http://127.0.0.1:9/ answers with status 200",
}


def tool_use(tool: str = "bash", given: dict | None = None, id: str = "toolu_1") -> dict:
    return {"type": "tool_use", "id": id, "name": tool, "input": given or {"command": "true"}}


def text(words: str = "Done.") -> dict:
    return {"type": "text", "text": words}


def answer(*content: dict, stop_reason: str | None = None, usage: Usage | None = None) -> Answer:
    uses = any(block["type"] == "tool_use" for block in content)
    return Answer(
        message_id="msg_1",
        model="scripted-1",
        content=content,
        stop_reason=stop_reason or ("tool_use" if uses else "end_turn"),
        usage=usage or Usage(input_tokens=1_000, output_tokens=100),
        latency_ms=10,
        first_token_ms=5,
    )


class BuildScenario:
    """A build and its log. Every event recorded is folded at once, so what `decide` emits `evolve` must accept."""

    def __init__(self, *, policy: Policy | None = None, request: BuildRequested = REQUEST) -> None:
        self.policy = policy or Policy()
        self.now = NOW
        self.state: BuildState = INITIAL
        self.log: list[RecordedEvent] = []
        self._others = 0
        self.do(AcceptBuild(request))
        self.step()

    def record(self, causes: tuple[UUID, ...], events: tuple[Event, ...]) -> tuple[Event, ...]:
        seen: Counter = Counter()
        for cause, event in zip(causes, events, strict=True):
            recorded = RecordedEvent(
                event_id=ids.event_id(cause, event.type, seen[cause, event.type]),
                stream_id="build-b1",
                version=self.state.version + 1,
                data=event,
                correlation_id="b1",
                causation_id=cause,
                actor="test",
                traceparent=None,
                recorded_at=self.now,
            )
            seen[cause, event.type] += 1
            self.state = evolve(self.state, recorded)
            self.log.append(recorded)
        return events

    def do(self, command: Command) -> tuple[Event, ...]:
        """Decide and record."""
        events = decide(self.state, command, self.now, self.policy)
        return self.record(causes(self.state, command, events), events) if events else ()

    def others(self, *events: Event) -> None:
        """Record facts of other services."""
        for event in events:
            self._others += 1
            self.record((UUID(int=self._others),), (event,))

    def step(self) -> tuple[Event, ...]:
        """Do what `next_step` finds. Fails when it only waits."""
        step = self.next()
        assert not isinstance(step, Wait), step
        return self.do(step)

    def next(self):
        """What `next_step` finds, where the provider cannot count tokens."""
        step = next_step(self.state, self.now, self.policy)
        if isinstance(step, CountPrompt):
            size = context.size(self.state, self.policy)
            step = next_step(self.state, self.now, self.policy, size)
        return step

    def passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def granted(self, amount: int | None = None, *, left: int = 10_000_000, limit: int | None = None) -> None:
        """The budget service grants what was requested last."""
        asked = self._asked()
        self.others(
            BudgetGranted(
                lease_id=asked.lease_id,
                account_id="a1",
                day="2026-11-22",
                amount_microusd=asked.amount_microusd if amount is None else amount,
                left_today_microusd=left,
                day_limit_microusd=limit,
                expires_at=self.now + timedelta(hours=1),
            )
        )

    def denied(self, *, refresh_s: float = 3_600, day_limit: int | None = None) -> None:
        self.others(
            BudgetDenied(
                lease_id=self._asked().lease_id,
                account_id="a1",
                day="2026-11-22",
                left_today_microusd=0,
                refresh_at=self.now + timedelta(seconds=refresh_s),
                day_limit_microusd=day_limit,
            )
        )

    def woken(self) -> None:
        self.others(WakeRequested(reason="refresh"))

    def results(
        self, *, is_error: bool = False, output: str | None = None, exit_code: int | None = 0
    ) -> None:
        """Record this result for every open tool call. By default a check executes tests and a preview answers."""
        for call in self.state.tool_calls:
            if call.result is None:
                shown = RESULTS[call.purpose] if output is None else output
                self.others(completed(call.call_id, is_error=is_error, output=shown, exit_code=exit_code))

    def result(self, call: ToolCall, output: str) -> None:
        """Record this result of one tool call."""
        self.others(completed(call.call_id, output=output))

    def requested_calls(self) -> list[ToolCallRequested]:
        """Return all tool calls of the log."""
        return [event.data for event in self.log if isinstance(event.data, ToolCallRequested)]

    def thinks(self, *content: dict, **more) -> tuple[Event, ...]:
        """One model call from its start to its answer, with a request for money if needed."""
        events = self.step()
        if isinstance(events[-1], BudgetRequested):
            self.granted()
            self.step()
        return self.do(answer(*content, **more))

    def types(self) -> list[str]:
        return [event.data.type for event in self.log]

    def last(self, kind: type) -> Event:
        return next(event.data for event in reversed(self.log) if isinstance(event.data, kind))

    def _asked(self) -> BudgetRequested:
        return self.last(BudgetRequested)


def completed(
    call_id: str,
    *,
    is_error: bool = False,
    output: str = "ok",
    exit_code: int | None = 0,
    duration_ms: int = 1,
):
    return ToolCallCompleted(
        call_id=call_id, is_error=is_error, output=output, exit_code=exit_code, duration_ms=duration_ms
    )


def begun(**more) -> BuildScenario:
    """A build with its first grant, before its first turn."""
    scenario = BuildScenario(**more)
    scenario.granted()
    return scenario


def working(**more) -> BuildScenario:
    """A build that has made one tool call and has its result."""
    scenario = begun(**more)
    scenario.thinks(tool_use())
    scenario.results()
    return scenario


def requested(events: tuple[Event, ...]) -> list[ToolCallRequested]:
    return [event for event in events if isinstance(event, ToolCallRequested)]


def with_(policy: Policy | None = None, **changes) -> Policy:
    return replace(policy or Policy(), **changes)
