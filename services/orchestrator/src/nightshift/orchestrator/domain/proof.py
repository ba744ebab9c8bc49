"""Decides what a round of checks shows about a build, and whether that is enough for the build to be ready."""

import re

from nightshift.contracts.events.proof import CheckProof, PreviewProof, Proof
from nightshift.orchestrator.domain.checks import output_of
from nightshift.orchestrator.domain.executed_tests import executed_tests
from nightshift.orchestrator.domain.state import BuildState, ToolCall
from nightshift.orchestrator.domain.workspace import preview_address

#: A command that the script DETECT ran, with its exit code.
_DETECTED = re.compile(r"^== (?!exit code )(.+)$(?:(?!^== )[\s\S])*?^== exit code (\d+)$", re.MULTILINE)
#: The words in which the sandbox gateway reports the answer of a preview.
_STATUS = re.compile(r" answers with status ([1-5]\d\d)\b")

_MISSING = {
    None: "no test was executed, no preview answers, and no check of the request passed after files were written",
    "tests": "no test was executed, and this build must have tests that pass",
    "preview": "no preview answers, and this build must have one",
    "checks": "no check ran, because the project has none that can be found",
}
_PROVE = (
    "The build is not ready: nothing shows that it works: {missing}. Write tests and make them pass so that the test"
    " runner reports how many it executed, or start a server in the background and open its port with `open_port`."
)


def shown_by(state: BuildState) -> Proof:
    """Return what a complete round of checks has shown: its checks, the executed tests, and the preview's answer."""
    checks: list[CheckProof] = []
    tests, preview = 0, None
    for call in state.tool_calls:
        if call.result is None or call.purpose == "agent":
            continue
        if call.purpose == "preview":
            preview = _preview(state, call)
            continue
        tests += executed_tests(output_of(call))
        checks += _checks(state, call)
    return Proof(mode=state.request.proof, checks=tuple(checks), tests_executed=tests, preview=preview)


def missing(state: BuildState) -> str | None:
    """Return a text about the proof that is missing after a round of checks without failures.

    Returns None when the round shows what the request's field `proof` demands.
    """
    mode, shown = state.request.proof, shown_by(state)
    enough = {
        "none": True,
        "tests": shown.tests_executed > 0,
        "preview": shown.preview is not None,
        "checks": bool(shown.checks),
        None: shown.tests_executed > 0
        or shown.preview is not None
        or bool(state.request.checks and state.wrote),
    }
    return None if enough[mode] else _MISSING[mode]


def report(missing: str) -> str:
    """Return the message to the agent about a round of checks that shows too little. `missing` says what is missing."""
    return _PROVE.format(missing=missing)


def _preview(state: BuildState, call: ToolCall) -> PreviewProof | None:
    """Return the answer of the preview. Returns None when it did not answer, or answered with an HTTP error."""
    status = _STATUS.search(output_of(call))
    if status is None or call.result is None or call.result.is_error:
        return None
    path = state.workspace.preview_path or "/"
    return PreviewProof(url=preview_address(state.workspace), path=path, status=int(status[1]))


def _checks(state: BuildState, call: ToolCall) -> list[CheckProof]:
    """Return the check of the request that this call ran, or all commands that the script DETECT ran."""
    requested = state.request.checks
    if call.result is None:
        return []
    if call.index < len(requested):
        check, result = requested[call.index], call.result
        return [
            CheckProof(
                name=check.name,
                command=check.command,
                passed=not result.is_error,
                exit_code=result.exit_code,
            )
        ]
    return [
        CheckProof(name=command[:128], command=command[:8192], passed=code == "0", exit_code=int(code))
        for command, code in _DETECTED.findall(output_of(call))
    ]
