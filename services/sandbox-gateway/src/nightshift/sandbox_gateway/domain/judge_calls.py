"""Limits a judge to tools that read: it sees the workspace of a build but cannot change it."""

from nightshift.contracts.events.build import ToolCallRequested
from nightshift.contracts.tools import JUDGE_TOOLS
from nightshift.sandbox_gateway.domain.call_outcome import CallOutcome


def refused(asked: ToolCallRequested) -> CallOutcome | None:
    """Return an error if the judge calls a tool that may write. Returns None for every other call: it may run."""
    model = JUDGE_TOOLS.get(asked.tool)
    if asked.purpose != "judge" or (model is not None and model.effect == "read" and model.needs_sandbox):
        return None
    names = ", ".join(name for name, one in JUDGE_TOOLS.items() if one.needs_sandbox)
    return CallOutcome(f"a judge only reads; there are: {names}", "refused")
