"""The tool bash. It runs a command to its end, or starts it in the background.

A background command has a handle, with which later calls read its output, restart it or stop it.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from nightshift.contracts.tools import Bash
from nightshift.sandbox_gateway.domain.call_outcome import CallOutcome, ErrorKind
from nightshift.sandbox_gateway.domain.exit_status import is_failure
from nightshift.sandbox_gateway.domain.limit_notes import limit_notes
from nightshift.sandbox_gateway.domain.text import printable
from nightshift.sandbox_gateway.usecases.tools.context import Context
from nightshift.sandboxes.errors import AgentBroken, FileRefused, SandboxUnavailable
from nightshift.sandboxes.port import CallSpec, CallStatus

#: Seconds after the supervisor's own timeout before the gateway itself ends the call.
_GRACE_S = 10.0
_POLL_S = 30.0
#: Seconds that the first request waits for the end of a command, and the number of attempts to run and to end a call.
_FIRST_WAIT_S = 0.5
_ATTEMPTS = 3
#: What bash writes about a process that was killed.
_KILLED = "Killed"
#: A file in the sandbox with the directory where the last command with `keep_directory` ended.
_LAST_DIRECTORY = "/tmp/.nightshift-directory"  # noqa: S108
#: Seconds to wait after the start of a background command, to notice one that fails at once.
_SETTLE_S = 0.7
_OUTPUT_BYTES = 8 * 1024 * 1024 + 512 * 1024


async def bash(ctx: Context, ask: Bash) -> CallOutcome:
    match ask.action:
        case "run" if ask.run_in_background:
            return await _background(ctx, ask.command or "")
        case "run":
            return await _foreground(ctx, ask)
        case "read":
            return await _read(ctx, ask.handle or "")
        case "stop":
            return await _stop(ctx, ask.handle or "")
        case _:
            return await _restart(ctx, ask)


async def _foreground(ctx: Context, ask: Bash) -> CallOutcome:
    command, timeout_s = ask.command or "", min(ask.timeout_s or ctx.timeout_s, ctx.timeout_s)
    script = in_last_directory(command) if ask.keep_directory else command
    status = await run_once(ctx, _spec(ctx, script, timeout_s))
    text = await output_of(ctx, ctx.call_id, status)
    if status.state == "died":
        return CallOutcome(
            f"{text}\n[the command's supervisor was killed; how the command ended is not known]", "tool"
        )
    if status.timed_out:
        note = f"[ended after {timeout_s:g} s, with everything it started]{await _limits(ctx)}"
        return CallOutcome(f"{text}\n{note}", "timeout", whole_in=_kept_in(status, text))
    if status.stopped:
        return CallOutcome(f"{text}\n[stopped]", "cancelled")
    code = status.exit_code or 0
    kind: ErrorKind | None = "exit" if is_failure(command, code, errors="[stderr]\n" in text) else None
    failed = kind is not None or _KILLED in text
    notes = f"[exit code {code}]{await _limits(ctx, code) if failed else ''}"
    return CallOutcome(_joined(text, notes), kind, exit_code=code, whole_in=_kept_in(status, text))


async def _limits(ctx: Context, exit_code: int | None = None) -> str:
    """Return notes about the limits of the sandbox that the command reached, each on a line of its own.

    Returns "" when none was reached or the sandbox does not answer.
    """
    try:
        notes = limit_notes(await ctx.sandbox.usage(), exit_code=exit_code)
    except (FileRefused, SandboxUnavailable):  # the command's result is more important than these notes
        return ""
    return "".join(f"\n[{note}]" for note in notes)


def in_last_directory(command: str) -> str:
    """Return the command, changed so that it starts in the directory in which the previous foreground command ended.

    When that directory is gone, the command's output says so.
    """
    last = f'"$(cat {_LAST_DIRECTORY} 2>/dev/null || pwd)"'
    return f"cd -- {last}; trap 'pwd -P > {_LAST_DIRECTORY}' EXIT; {command}"


def _kept_in(status: CallStatus, text: str) -> str | None:
    """Return the names of the files in the sandbox with the whole output, for the note in a shortened output.

    They exist until the sandbox ends, for example when the build sleeps. None when the output is not in files.
    """
    names = [
        *(() if text.startswith("[stderr]\n") else ("out",)),
        *(("err",) if "[stderr]\n" in text else ()),
    ]
    files = " and ".join(f"{status.folder}/{name}" for name in names)
    return f"{files} (until you sleep or get another sandbox)" if status.folder else None


async def run_once(ctx: Context, spec: CallSpec) -> CallStatus:
    """Start the command, unless any replica of the sandbox gateway started it before. Then wait for its end.

    Raises AgentBroken when, after several attempts, the sandbox has no record of the command, or still reports it as
    running.
    """
    deadline = asyncio.get_running_loop().time() + (spec.timeout_s or 0) + _GRACE_S
    ctx.fail.reach("before_run")
    for _ in range(_ATTEMPTS):
        async with ctx.watch():
            status = await _unless_cancelled(ctx, ctx.sandbox.run_call(spec, wait_s=_FIRST_WAIT_S))
        ctx.fail.reach("after_start")
        if status.state == "running":
            status = await _ended(ctx, spec.call_id, deadline)
        if status.state not in ("unknown", "running"):
            ctx.fail.reach("after_run")
            return status
    raise AgentBroken(f"call {spec.call_id} is {status.state} after {_ATTEMPTS} attempts to run or end it")


async def _ended(ctx: Context, call_id: str, deadline: float) -> CallStatus:
    """Wait for the end of a running call. At the deadline, or when the build has ended, end the call by force."""
    while True:
        left = deadline - asyncio.get_running_loop().time()
        if ctx.cancelled.is_set() or left <= 0:
            return await ctx.sandbox.stop_call(call_id, grace_s=0)
        waiting = ctx.sandbox.wait_call(call_id, wait_s=min(left, _POLL_S))
        status = await _unless_cancelled(ctx, waiting)
        if status.state != "running":
            return status


async def _unless_cancelled(ctx: Context, asked: Coroutine[Any, Any, CallStatus]) -> CallStatus:
    """Return the result of `asked`, a request to the sandbox. Returns the state `running` as soon as the build is
    cancelled.
    """
    waiting = asyncio.create_task(asked)
    cancelled = asyncio.create_task(ctx.cancelled.wait())
    try:
        await asyncio.wait({waiting, cancelled}, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else CallStatus("running")
    finally:
        for task in (waiting, cancelled):
            task.cancel()
        await asyncio.gather(waiting, cancelled, return_exceptions=True)


async def _background(ctx: Context, command: str) -> CallOutcome:
    async with ctx.watch():
        await ctx.sandbox.note(ctx.call_id, command)  # for a restart
        await ctx.sandbox.run_call(_spec(ctx, command, None), wait_s=_SETTLE_S)
    status, text = await _new_output(ctx, ctx.call_id)
    if status.state == "running":
        return CallOutcome(f"running in the background; handle: {ctx.call_id}\n{text}".rstrip())
    code = status.exit_code
    notes = f"[ended at once, exit code {code}]{await _limits(ctx, code) if code else ''}"
    return CallOutcome(_joined(text, notes), "exit" if code else None, exit_code=code)


async def _read(ctx: Context, handle: str) -> CallOutcome:
    if (refused := _foreign(ctx, handle)) is not None:
        return refused
    status, text = await _new_output(ctx, handle)
    if status.state == "unknown":
        return _no_such(handle)
    return CallOutcome(_joined(text, f"[{_state(status)}]"), whole_in=_kept_in(status, text))


async def _stop(ctx: Context, handle: str) -> CallOutcome:
    if (refused := _foreign(ctx, handle)) is not None:
        return refused
    if (await ctx.sandbox.stop_call(handle)).state == "unknown":
        return _no_such(handle)
    return await _read(ctx, handle)


async def _new_output(ctx: Context, handle: str) -> tuple[CallStatus, str]:
    """Return the state of a background command, and as text its output since the last call that read it."""
    status = await ctx.sandbox.new_output(handle, reader=ctx.call_id)
    return status, _text(status.output or (b"", b""))


async def _restart(ctx: Context, ask: Bash) -> CallOutcome:
    """Stop a background command and start it again. The new run has the id of this call as its handle.

    So a repetition of this call does not restart the command again.
    """
    handle = ask.handle or ""
    if (refused := _foreign(ctx, handle)) is not None:
        return refused
    command = ask.command or await ctx.sandbox.note(handle)
    if command is None:
        return _no_such(handle)
    await ctx.sandbox.stop_call(handle)
    return await _background(ctx, command)


def _spec(ctx: Context, command: str, timeout_s: float | None) -> CallSpec:
    return CallSpec(ctx.call_id, ("bash", "-c", command), env=ctx.env, timeout_s=timeout_s)


def _foreign(ctx: Context, handle: str) -> CallOutcome | None:
    """Return an error for the agent when `handle` is not the id of a call of this build. Otherwise returns None."""
    parts = handle.split("/")
    if len(parts) == 3 and parts[0] == ctx.build_id and parts[1].isdigit() and parts[2].isdigit():
        return None
    return _no_such(handle)


def _no_such(handle: str) -> CallOutcome:
    return CallOutcome(f"handle: there is no background command {handle!r}", "bad_input")


def _joined(output: str, note: str) -> str:
    """Return the output with the note on a line of its own below. Keeps blank lines at the beginning of the output."""
    return f"{output}\n{note}" if output else note


def _state(status: CallStatus) -> str:
    if status.state == "running":
        return "still running"
    how = "stopped" if status.stopped else f"ended, exit code {status.exit_code}"
    return how if status.state == "finished" else "ended; its exit code is not known"


async def output_of(ctx: Context, call_id: str, status: CallStatus) -> str:
    """Return stdout and stderr of the call as text. A heading precedes stderr."""
    if status.output is not None:
        kept = status.output
    else:
        kept = (
            await ctx.sandbox.read_output(call_id, "out", limit=_OUTPUT_BYTES),
            await ctx.sandbox.read_output(call_id, "err", limit=_OUTPUT_BYTES),
        )
    return _text(kept)


def _text(kept: tuple[bytes, bytes]) -> str:
    out, err = (printable(data).rstrip("\n") for data in kept)
    if err:
        return f"{out}\n[stderr]\n{err}" if out else f"[stderr]\n{err}"
    return out
