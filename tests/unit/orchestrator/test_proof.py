"""A build is ready only when its checks show that it works."""

import asyncio
from dataclasses import dataclass

import pytest
from tests.support import build_invariants
from tests.unit.orchestrator.build_scenario import REQUEST, BuildScenario, begun, text, tool_use, working

from nightshift.contracts.events.build import AgentSteered, BuildFailed, BuildReady, Phase
from nightshift.contracts.events.proof import CheckProof, PreviewProof, Proof
from nightshift.contracts.events.requests import Check
from nightshift.contracts.events.sandbox import PreviewOpened
from nightshift.contracts.events.snapshot import SnapshotSaved
from nightshift.contracts.tools import OpenPort
from nightshift.eventlog.errors import Fault
from nightshift.orchestrator.domain.checks import DETECT
from nightshift.orchestrator.domain.commands import Complete, Fail
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import RunMode
from nightshift.sandbox_gateway.usecases.tools.preview import open_port

NOTHING = "no tests found\n"
TESTED = "== make test\nRan 2 tests in 0.001s\n\nOK\n== exit code 0\n"
UNCOUNTED = "== make test\nfine\n== exit code 0\n"


def checks(*commands: str) -> dict:
    return {"checks": tuple(Check(name=f"check {n}", command=one) for n, one in enumerate(commands))}


def asking(**fields) -> BuildScenario:
    """A build of such a request, whose agent has run one command that writes."""
    scenario = begun(request=REQUEST.model_copy(update=fields))
    scenario.thinks(tool_use(given={"command": "echo x > a"}))
    scenario.results()
    return scenario


def with_preview(scenario: BuildScenario) -> BuildScenario:
    scenario.thinks(tool_use("open_port", {"port": 8000, "path": "/health"}))
    scenario.others(PreviewOpened(sandbox_id="s1", port=8000, url="http://h:9"))
    scenario.results(output="http://h:9/health answers with status 204")
    return scenario


def checked(scenario: BuildScenario, *outputs: str) -> BuildScenario:
    """The agent ends its work, and the calls of the round return these outputs."""
    scenario.thinks(text())
    for call, output in zip(scenario.state.tool_calls, outputs, strict=True):
        scenario.result(call, output)
    return scenario


def proof_of(scenario: BuildScenario) -> Proof | None:
    """The proof of a build that is ready now. Returns None when it is not ready."""
    if not isinstance(scenario.next(), Complete):
        return None
    scenario.do(Complete(build_version=1))
    assert build_invariants.proof([event.data for event in scenario.log]) == []
    return scenario.last(BuildReady).proof


def test_the_proof_names_commands_tests_and_preview():
    scenario = checked(with_preview(asking()), TESTED, "http://h:9/health answers with status 204")
    assert proof_of(scenario) == Proof(
        checks=(CheckProof(name="make test", command="make test", passed=True, exit_code=0),),
        tests_executed=2,
        preview=PreviewProof(url="http://h:9/health", path="/health", status=204),
    )


def test_the_proof_names_the_checks_of_the_request():
    scenario = checked(asking(**checks("make lint", "make unit")), "", TESTED)
    assert proof_of(scenario) == Proof(
        checks=tuple(
            CheckProof(name=f"check {n}", command=command, passed=True, exit_code=0)
            for n, command in enumerate(("make lint", "make unit"))
        ),
        tests_executed=2,
    )


@pytest.mark.parametrize(
    ("fields", "outputs", "proven"),
    [
        ({}, [TESTED], True),
        ({}, [NOTHING], False),
        ({}, [UNCOUNTED], False),
        (checks("true"), [""], True),
        ({"proof": "tests"}, [TESTED], True),
        ({"proof": "tests"}, [UNCOUNTED], False),
        ({"proof": "tests"} | checks("true"), ["", TESTED], True),
        ({"proof": "tests"} | checks("true"), ["", NOTHING], False),
        ({"proof": "preview"}, [TESTED], False),
        ({"proof": "checks"}, [UNCOUNTED], True),
        ({"proof": "checks"}, [NOTHING], False),
        ({"proof": "checks"} | checks("true"), [""], True),
        ({"proof": "none"}, [NOTHING], True),
    ],
)
def test_what_is_proof_depends_on_the_request(fields, outputs, proven):
    shown = proof_of(checked(asking(**fields), *outputs))
    assert (shown is not None) == proven
    assert shown is None or shown.mode == fields.get("proof")


@pytest.mark.parametrize(("mode", "proven"), [(None, True), ("preview", True), ("tests", False)])
def test_an_answer_of_the_preview_is_proof_unless_tests_are_demanded(mode, proven):
    scenario = with_preview(asking(proof=mode))
    checked(scenario, NOTHING, "http://h:9/health answers with status 200")
    assert (proof_of(scenario) is not None) == proven


def test_an_unproven_build_goes_back_and_then_fails():
    scenario = working(policy=Policy(check_tries=2))
    checked(scenario, NOTHING)
    scenario.step()
    assert scenario.state.phase is Phase.CODE
    told = scenario.last(AgentSteered)
    assert told.reason == "unproven"
    assert "no test was executed" in told.message
    checked(scenario, NOTHING)
    assert isinstance(scenario.next(), Fail)
    scenario.step()
    assert scenario.last(BuildFailed).reason == "unproven"


def test_failed_and_unproven_rounds_are_counted_together():
    scenario = working(policy=Policy(check_tries=3))
    scenario.thinks(text())
    scenario.results(is_error=True, exit_code=1)
    scenario.step()
    checked(scenario, NOTHING)
    scenario.step()
    checked(scenario, NOTHING)
    scenario.step()
    assert scenario.last(BuildFailed).reason == "unproven"


def test_an_unproven_build_cannot_be_completed():
    scenario = checked(asking(), NOTHING)
    with pytest.raises(Fault, match="proof"):
        scenario.do(Complete(build_version=1))


def test_checks_prove_nothing_about_an_agent_that_wrote_nothing():
    scenario = begun(request=REQUEST.model_copy(update=checks("true")))
    scenario.thinks(tool_use("read_file", {"file_path": "a"}))
    scenario.results()
    assert proof_of(checked(scenario, "")) is None


@pytest.mark.parametrize(
    ("command", "proves"),
    [
        ("ls -la && cat README.md | head -3", False),
        ("echo done", False),
        ("grep -rn TODO . 2>/dev/null; git status", True),
        ("echo done > app.py", True),
        ("touch a", True),
        ('sh -c "$DO"', True),
        ("ls; python3 make.py", True),
    ],
)
def test_a_command_that_only_reads_proves_no_work(command: str, proves: bool):
    scenario = begun(request=REQUEST.model_copy(update=checks("true")))
    scenario.thinks(tool_use(given={"command": command}))
    scenario.results()
    assert (proof_of(checked(scenario, "")) is not None) is proves


def saved(files: int, at_version: int) -> SnapshotSaved:
    return SnapshotSaved(
        reason="checkpoint",
        at_version=at_version,
        tree_digest="sha256:" + "0" * 64,
        files=files,
        bytes=0,
        uploaded_bytes=0,
        key="k",
    )


@pytest.mark.parametrize(("files", "late", "proves"), [(0, False, False), (1, False, True), (0, True, True)])
def test_an_empty_snapshot_takes_back_that_a_command_wrote(files: int, late: bool, proves: bool):
    scenario = begun(request=REQUEST.model_copy(update=checks("true")))
    before = scenario.state.version
    scenario.thinks(tool_use(given={"command": "echo x > a"}))
    scenario.results()
    scenario.others(saved(files, before if late else scenario.state.version))
    assert (proof_of(checked(scenario, "")) is not None) is proves


@pytest.mark.parametrize("effort", ["failing calls", "reads only", "none"])
def test_a_build_without_effort_never_becomes_ready(effort):
    scenario = begun()
    for turn in range(60):
        if scenario.state.mode is RunMode.ENDED:
            break
        if isinstance(scenario.next(), Fail) or scenario.state.tool_calls:
            scenario.step()
        elif turn % 4 == 3 or effort == "none":
            scenario.thinks(text("Done."))
            scenario.results(output=NOTHING)
        else:
            command = f"grep {turn} ." if effort == "reads only" else f"nonsense {turn}"
            scenario.thinks(tool_use(given={"command": command}))
            failed = effort == "failing calls"
            scenario.results(is_error=failed, exit_code=127 if failed else 0, output=f"{turn}")
    assert scenario.last(BuildFailed).reason == "unproven"
    assert "build.ready" not in scenario.types()


def test_a_demand_for_nothing_is_named_in_the_proof():
    scenario = begun(request=REQUEST.model_copy(update={"proof": "none"}))
    scenario.thinks(text("Nothing to do."))
    checked(scenario, NOTHING)
    assert proof_of(scenario) == Proof(mode="none")


def test_tests_are_detected_beside_checks_when_tests_are_demanded():
    scenario = asking(proof="tests", **checks("make lint"))
    scenario.thinks(text())
    commands = [call.input["command"] for call in scenario.requested_calls()][-2:]
    assert commands == ["make lint", DETECT]


@dataclass
class Sandbox:
    async def open_port(self, port: int) -> str:
        return f"http://h:{port}/"


@dataclass
class Context:
    sandbox: Sandbox
    timeout_s: int = 5

    def link(self, port: int) -> None:
        """Return no signed address."""


@dataclass
class Probe:
    async def status(self, url: str) -> int:
        return 201


async def test_the_gateways_report_of_a_preview_is_understood():
    context = Context(Sandbox())
    context.cancelled = asyncio.Event()
    outcome = await open_port(context, OpenPort(port=8000, path="/app"), Probe())
    shown = proof_of(checked(with_preview(asking(proof="preview")), NOTHING, outcome.output))
    assert shown is not None
    assert shown.preview == PreviewProof(url="http://h:9/health", path="/health", status=201)
