"""One tool call from its input to its outcome."""

from typing import Any

from pydantic import ValidationError

from nightshift.contracts.tools import (
    TOOLS,
    Bash,
    Document,
    EditFile,
    Glob,
    Grep,
    Narrate,
    OpenPort,
    ReadFile,
    ToolInput,
    WriteFile,
)
from nightshift.sandbox_gateway.domain.outcome import Outcome
from nightshift.sandbox_gateway.usecases.tools import files
from nightshift.sandbox_gateway.usecases.tools.bash import bash
from nightshift.sandbox_gateway.usecases.tools.context import Context
from nightshift.sandbox_gateway.usecases.tools.ports import Http, open_port
from nightshift.sandbox_gateway.usecases.tools.tell import narrate
from nightshift.sandboxes.errors import FileRefused


def validated(tool: str, value: dict[str, Any]) -> ToolInput | Outcome:
    """The input as its model, or the error that tells the agent what is wrong with it, field by field."""
    model = TOOLS.get(tool)
    if model is None:
        return Outcome(f"there is no tool {tool[:128]!r}; there are: {', '.join(TOOLS)}", "unknown_tool")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        complaints = [
            f"{'.'.join(map(str, detail['loc'])) or 'input'}: {detail['msg'].removeprefix('Value error, ')}"
            for detail in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        return Outcome("; ".join(complaints), "bad_input")


def without_sandbox(ask: ToolInput) -> Outcome | None:
    """The outcome of a tool that needs no sandbox."""
    return narrate(ask) if isinstance(ask, Narrate) else None


def needing_no_sandbox(tool: str, value: dict[str, Any]) -> Outcome | None:
    """The outcome of a call, good or refused, whose tool needs no sandbox; none for any other tool."""
    if tool != Narrate.tool:
        return None
    ask = validated(tool, value)
    return ask if isinstance(ask, Outcome) else without_sandbox(ask)


async def run(ctx: Context, ask: ToolInput, http: Http) -> Outcome:
    """Raises SandboxGone and SandboxUnavailable; all else that can go wrong is in the outcome."""
    try:
        match ask:
            case Bash():
                return await bash(ctx, ask)
            case ReadFile():
                return await files.read_file(ctx, ask)
            case WriteFile() | Document():
                return await files.write_file(ctx, ask)
            case EditFile():
                return await files.edit_file(ctx, ask)
            case Glob():
                return await files.glob(ctx, ask)
            case Grep():
                return await files.grep(ctx, ask)
            case OpenPort():
                return await open_port(ctx, ask, http)
            case _:
                raise NotImplementedError(ask.tool)
    except FileRefused as error:
        return files.refused(error)
