"""A random life of a build: every service, the provider and people act in any order. Each request is checked."""

import json
from uuid import UUID

from tests.unit.orchestrator.build_scenario import (
    REQUEST,
    RESULTS,
    BuildScenario,
    answer,
    completed,
    text,
    tool_use,
)

from nightshift.contracts import canonical
from nightshift.contracts.events.build import Usage
from nightshift.contracts.events.sandbox import SandboxLost, SandboxOpened
from nightshift.devstack.model import rules
from nightshift.devstack.model.conversation import validate
from nightshift.orchestrator.domain import prompt, side_calls
from nightshift.orchestrator.domain.commands import (
    AbandonCall,
    AnswerQuestion,
    CallFailed,
    CancelBuild,
    Complete,
    MessageAgent,
    PauseBuild,
    ResumeBuild,
    SetLimits,
    StartCall,
    Step,
)
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import RunMode

POLICY = Policy(
    turn_limit=6,
    tool_call_limit=14,
    grant_turns=1,
    attempts=2,
    provider_sleeps=2,
    judge_rounds=2,
    judge_answers=3,
    context_tokens=9_000,
    max_output_tokens=1_000,
)
GIVEN = REQUEST.model_copy(update={"criteria": ("It says hello.", "It is blue.")})


class RandomLife:
    """The build after these moves, and the requests that it has sent, as (role, messages without cache marks)."""

    def __init__(self, moves: list[int]) -> None:
        self.scenario = BuildScenario(policy=POLICY, request=GIVEN)
        self.requests: list[tuple[str, list[str]]] = []
        for number, move in enumerate(moves):
            self._move(move, number)

    def _move(self, move: int, number: int) -> None:
        scenario, cause = self.scenario, UUID(int=10_000 + number)
        state, step = scenario.state, scenario.next()
        calls = (*state.tool_calls, *(state.judging.tool_calls if state.judging else ()))
        asked = {one.question_id for one in state.questions}
        waits = sorted(one.call_id for one in calls if one.result is None and one.call_id not in asked)
        match move:
            case 0:
                scenario.do(PauseBuild(None, cause))
            case 1 | 2:
                scenario.do(ResumeBuild(cause))
            case 3:
                scenario.do(MessageAgent("Faster.", cause))
            case 4:
                scenario.do(SetLimits(6 + number // 8, 14 + number // 4, cause))
            case 5 if number > 130:
                scenario.do(CancelBuild("enough", cause))
            case 6 | 7 if state.questions:
                question = state.questions[number % len(state.questions)]
                option = question.options[number % len(question.options)] if question.options else None
                scenario.do(AnswerQuestion(question.question_id, option, "So.", cause))
            case _ if state.mode is RunMode.ENDED:
                pass  # the log refuses the facts of other services
            case 8 if number % 3 == 0 and state.mode is RunMode.RUNNING:
                scenario.others(
                    SandboxLost(sandbox_id="s", detail="gone"),
                    SandboxOpened(sandbox_id=f"s{number}", driver="local", generation=number),
                )
            case _ if isinstance(step, Step):
                scenario.do(Complete(1) if isinstance(step, Complete) else step)
                if isinstance(step, StartCall):
                    self._sent()
            case _ if waits:
                call_id = waits[number % len(waits)]
                checks = {one.call_id for one in calls if one.purpose == "check"}
                output = RESULTS["check"] if call_id in checks else f"{number} " * 300
                scenario.others(completed(call_id, is_error=move == 9, output=output))
            case _ if state.call is not None:
                self._end_call(move, number)
            case _ if state.funds.asked is not None and state.mode is RunMode.RUNNING:
                scenario.denied() if move == 10 else scenario.granted()
            case _ if state.mode is RunMode.SLEEPING:
                scenario.woken()
            case _:
                scenario.passes(1_000)

    def _sent(self) -> None:
        """Checks the request of the call that has just started as strictly as the provider does, and keeps it."""
        self.body = self._request()
        validate(self.body)
        messages = json.loads(json.dumps(self.body["messages"]))
        for message in messages:
            for block in message["content"]:
                block.pop("cache_control", None)
        self.requests.append((self.scenario.state.call.role, [canonical.dumps(one) for one in messages]))

    def _request(self) -> dict:
        state, policy = self.scenario.state, self.scenario.policy
        if state.call.role != "builder":
            return json.loads(side_calls.request_bytes(state, policy, state.call.role))
        return json.loads(prompt.request_bytes(state, policy))

    def _end_call(self, move: int, number: int) -> None:
        scenario = self.scenario
        role = scenario.state.call.role
        match move:
            case 11:
                scenario.do(AbandonCall())
            case 12:
                scenario.do(CallFailed("overloaded", "no", status=529))
            case 13 if role == "builder":
                scenario.do(CallFailed("too_long", "prompt is too long", status=400))
            case 14:
                scenario.do(CallFailed("stream_cut", "no", maybe_billed=True))
            case _ if role == "judge":
                self._judges(move, number)
            case _ if role == "condenser":
                scenario.do(answer(text(f"Summary {number}."), usage=self._usage()))
            case 15 | 16:
                scenario.do(answer(text(), usage=self._usage()))
            case 17:
                scenario.do(answer(text(), tool_use(id=f"c{number}"), stop_reason="max_tokens"))
            case _:
                self._acts(move, number)

    def _usage(self) -> Usage:
        return Usage(input_tokens=len(json.dumps(self.body)) // 4, output_tokens=50)

    def _acts(self, move: int, number: int) -> None:
        signature = rules.signature(self.body, len(self.body["messages"]))
        thought = {"type": "thinking", "thinking": "Hm.", "signature": signature}
        uses = [
            tool_use(given={"command": f"echo {number}"}, id=f"t{number}"),
            tool_use("ask_user", {"question": f"{number}?"}, id=f"q{number}"),
            tool_use("read_file", {"file_path": f"{number}.py"}, id=f"r{number}"),
        ]
        kept = [use for place, use in enumerate(uses) if (move - 18) >> place & 1] or uses[:1]
        self.scenario.do(answer(thought, *kept, usage=self._usage()))

    def _judges(self, move: int, number: int) -> None:
        if move % 3 == 0:
            uses = tuple(tool_use("read_file", {"file_path": f"{n}.py"}, id=f"j{number}{n}") for n in (1, 2))
        elif move % 7 == 0:
            uses = (tool_use("report_verdicts", {"verdicts": []}, id=f"v{number}"),)
        else:
            given = [{"criterion": n, "met": n == 1 or move % 2 == 0, "evidence": "a.py:1"} for n in (1, 2)]
            uses = (tool_use("report_verdicts", {"verdicts": given}, id=f"v{number}"),)
        self.scenario.do(answer(*uses, usage=self._usage()))
