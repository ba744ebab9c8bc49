"""`nightshift ps`: shows the processes of a stack on this machine."""

from collections.abc import Iterator, Mapping
from typing import Any

from cyclopts import App

from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.output import note, write_json, write_table
from nightshift.cli.stack import addresses
from nightshift.devstack.stack.home import lives, read_stack
from nightshift.devstack.stack.restarts import RestartReport, read_restarts
from nightshift.eventlog.errors import NotFound

app = App(name="ps")


@app.default
def ps(*, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Show the processes of a stack, where they listen, and how often each exited in the last ten minutes.

    With --json it prints the object that `nightshift up --json` printed, with process ids as they are now. A process
    that is being restarted has "alive": false. One that exited in the last ten minutes has "restarts".

    For example:

        nightshift ps

        nightshift ps --json
    """
    folder = home.absolute()
    stack = read_stack(folder)
    if stack is None:
        raise NotFound(f"no stack is ready on {folder}", hint="start one with `nightshift up`")
    restarts = read_restarts(folder)
    listens = addresses(stack)
    processes = {**{part: stack[part] for part in listens}, **dict(_services(stack))}
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
            (name, one["pid"], state(one), one.get("restarts", {}).get("exits"), listens.get(name))
            for name, one in processes.items()
        ],
    )
    for name, report in restarts.items():
        note(f"{name} exited {report.summary()}")


def _services(stack: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each replica of each service in the description of a stack: its name in the supervisor, and its entry."""
    for service, replicas in stack["services"].items():
        for number, one in enumerate(replicas, start=1):
            yield service if number == 1 else f"{service} #{number}", one


def state(one: Mapping[str, Any]) -> str:
    """Returns the state of a process in words. `one` is the process's entry in the description of a stack."""
    if one["pid"] is None:
        return "not started by this stack"
    if one.get("restarts", {}).get("keeps_restarting"):
        return "keeps restarting"
    return "runs" if one.get("alive", True) else "restarting"


def _as_json(report: RestartReport) -> dict[str, Any]:
    last = report.exits[-1]
    return {
        "exits": len(report.exits),
        "last_exit_at": last.at,
        "last_exit_code": last.code,
        "keeps_restarting": report.keeps_restarting,
        "summary": report.summary(),
    }
