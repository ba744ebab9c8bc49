"""The checks that run after the agent has ended its work, and the reports about failed checks."""

from collections.abc import Sequence

from nightshift.contracts.events.build import ToolCallRequested
from nightshift.contracts.model import BlobRef
from nightshift.orchestrator.domain.state import BuildState, ToolCall

#: The agent gets this many characters from the end of a failed check's output, because test tools print their result
#: there.
_SHOWN = 6_000
_DETECTED_TIMEOUT_S = 600
_PREVIEW_TIMEOUT_S = 60

#: A script that finds the tests of a project by its files, prints which tests it runs, and runs them. It exits with 1
#: when one fails, and with 0 when there are none. Its lines that begin with `==` name each command and its exit code.
DETECT = r"""
exec 2>&1
ran=0; failed=0
run() { echo "== $*"; "$@"; code=$?; ran=1; echo "== exit code $code"; if [ "$code" -ne 0 ]; then failed=1; fi; }
if [ -f Makefile ] && grep -qE '^test[[:space:]]*:' Makefile; then
  run make test
else
  if [ -f package.json ] && grep -q '"test"[[:space:]]*:' package.json \
      && ! grep -q 'no test specified' package.json; then
    run npm test --silent
  fi
  if [ -n "$(find . -path ./node_modules -prune -o -path ./.venv -prune -o \
      \( -name 'test_*.py' -o -name '*_test.py' \) -print | head -n 1)" ]; then
    python=python3; if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
    if "$python" -c 'import pytest' 2>/dev/null; then run "$python" -m pytest -q
    elif [ -d tests ]; then run "$python" -m unittest discover -s tests -t .
    else run "$python" -m unittest discover; fi
  fi
  if [ -f go.mod ]; then run go test -v ./...; fi
  if [ -f Cargo.toml ]; then run cargo test --quiet; fi
fi
if [ "$ran" -eq 0 ]; then echo "no tests found"; fi
exit "$failed"
""".strip()


def check_calls(state: BuildState) -> tuple[ToolCallRequested, ...]:
    """Return the tool calls of one round of checks: the request's checks, the project's tests, and the preview.

    The project's tests run when the request has no checks of its own, or when it demands tests. The preview is checked
    when the agent has opened a port.
    """
    accepted = state.request
    turn = state.conversation.turn

    def call(index: int, tool: str, given: dict[str, object], timeout_s: int) -> ToolCallRequested:
        return ToolCallRequested(
            call_id=f"{accepted.build_id}/{turn}/{index}",
            turn=turn,
            index=index,
            tool=tool,
            tool_use_id=f"check_{turn}_{index}",
            input=given,
            timeout_s=timeout_s,
            purpose="preview" if tool == "open_port" else "check",
        )

    calls = [
        call(index, "bash", {"command": check.command, "timeout_s": check.timeout_s}, check.timeout_s)
        for index, check in enumerate(accepted.checks)
    ]
    if not calls or accepted.proof == "tests":
        detect: dict[str, object] = {"command": DETECT, "timeout_s": _DETECTED_TIMEOUT_S}
        calls.append(call(len(calls), "bash", detect, _DETECTED_TIMEOUT_S))
    if state.workspace.preview_port is not None:
        given: dict[str, object] = {
            "port": state.workspace.preview_port,
            "path": state.workspace.preview_path or "/",
        }
        calls.append(call(len(calls), "open_port", given, _PREVIEW_TIMEOUT_S))
    return tuple(calls)


def failed(calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
    """Return the calls of a complete round of checks that failed: by an error, or by an exit code other than 0.

    So exit code 1 of `grep` is a failed check, although it is no error of the tool bash.
    """
    return tuple(
        call for call in calls if call.result is None or call.result.is_error or call.result.exit_code
    )


def report(state: BuildState) -> str:
    """Return the message to the agent about the failed checks."""
    parts = [
        f"{name_of(state, call)} failed{_how(call)}. Its output:\n{_tail(call)}"
        for call in failed(state.tool_calls)
    ]
    return "The build is not ready: the checks were run.\n\n" + "\n\n".join(parts)


def summary(state: BuildState) -> str:
    """Return one line about the failed checks, for the end of the build."""
    return "; ".join(f"{name_of(state, call)} failed{_how(call)}" for call in failed(state.tool_calls))


def name_of(state: BuildState, call: ToolCall) -> str:
    """Return the name of the check that this tool call runs, for a person to read."""
    checks = state.request.checks
    if call.purpose == "preview":
        return (
            f"The preview on port {state.workspace.preview_port}, path {state.workspace.preview_path or '/'},"
        )
    return f"The check {checks[call.index].name!r}" if call.index < len(checks) else "The project's own tests"


def _how(call: ToolCall) -> str:
    result = call.result
    if result is None:
        return ""
    if result.exit_code is not None:
        return f" with exit code {result.exit_code}"
    return " because the time was up" if result.error_kind == "timeout" else ""


def _tail(call: ToolCall) -> str:
    output = output_of(call)
    return output if len(output) <= _SHOWN else f"…{output[-_SHOWN:]}"


def output_of(call: ToolCall) -> str:
    """Return the output of a check, or "" when it has no result yet."""
    output = call.result.output if call.result is not None else ""
    return "(not fetched)" if isinstance(output, BlobRef) else output
