"""The trace span of a tool call. Its parent is the turn that requested the call. It contains no input and no output."""

from collections.abc import Iterator
from contextlib import contextmanager

from nightshift.contracts.tools import TOOLS
from nightshift.sandbox_gateway.domain.call_outcome import CallOutcome
from nightshift.sandbox_gateway.domain.sandbox_state import PendingCall, SandboxState
from nightshift.servicekit import tracing
from nightshift.servicekit.tracing import OpenSpan

_OUR_TOOLS = frozenset((*TOOLS, "report_verdicts", "prepare_workspace"))


def tool_name(call: PendingCall) -> str:
    """Return the tool of a call, for metrics and spans. Returns `unknown` for a name that the model has invented."""
    tool = call.asked.tool
    return tool if tool in _OUR_TOOLS else "unknown"


@contextmanager
def call_span(state: SandboxState, call: PendingCall) -> Iterator[OpenSpan]:
    """Run the block in the span of this call."""
    tool = tool_name(call)
    attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": tool,
        "gen_ai.tool.call.id": call.asked.call_id,
        "gen_ai.conversation.id": state.build_id,
    }
    with tracing.span(f"execute_tool {tool}", parent=call.traceparent, attributes=attributes) as span:
        yield span


def note_outcome(span: OpenSpan, outcome: CallOutcome) -> None:
    """If the call has failed, mark its span with the kind of the error."""
    if outcome.error_kind is not None:
        span.fail(outcome.error_kind)
