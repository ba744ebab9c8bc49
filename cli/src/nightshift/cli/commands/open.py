"""`nightshift open`: shows the app of a build, from its sandbox or from a snapshot in a new sandbox."""

import asyncio
import signal
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Annotated

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json
from nightshift.cli.errors import WrongUsage
from nightshift.cli.output import note, write_json, write_line
from nightshift.cli.snapshot_access import BuildSnapshots, FilesAt, open_snapshots
from nightshift.contracts.events.build import ToolCallRequested
from nightshift.contracts.events.sandbox import PreviewOpened, SandboxClosed, SandboxLost, SandboxOpened
from nightshift.contracts.model import BlobRef
from nightshift.contracts.tools import Bash
from nightshift.eventlog.errors import Unavailable
from nightshift.eventlog.port import RecordedEvent
from nightshift.sandboxes.port import CallSpec, Sandbox
from nightshift.sandboxes.settings import make_driver
from nightshift.sandboxes.snapshots.restore import restore

app = cyclopts.App(name="open")

#: Marks sandboxes of this command. Gateways leave them alone, because they end only sandboxes of builds.
_OWNER = "nightshift-open"
_READY_S = 60.0


@app.default
async def open_(
    build: BuildId,
    *,
    at: FilesAt = None,
    run: Annotated[str | None, cyclopts.Parameter(help="The shell command that starts the server.")] = None,
    port: Annotated[int | None, cyclopts.Parameter(help="The port that the server listens on.")] = None,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Print the address of a build's app. When its sandbox is gone, start the app from a snapshot until Ctrl-C.

    The server is started with the agent's own last command that ran in the background, unless `--run` names another.

    For example:

        nightshift open build-4f1c2a

        nightshift open build-4f1c2a --at turn:7 --run "python3 app.py" --port 8000
    """
    async with open_snapshots(home, build) as snapshots:
        url = _running(snapshots.events) if at is None and run is None else None
        if url is not None:
            write_json({"url": url}) if json else write_line(url)
            return
        command, listens = _server(snapshots.events)
        command, listens = run or command, port or listens
        if command is None or listens is None:
            raise WrongUsage(
                f"the log of {build} does not say how its server is started",
                hint='give --run "COMMAND" and --port N',
            )
        version, key, _ = await snapshots.load(at)
        settings = snapshots.settings.model_copy(
            update={"sandbox_dir": home / "sandboxes", "sandbox_owner": _OWNER}
        )
        driver = await make_driver(settings)
        sandbox = await driver.create(f"open-{build}", generation=version)
        try:
            await _show(snapshots, sandbox, key, (command, listens), json=json)
        finally:
            await sandbox.kill()


async def _show(
    snapshots: BuildSnapshots, sandbox: Sandbox, key: str, server: tuple[str, int], *, json: bool
) -> None:
    """Restore the snapshot, start the server, print its address, and wait for Ctrl-C."""
    command, port = server
    restored = await restore(sandbox, snapshots.store, key)
    for path, reason in restored.differs.items():
        note(f"{path}: {reason}")
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await sandbox.start_call(CallSpec("open/server/0", ["bash", "-c", command], timeout_s=None))
    url = await sandbox.open_port(port)
    await _answers(url, sandbox)
    write_json({"url": url}) if json else write_line(url)
    note("the app runs in a sandbox of its own until Ctrl-C")
    await stop.wait()


async def _answers(url: str, sandbox: Sandbox) -> None:
    """Wait until the server at this URL answers.

    Raises Unavailable, with the end of the server's output, when it does not answer in time.
    """
    deadline = asyncio.get_running_loop().time() + _READY_S
    while asyncio.get_running_loop().time() < deadline:
        if await asyncio.to_thread(_is_answered, url):
            return
        await asyncio.sleep(0.2)
    output = await sandbox.read_output("open/server/0", "err") or await sandbox.read_output(
        "open/server/0", "out"
    )
    raise Unavailable(
        f"the server did not answer within {_READY_S:.0f} s: {output.decode(errors='replace')[-500:]}",
        hint='name another command with --run "COMMAND", or another port with --port N',
    )


def _is_answered(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - the address of our own preview
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False


def _running(events: Sequence[RecordedEvent]) -> str | None:
    """Return the URL of the build's preview, or None when its sandbox is closed."""
    url = None
    for event in events:
        if isinstance(event.data, SandboxOpened | SandboxClosed | SandboxLost):
            url = None
        elif isinstance(event.data, PreviewOpened):
            url = event.data.url
    return url


def _server(events: Sequence[RecordedEvent]) -> tuple[str | None, int | None]:
    """Return the command that starts the build's server, and its port. Each is None when the events do not show it.

    The command is the agent's last one that left a process in the background before its last preview.
    """
    command, found, port = None, None, None
    for event in events:
        fact = event.data
        if (
            isinstance(fact, ToolCallRequested)
            and fact.tool == Bash.tool
            and not isinstance(fact.input, BlobRef)
        ):
            text = str(fact.input.get("command", ""))
            if "&" in text.replace("&&", "").replace(">&", "").replace("&>", "") or fact.input.get(
                "background"
            ):
                command = text
        elif isinstance(fact, PreviewOpened):
            found, port = command, fact.port
    return found, port
