"""What a person reads: the status after each event, its line, and nothing that steers a terminal."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from nightshift.cli.build_status import BuildStatus, evolve
from nightshift.cli.exits import Exit
from nightshift.cli.follow import doing, outcome, plain
from nightshift.cli.narration import lines
from nightshift.cli.text import dollars
from nightshift.contracts.events.budget import BudgetDenied, BudgetGranted
from nightshift.contracts.events.build import (
    BuildAccepted,
    BuildFailed,
    BuildPhaseChanged,
    BuildReady,
    BuildWoken,
    CriteriaJudged,
    ModelCallResponded,
    ModelCallStarted,
    Phase,
    SleepRequested,
    ToolCallRequested,
    Usage,
)
from nightshift.contracts.events.proof import CheckProof, CriterionVerdict, PreviewProof, Proof
from nightshift.contracts.events.sandbox import SandboxOpened, ToolCallCompleted
from nightshift.contracts.events.snapshot import SnapshotFailed
from nightshift.contracts.model import Event
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.domain.checks import DETECT

START = datetime(2026, 3, 1, 22, tzinfo=UTC)
ACCEPTED = BuildAccepted(
    build_id="b",
    project_id="p",
    account_id="ada",
    idea_brief="A red\u202e shop",
    model="scripted-1",
    turn_limit=9,
    tool_call_limit=9,
)
READY = BuildReady(
    project_id="p",
    sandbox_id="s",
    preview_url="http://x/",
    build_version=3,
    cost_microusd=1,
    turns=2,
    tool_calls=3,
)


def tell(*facts: Event) -> tuple[BuildStatus, list[str]]:
    """The status after these, a second apart, and what was told."""
    status, told = BuildStatus("b"), []
    for number, fact in enumerate(facts):
        at = START + timedelta(seconds=number)
        event = RecordedEvent(
            UUID(int=number), "build-b", number + 1, fact, "b", UUID(int=9), "test", None, at
        )
        before, status = status, evolve(status, event)
        told += [plain(status, line) for line in lines(before, event)]
    return status, told


def call(index: int = 0, **given: Any) -> ToolCallRequested:
    return ToolCallRequested(
        call_id=f"b/1/{index}",
        turn=1,
        index=index,
        tool="bash",
        tool_use_id="t",
        input={"command": "make test", **given},
    )


def result(**fields: Any) -> ToolCallCompleted:
    return ToolCallCompleted(call_id="b/1/0", output="", duration_ms=1500, **{"is_error": False, **fields})


def test_a_tool_call_is_one_line_with_outcome_and_duration() -> None:
    _, told = tell(ACCEPTED, call(), result(is_error=True, error_kind="exit", exit_code=2))
    assert told[-1] == "00:02.0  tool      bash make test · exit 2 · 1.5 s"


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (
            "test_drill ... FAIL\n\nTraceback:\n  boom\nAssertionError: AlreadyOut not raised\nmake: *** Error 1\n",
            " · AssertionError: AlreadyOut not raised",
        ),
        ("one\nlast words\n\n", " · last words"),
        ("", ""),
    ],
)
def test_a_failed_tool_call_says_why(output: str, why: str) -> None:
    failed = result(is_error=True, error_kind="exit", exit_code=1).model_copy(update={"output": output})
    _, told = tell(ACCEPTED, call(), failed)
    assert told[-1] == f"00:02.0  tool      bash make test · exit 1{why} · 1.5 s"


def test_a_script_is_shown_in_one_line_without_its_preamble() -> None:
    _, told = tell(ACCEPTED, call(command="set -e\n\nmake build\n  make test\n"), result())
    assert told[-1] == "00:02.0  tool      bash make build; make test · ok · 1.5 s"


def test_a_check_of_the_orchestrator_is_shown_as_a_check() -> None:
    detected = call(command="ran=0; failed=0\nif…").model_copy(update={"purpose": "check"})
    _, told = tell(
        ACCEPTED,
        detected,
        result().model_copy(update={"output": "== make test\n.....\n== npm test --silent\n"}),
    )
    assert told[-1] == "00:02.0  check     make test, npm test --silent · ok · 1.5 s"
    assert doing(tell(ACCEPTED, detected)[0], START) == "checking that it is ready"
    given = {"tool": "open_port", "input": {"port": 8000}, "purpose": "preview"}
    _, told = tell(ACCEPTED, call().model_copy(update=given), result())
    assert told[-1] == "00:02.0  check     the preview on port 8000 · ok · 1.5 s"


def test_narration_of_the_agent_is_shown_whole() -> None:
    words = "Laying out the project: a store for the loans, a page on top of it, and tests beside it.\nThen the rest."
    told_by = call().model_copy(update={"tool": "narrate", "input": {"phase": "code", "message": words}})
    _, told = tell(ACCEPTED, told_by, result())
    assert told[-1] == f"00:02.0  agent     {' '.join(words.split())}"


def test_escape_sequences_never_reach_the_terminal() -> None:
    _, told = tell(ACCEPTED, call(command="echo \x1b]0;title\x07\u202edetrever\x9b31m"), result())
    assert all(character.isprintable() for line in told for character in line)
    assert "A red shop" in told[0]


def test_a_sleep_counts_down_and_ends_with_the_wake() -> None:
    asleep = SleepRequested(reason="budget", account_id="ada", wake_at=START + timedelta(hours=2))
    status, told = tell(ACCEPTED, asleep)
    assert (status.state, status.sleeps) == ("sleeping", 1)
    assert doing(status, START + timedelta(minutes=30)) == "asleep, wakes in 1:30:00.0"
    assert "asleep until" in told[-1]
    status, _ = tell(ACCEPTED, asleep, BuildWoken(reason="refresh"))
    assert (status.state, status.asleep_until) == ("running", None)


def test_the_cost_is_the_sum_of_the_calls_in_dollars() -> None:
    answer = ModelCallResponded(
        turn=1,
        attempt=1,
        model="scripted-1",
        message_id="m",
        content=({"type": "text", "text": "On it."},),
        stop_reason="end_turn",
        usage=Usage(input_tokens=10, cache_read_input_tokens=90, output_tokens=5),
        price_version="1",
        cost_microusd=12_300,
        latency_ms=400,
        first_token_ms=90,
    )
    grant = BudgetGranted(
        lease_id=UUID(int=1),
        account_id="ada",
        day="d",
        amount_microusd=50_000,
        left_today_microusd=950_000,
        expires_at=START,
    )
    status, told = tell(ACCEPTED, grant, answer)
    assert (status.cost, status.left_today, status.turns) == (12_300, 950_000, 1)
    assert told[-2:] == [
        "00:02.0  agent     On it.",
        "00:02.0  think     turn 1: 100 in, 5 out, $0.0123, 0.4 s",
    ]
    assert dollars(1_234_567_890) == "$1,234.5679"


def test_a_denial_says_when_the_next_day_begins() -> None:
    denial = BudgetDenied(
        lease_id=UUID(int=1), account_id="ada", day="d", left_today_microusd=0, refresh_at=START
    )
    _, told = tell(ACCEPTED, denial)
    assert "the day's money is gone; more at" in told[-1]
    _, told = tell(ACCEPTED, denial.model_copy(update={"left_today_microusd": 421_900}))
    assert "$0.4219 left today, and the next call may cost more; more at" in told[-1]


@pytest.mark.parametrize(
    ("fact", "state", "code"),
    [
        (READY, "ready", Exit.OK),
        (
            BuildFailed(reason="checks_failed", detail="one", cost_microusd=1, turns=2),
            "failed",
            Exit.BUILD_FAILED,
        ),
        (BuildPhaseChanged(from_phase=Phase.QUEUED, to_phase=Phase.STARTING), "running", None),
    ],
)
def test_the_exit_code_is_the_builds(fact: Event, state: str, code: Exit | None) -> None:
    status, _ = tell(ACCEPTED, fact)
    assert status.state == state
    assert outcome(status) == code


def test_only_a_failed_snapshot_of_a_sandbox_is_a_warning():
    failed = SnapshotFailed(reason="pre_sleep", at_version=2, detail="S3 is away", attempt=1, final=True)
    _, told = tell(ACCEPTED, failed)
    assert "there are no files to keep" in told[-1]
    assert "failed" not in told[-1]
    _, told = tell(ACCEPTED, SandboxOpened(sandbox_id="s", driver="local", generation=1), failed)
    assert "failed; given up: S3 is away" in told[-1]


def test_a_project_without_tests_is_shown_as_one():
    asked = call(command=DETECT).model_copy(update={"purpose": "check"})
    done = ToolCallCompleted(
        call_id=asked.call_id,
        is_error=False,
        output="no tests found\n[exit code 0]",
        exit_code=0,
        duration_ms=9,
    )
    assert tell(ACCEPTED, asked, done)[1][-1].split("check", 1)[1].strip() == "no tests found · ok · 0.0 s"


def test_a_failed_call_shows_its_last_output_and_exit_code_once():
    done = ToolCallCompleted(
        call_id="b/1/0",
        is_error=True,
        error_kind="exit",
        output="because\n[exit code 3]",
        exit_code=3,
        duration_ms=9,
    )
    line = tell(ACCEPTED, call(command="exit 3"), done)[1][-1]
    assert line.endswith("bash exit 3 · exit 3 · because · 0.0 s")


def test_a_build_that_is_ready_shows_its_proof_first() -> None:
    proof = Proof(
        checks=(CheckProof(name="make test", command="make test", passed=True, exit_code=0),),
        tests_executed=1,
        preview=PreviewProof(url="http://x/app", path="/app", status=200),
    )
    status, told = tell(ACCEPTED, READY.model_copy(update={"proof": proof}))
    assert "proof" in told[-2]
    assert told[-2].endswith("1 test executed; make test passed; the preview answers 200 on /app")
    assert "ready" in told[-1]
    assert status.as_json(START)["proof"] == proof.model_dump(mode="json")


def test_verdicts_are_told_with_what_is_missing() -> None:
    met = CriterionVerdict(index=0, met=True, evidence="app.py:3")
    gap = CriterionVerdict(index=1, met=False, evidence="No due date on the page.")
    judged = CriteriaJudged(round=1, verdicts=(met, gap), usage=Usage(), cost_microusd=20_000)
    accepted = gap.model_copy(update={"accepted": True})
    ready = READY.model_copy(update={"proof": Proof(tests_executed=1, criteria=(met, accepted))})
    began = ModelCallStarted(
        turn=1, attempt=1, role="judge", model="m", lease_id=UUID(int=1), reserve_microusd=1
    )
    assert doing(tell(ACCEPTED, began)[0], START) == "being judged by its criteria"
    assert tell(ACCEPTED, began, judged)[0].as_json(START)["criteria_met"] == (1, 2)
    status, told = tell(ACCEPTED, judged, ready)
    assert told[1:3] == [
        "00:01.0  judge     round 1: 1 of 2 criteria met, $0.0200",
        "00:01.0  judge     criterion 2 is not met: No due date on the page.",
    ]
    assert "1 of 2 criteria met, the rest accepted by a person" in told[-2]
    assert status.as_json(START)["proof"]["criteria"][1]["accepted"]


def test_a_call_of_the_judge_is_told_as_its_own() -> None:
    asked = call().model_copy(
        update={"tool": "read_file", "input": {"file_path": "a.py"}, "purpose": "judge"}
    )
    _, told = tell(ACCEPTED, asked, result())
    assert told[-1].split()[1:4] == ["judge", "read_file", "a.py"]


def test_a_build_of_an_earlier_version_is_ready_without_proof() -> None:
    status, told = tell(ACCEPTED, READY)
    assert "ready" in told[-1]
    assert not any("proof" in line for line in told)
    assert status.as_json(START)["proof"] is None


def test_a_demand_for_no_proof_is_shown() -> None:
    _, told = tell(ACCEPTED, READY.model_copy(update={"proof": Proof(mode="none")}))
    assert told[-2].endswith("the request demanded no proof")


def test_the_headings_of_exit_codes_name_no_check() -> None:
    request = ToolCallRequested(
        call_id="b/1/0", turn=1, index=0, tool="bash", tool_use_id="c", input={}, purpose="check"
    )
    output = "== make test\nok\n== exit code 0\n"
    result = ToolCallCompleted(call_id="b/1/0", is_error=False, output=output, exit_code=0, duration_ms=1)
    _, told = tell(ACCEPTED, request, result)
    assert "make test · ok" in told[-1]
