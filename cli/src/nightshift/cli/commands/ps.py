"""`nightshift ps`: the processes of a stack on this machine."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from nightshift.cli.connect import DEFAULT_HOME
from nightshift.cli.output import note, write_json, write_table
from nightshift.devstack.stack.home import lives, read_stack
from nightshift.devstack.stack.restarts import RestartReport, read_restarts
from nightshift.eventlog.errors import NotFound
from nightshift.eventlog.passwords import hide_passwords

app = App(name="ps")

_ADDRESS = {"postgres": "dsn", "kafka": "bootstrap", "s3": "endpoint", "model": "base_url"}


@app.default
def ps(
    *,
    home: Annotated[Path, Parameter(env_var="NIGHTSHIFT_HOME")] = DEFAULT_HOME,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Show the processes of a stack, where they listen, and how often each exited in the last ten minutes.

    Examples:

        nightshift ps
        nightshift ps --json

    Parameters
    ----------
    home
        The folder of the stack.
    json
        Print the object that `nightshift up --json` printed, with process ids as they are now. A process that is
        being restarted has "alive": false. One that exited in the last ten minutes has "restarts".
    """
    folder = home.absolute()
    stack = read_stack(folder)
    if stack is None:
        raise NotFound(f"no stack is ready on {folder}", hint="start one with `nightshift up`")
    restarts = read_restarts(folder)
    processes = dict(_processes(stack))
    for name, one in processes.items():
        if one["pid"] is not None and not lives(one["pid"]):
            one["alive"] = False
        if name in restarts:
            one["restarts"] = _as_json(restarts[name])
    if json:
        write_json(stack)
        return
    write_table(
        ("NAME", "PID", "STATE", "EXITS", "ADDRESS"),
        [
            (name, one["pid"], state(one), one.get("restarts", {}).get("exits"), _address(name, one))
            for name, one in processes.items()
        ],
    )
    for name, report in restarts.items():
        note(f"{name} exited {report.summary()}")


def _processes(stack: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each process of the stack: its name, as the supervisor uses it, and its entry in the description."""
    yield from ((part, stack[part]) for part in _ADDRESS if part in stack)
    for service, replicas in stack["services"].items():
        for number, one in enumerate(replicas, start=1):
            yield service if number == 1 else f"{service} #{number}", one


def state(one: Mapping[str, Any]) -> str:
    """Returns what the process does, in words."""
    if one["pid"] is None:
        return "not started by this stack"
    if one.get("restarts", {}).get("keeps_restarting"):
        return "keeps restarting"
    return "runs" if one.get("alive", True) else "restarting"


def _address(name: str, one: Mapping[str, Any]) -> str | None:
    return hide_passwords(one[_ADDRESS[name]]) if name in _ADDRESS else None


def _as_json(report: RestartReport) -> dict[str, Any]:
    last = report.exits[-1]
    return {
        "exits": len(report.exits),
        "last_exit_at": last.at,
        "last_exit_code": last.code,
        "keeps_restarting": report.keeps_restarting,
        "summary": report.summary(),
    }
