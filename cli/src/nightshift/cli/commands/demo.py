"""`nightshift demo`: runs a whole build, including a sleep, on a stack of its own."""

import asyncio
import os
import shutil
import signal
import tempfile
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import cyclopts

from nightshift.cli.build_status import BuildStatus
from nightshift.cli.commands.build import read_request
from nightshift.cli.connect import Json
from nightshift.cli.demo_plan import DemoPlan, plan_demo
from nightshift.cli.exits import Exit
from nightshift.cli.follow import Stop, follow, outcome
from nightshift.cli.output import note, progress, write_fields, write_json, write_line
from nightshift.cli.producer import checked, send
from nightshift.cli.queries import open_builds
from nightshift.cli.stack import start_stack
from nightshift.cli.text import dollars
from nightshift.contracts.events.account import AccountOpened
from nightshift.contracts.events.requests import BuildRequested
from nightshift.devstack.model.scenario import load_scenario
from nightshift.eventlog.errors import NightshiftError

app = cyclopts.App(name="demo")

_SUMMARY = (
    "build_id",
    "status",
    "sandbox_id",
    "preview_url",
    "build_version",
    "turns",
    "tool_calls",
    "checkpoints",
    "snapshots",
    "sleeps",
    "cost_microusd",
    "events",
)
_KEPT = """
The stack goes on running. Look around:
  open {preview}
  nightshift builds --home {home}
  nightshift replay {build} --home {home}
  nightshift account show demo --home {home}
Stop it:
  nightshift down --home {home}   (or end process {pid})"""
_PERIOD_DAYS = 30
#: Seconds to wait for the last snapshot after the build has ended.
_AFTER_END = 10.0
#: Seconds the preview may take to answer.
_PREVIEW = 10.0


@app.default
def demo(
    *,
    keep: bool = False,
    idea: Path | None = None,
    scenario: Path | None = None,
    model: str | None = None,
    home: Path | None = None,
    json: Json = False,
) -> int:
    """Build a small web app from an idea: think, act, observe, checkpoint, run out of money, sleep, wake, be ready.

    Uses Claude when ANTHROPIC_API_KEY is set, else a scripted model. Uses E2B when E2B_API_KEY is set, else a local
    sandbox. The first lines say which. Stops everything at the end unless `--keep` is given.

    For example:

        nightshift demo

        nightshift demo --keep

        nightshift demo --json | tail -1 | jq .preview_url

    Args:
        keep: Leave the stack running at the end, and say how to look around and how to stop it.
        idea: The request file. Default, a library of tools that neighbours lend.
        scenario: The script of the scripted model. It is used then even when ANTHROPIC_API_KEY is set.
        model: The model to think with.
        home: The folder of the stack. Default, a new one, removed at the end.
    """
    planned = plan_demo(os.environ, idea=idea, scenario=scenario, model=model)
    request = _request(planned)  # errors in the files are reported before anything starts
    for line in planned.banner():
        (note if json else write_line)(line)
    place = home or Path(tempfile.mkdtemp(prefix="nightshift-demo-"))
    stays = False
    try:
        code, stays = asyncio.run(_demo(planned, request, place, keep=keep, as_json=json))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None  # a signal ended the demo, which has the effect of Ctrl-C
    finally:
        if home is None and not stays:
            shutil.rmtree(place, ignore_errors=True)
    if code is Exit.OK and not stays and not json:
        note(
            "\nEverything is stopped. `nightshift demo --keep` leaves it running, with the preview to look at."
        )
    return code


def _request(planned: DemoPlan) -> BuildRequested:
    """Reads the request file and checks the scenario. Raises NotFound, Refused or BadScenario."""
    if planned.scenario is not None:
        load_scenario(planned.scenario)
    fields = {"project_id": "demo", **read_request(planned.idea)}
    fields |= {"build_id": f"demo-{uuid4().hex[:8]}", "account_id": "demo", "model": planned.model}
    return checked(BuildRequested, fields)


async def _demo(
    planned: DemoPlan, request: BuildRequested, home: Path, *, keep: bool, as_json: bool
) -> tuple[Exit, bool]:
    """Runs the demo. Returns the exit code, and whether the stack is still running."""
    began = time.monotonic()
    _end_on_signals()
    arguments = [] if planned.scenario is None else ["--scenario", str(planned.scenario)]
    progress("starting a stack of its own: PostgreSQL, a broker, an object store, a model, five services…")
    stack = await start_stack(home, arguments=arguments, environment=planned.environment, outlives_us=keep)
    kept = False
    try:
        if not as_json:
            write_line(f"stack    up after {time.monotonic() - began:.1f} s, in {home}\n")
        status, code = await _build(planned, request, home, as_json=as_json)
        if code is Exit.OK and not await asyncio.to_thread(answers, status.preview_url):
            note(f"error: the build is ready, but its preview {status.preview_url} does not answer")
            code = Exit.ERROR
        kept = keep
        if keep:
            note(_KEPT.format(home=home, build=status.build_id, preview=status.preview_url, pid=stack.pid))
        found = status.as_json(datetime.now(UTC))
        summary = {name: found[name] for name in _SUMMARY}
        summary["seconds"] = round(time.monotonic() - began, 1)
        if as_json:
            write_json(summary)
        else:
            write_line()
            cost = {"cost": dollars(summary.pop("cost_microusd"))}
            write_fields(summary | cost)
        return code, kept
    finally:
        if not kept:
            await stack.stop()


async def _build(
    planned: DemoPlan, request: BuildRequested, home: Path, *, as_json: bool
) -> tuple[BuildStatus, Exit]:
    build_id = request.build_id
    period = {"period_budget_microusd": planned.day_microusd * _PERIOD_DAYS, "period_days": _PERIOD_DAYS}
    await send(home, checked(AccountOpened, {"account_id": request.account_id, **period}))
    async with open_builds(home) as builds:
        # Kafka keeps no order between the two requests, because their keys differ.
        async with asyncio.timeout(20):
            while not await builds.has_account(request.account_id):
                await asyncio.sleep(0.05)
        await send(home, request)
        return await follow(builds.follow(build_id, patience=30.0), build_id, as_json=as_json, stop=_ended())


def _ended() -> Stop:
    """Returns a function that decides when to stop following the build: after its end and its last snapshot.

    It waits for that snapshot for at most 10 s.
    """
    deadline: list[float] = []

    def stop(status: BuildStatus) -> Exit | None:
        code = outcome(status)
        if code is None:
            return None
        deadline.append(time.monotonic() + _AFTER_END)
        return code if status.completed_snapshot or time.monotonic() > deadline[0] else None

    return stop


def answers(url: str | None) -> bool:
    """Returns whether the preview at this URL answers over HTTP."""
    if not url or not url.startswith(("http://", "https://")):
        return False
    try:
        with urllib.request.urlopen(url, timeout=_PREVIEW) as answer:  # noqa: S310 - checked above
            return bool(answer.status < 400)
    except OSError:
        return False


def _end_on_signals() -> None:
    """Makes SIGTERM and SIGHUP end the demo like Ctrl-C, so that everything is stopped in order."""
    task = asyncio.current_task()
    if task is None:
        raise NightshiftError("a demo runs in a task")
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
