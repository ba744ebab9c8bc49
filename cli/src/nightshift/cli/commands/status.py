"""`nightshift status`: shows what the installation does now."""

from dataclasses import asdict

from cyclopts import App

from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.operations import InstallationStatus, installation_status
from nightshift.cli.output import write_json, write_line, write_table
from nightshift.servicekit import logs

app = App(name="status")


@app.default
async def status(*, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Show the processes of all services with their versions, the work in hand, leases, lag and dead letters.

    A process is shown while it has reported within the last 12 seconds. Sleeping builds are `sleeper`, builds that run
    have a `lease/build`. For example:

        nightshift status

        nightshift status --json
    """
    logs.configure(level="warning", format="console")  # stdout is for data
    found = await installation_status(home)
    if json:
        write_json(asdict(found))
    else:
        _write(found)


def _write(found: InstallationStatus) -> None:
    write_table(
        ("SERVICE", "REPLICA", "VERSION", "SINCE", "HOLDS", "ROOM", "STATE"),
        [
            (
                one.service,
                one.replica,
                one.version,
                one.started_at,
                one.held,
                one.room,
                "drained" if one.drained else "runs",
            )
            for one in found.replicas
        ],
    )
    write_line()
    write_table(("WORK", "NUMBER", "OLDEST"), [(one.kind, one.number, one.oldest) for one in found.work])
    write_line()
    write_table(
        ("CONSUMER GROUP", "UNREAD", "OLDEST, S"),
        [
            (one.group, one.unread, None if one.waiting_s is None else round(one.waiting_s))
            for one in found.lag
        ],
    )
    write_line()
    write_line(f"{found.open_dead_letters} open dead letters" + _hint(found.open_dead_letters))


def _hint(letters: int) -> str:
    return " (`nightshift dlq list` shows them)" if letters else ""
