"""What a build asks a person: how it is shown, and which question an answer is for."""

from datetime import timedelta
from uuid import UUID

import pytest
from tests.unit.cli.events import ACCEPTED, START, recorded, status_after

from nightshift.cli.commands.answer import chosen
from nightshift.cli.errors import WrongUsage
from nightshift.cli.follow import doing
from nightshift.cli.narration import lines
from nightshift.contracts.events.build import (
    BuildCancelled,
    BuildResumed,
    BuildWaiting,
    EscalationRaised,
    EscalationResolved,
    QuestionAsked,
    ToolCallAnswered,
)
from nightshift.eventlog.errors import NotFound

COLOUR = QuestionAsked(
    question_id="b/1/0",
    turn=1,
    index=0,
    tool_use_id="t",
    question="Which colour?",
    options=("blue", "green"),
)
SIZE = QuestionAsked(question_id="b/1/1", turn=1, index=1, tool_use_id="u", question="Which size?")
WAITING = BuildWaiting(reason="question", question_id="b/1/0")
PAUSED = BuildWaiting(reason="paused", detail="a look")
LIMIT = EscalationRaised(
    escalation_id=UUID(int=5),
    kind="turn_limit",
    detail="the limit of 9 turns is reached",
    tried="It was told.",
    options=("continue", "end"),
)
AT_LIMIT = BuildWaiting(reason="limit", question_id=str(UUID(int=5)))
ANSWERED = ToolCallAnswered(call_id="b/1/0", output="blue", option="blue", by="person")


@pytest.mark.parametrize(
    ("facts", "reason", "action"),
    [
        (
            (COLOUR, WAITING),
            "for you: Which colour? [blue, green]",
            "nightshift answer b --option blue|green",
        ),
        (
            (SIZE, BuildWaiting(reason="question", question_id="b/1/1")),
            "for you: Which size?",
            'answer b "TEXT"',
        ),
        ((LIMIT, AT_LIMIT), "for you: the limit of 9 turns", "nightshift limits b --turns N"),
        ((PAUSED,), "a person paused it: a look", "nightshift resume b"),
        ((COLOUR, PAUSED, ANSWERED), "a person paused it: a look", "nightshift resume b"),
        (
            (BuildWaiting(reason="provider", detail="auth (status 401): key ab12: invalid"),),
            "refuses the key: auth (status 401): key ab12: invalid",
            "ANTHROPIC_API_KEY",
        ),
        ((BuildWaiting(reason="customer_tool"),), "for its customer_tool", "nightshift log b"),
    ],
)
def test_a_wait_for_a_person_names_what_to_type(facts, reason, action):
    status, now = status_after(ACCEPTED, *facts), START + timedelta(hours=9)
    wait = status.waiting(now)
    assert status.state == "waiting"
    assert reason in wait.reason
    assert action in wait.action
    assert doing(status, now).startswith("waits")


@pytest.mark.parametrize(
    "end",
    [(ANSWERED, BuildResumed(reason="answer")), (BuildCancelled(reason="x", cost_microusd=0, turns=1),)],
)
def test_a_build_that_goes_on_or_ends_waits_for_nobody(end):
    status = status_after(ACCEPTED, COLOUR, WAITING, *end)
    assert status.state != "waiting"
    assert status.waiting(START + timedelta(seconds=5)) is None


def test_open_questions_are_printed_as_json_until_they_are_answered():
    status = status_after(ACCEPTED, COLOUR, SIZE, LIMIT)
    ids = [one["question_id"] for one in status.as_json(START)["questions"]]
    assert ids == ["b/1/0", "b/1/1", str(UUID(int=5))]
    resolved = EscalationResolved(escalation_id=UUID(int=5), option="continue")
    status = status_after(ACCEPTED, COLOUR, SIZE, LIMIT, ANSWERED, resolved)
    assert [one["question"] for one in status.as_json(START)["questions"]] == ["Which size?"]


def test_the_only_question_needs_no_id():
    status = status_after(ACCEPTED, COLOUR, WAITING)
    assert chosen(status, ["As in the logo."])[1] == "As in the logo."
    assert chosen(status, ["b/1/0"]) == (status.questions["b/1/0"], None)
    assert chosen(status, []) == (status.questions["b/1/0"], None)


def test_an_answer_must_say_which_of_two_questions_it_is_for():
    status = status_after(ACCEPTED, COLOUR, SIZE, WAITING)
    assert chosen(status, ["b/1/1", "Large."]) == (status.questions["b/1/1"], "Large.")
    with pytest.raises(WrongUsage, match="which question"):
        chosen(status, ["Large."])


def test_an_answer_of_many_words_must_be_quoted():
    with pytest.raises(WrongUsage, match="one text"):
        chosen(status_after(ACCEPTED, COLOUR), ["b/1/0", "very", "large"])


def test_a_build_that_asks_nothing_takes_no_answer():
    with pytest.raises(NotFound, match="asks nothing"):
        chosen(status_after(ACCEPTED), ["blue"])


def test_every_fact_about_waiting_has_a_line():
    facts = [COLOUR, ANSWERED, LIMIT, EscalationResolved(escalation_id=UUID(int=5), option="end"), PAUSED]
    told = [line.text for event in recorded(facts) for line in lines(status_after(ACCEPTED), event)]
    assert told == [
        "Which colour? [blue, green]",
        "blue (person)",
        "turn_limit: the limit of 9 turns is reached [continue, end]",
        "end",
        "waits (paused: a look)",
    ]
