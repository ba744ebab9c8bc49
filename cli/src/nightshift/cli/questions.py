"""The open questions and approvals of a build, folded from its events, each with the command that answers it. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nightshift.cli.text import short, text_of, visible
from nightshift.cli.waits import Wait, key_wait
from nightshift.contracts.events.build import (
    ApprovalRequested,
    ApprovalResolved,
    BuildWaiting,
    EscalationRaised,
    EscalationResolved,
    QuestionAsked,
    ToolCallAnswered,
    ToolCallRequested,
)
from nightshift.contracts.model import BlobRef, Event
from nightshift.eventlog.port import RecordedEvent

_LIMITS = frozenset({"turn_limit", "tool_call_limit"})
#: The `kind` of a Question that asks to approve a tool call.
APPROVAL = "approval"


@dataclass(frozen=True, slots=True)
class Question:
    """A question, an escalation or a tool call that waits for a person.

    `kind` is `question`, `approval` or the kind of the escalation. `tool` and `input` are set for a tool call.
    """

    build_id: str
    question_id: str
    kind: str
    text: str
    options: tuple[str, ...]
    asked_at: datetime
    tried: str | None = None
    deadline: datetime | None = None
    default: str | None = None
    tool: str | None = None
    input: Mapping[str, Any] | None = None

    @property
    def action(self) -> str:
        """The command that a person can type to answer."""
        if self.kind == APPROVAL:
            which = f"{self.build_id} {self.question_id}"
            return f'`nightshift approve {which}`, or `nightshift deny {which} "WHY"`'
        words = f"--option {'|'.join(self.options)}" if self.options else '"TEXT"'
        answer = f"`nightshift answer {self.build_id} {words}`"
        if self.kind == "cost_limit":
            return f"{answer}, or `nightshift limits {self.build_id} --cost AMOUNT`"
        if self.kind in _LIMITS:
            return f"{answer}, or `nightshift limits {self.build_id} --turns N --tool-calls N`"
        return answer

    def as_json(self) -> dict[str, Any]:
        """Returns the question in the form of `--json`."""
        return {
            "build_id": self.build_id,
            "question_id": self.question_id,
            "kind": self.kind,
            "question": self.text,
            "tried": self.tried,
            "options": list(self.options),
            "asked_at": self.asked_at,
            "deadline": self.deadline,
            "default": self.default,
            "tool": self.tool,
            "input": self.input,
        }

    def call_in_full(self) -> list[str]:
        """Returns the tool call that waits for approval as lines with its whole input.

        Invisible characters are escaped.
        """
        if self.tool is None:
            return []
        lines = [self.tool]
        for name, value in (self.input or {}).items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            lines += [f"  {name}: {line}" if not place else f"    {line}" for place, line in _numbered(text)]
        return lines


def _numbered(text: str) -> list[tuple[int, str]]:
    return list(enumerate(visible(text).split("\n")))


Questions = Mapping[str, Question]


def open_questions(questions: Questions, build_id: str, event: RecordedEvent) -> Questions:
    """Returns `questions`, the open questions of the build, after one more event of its stream."""
    match event.data:
        case QuestionAsked() | EscalationRaised() | ApprovalRequested() as fact:
            one = _question(build_id, fact, event.recorded_at)
            return {**questions, one.question_id: one}
        case ToolCallAnswered() | ApprovalResolved() as fact:
            return {key: one for key, one in questions.items() if key != fact.call_id}
        case EscalationResolved() as fact:
            return {key: one for key, one in questions.items() if key != str(fact.escalation_id)}
        case _:
            return questions


def _question(
    build_id: str, fact: QuestionAsked | EscalationRaised | ApprovalRequested, at: datetime
) -> Question:
    if isinstance(fact, ApprovalRequested):
        return Question(
            build_id,
            fact.call_id,
            APPROVAL,
            f"May the agent run this? {text_of(fact.reason)}",
            (),
            at,
            deadline=fact.deadline,
            default=None if fact.deadline is None else "denied",
            tool=fact.tool,
            input={"input": text_of(fact.input)} if isinstance(fact.input, BlobRef) else fact.input,
        )
    if isinstance(fact, EscalationRaised):
        return Question(
            build_id,
            str(fact.escalation_id),
            fact.kind,
            text_of(fact.detail),
            fact.options,
            at,
            tried=None if fact.tried is None else text_of(fact.tried),
            deadline=fact.deadline,
        )
    return Question(
        build_id,
        fact.question_id,
        "question",
        text_of(fact.question),
        fact.options,
        at,
        deadline=fact.deadline,
        default=None if fact.default is None else text_of(fact.default),
    )


def person_wait(
    fact: Event, questions: Questions, calls: Mapping[str, ToolCallRequested], build_id: str, at: datetime
) -> Wait | None:
    """Returns the Wait that begins with a `build.waiting` event, or None for other events.

    `calls` maps ids to the tool calls that have no result yet.
    """
    if not isinstance(fact, BuildWaiting):
        return None
    question = questions.get(fact.question_id or "")
    call = calls.get(fact.question_id or "")
    if question is not None and question.kind == APPROVAL:
        reason = f"for your approval of {short(' '.join(question.call_in_full()), 200)}"
        return Wait(reason, question.action, at, fact.owner, fact.until)
    if call is not None:
        answer = f'`nightshift answer {build_id} {call.call_id} "RESULT"`'
        return Wait(
            f"for the result of your tool {call.tool} (call {call.call_id})",
            f"your consumer sends `tool_call.result_given`, or you do: {answer}",
            at,
            fact.owner,
            fact.until,
        )
    if question is not None:
        options = f" [{', '.join(question.options)}]" if question.options else ""
        reason = f"for you: {short(question.text, 200)}{options}"
        return Wait(reason, question.action, at, fact.owner, fact.until)
    if fact.reason == "paused":
        said = "" if fact.detail is None else f": {short(text_of(fact.detail), 100)}"
        return Wait(
            f"a person paused it{said}", f"`nightshift resume {build_id}` lets it go on", at, fact.owner
        )
    if fact.reason == "provider":
        return key_wait(fact, at)
    return Wait(
        f"for its {fact.reason}", f"`nightshift log {build_id}` shows more", at, fact.owner, fact.until
    )
