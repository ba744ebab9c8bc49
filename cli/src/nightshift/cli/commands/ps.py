"""`nightshift ps`: what runs in a stack on this machine."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from nightshift.cli.connect import DEFAULT_HOME
from nightshift.cli.output import write_json, write_table
from nightshift.devstack.stack.home import lives, read_stack
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
    """Show what runs in a stack.

    Examples:

        nightshift ps
        nightshift ps --json

    Parameters
    ----------
    home
        The folder of the stack.
    json
        Print the object that `nightshift up --json` printed, with process ids as they are now. A process that is
        not alive (it is being started again) has "alive": false beside its pid.
    """
    folder = home.absolute()
    told = read_stack(folder)
    if told is None:
        raise NotFound(f"no stack is ready on {folder}", hint="start one with `nightshift up`")
    for one in _processes(told):
        if one["pid"] is not None and not lives(one["pid"]):
            one["alive"] = False
    if json:
        write_json(told)
        return
    rows: list[tuple[object, ...]] = [
        (part, told[part]["pid"], _state(told[part]), hide_passwords(told[part][key]))
        for part, key in _ADDRESS.items()
        if part in told
    ]
    rows += [
        (name, one["pid"], _state(one), None)
        for name, replicas in told["services"].items()
        for one in replicas
    ]
    write_table(("NAME", "PID", "STATE", "ADDRESS"), rows)


def _processes(told: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (told[part] for part in _ADDRESS if part in told)
    for replicas in told["services"].values():
        yield from replicas


def _state(one: Mapping[str, Any]) -> str:
    if one["pid"] is None:
        return "not ours"
    return "runs" if one.get("alive", True) else "is started again"
