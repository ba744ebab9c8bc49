"""`nightshift doctor`: checks everything that builds need."""

from dataclasses import asdict

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.diagnosis import diagnose
from nightshift.cli.exits import Exit
from nightshift.cli.output import write_json, write_line

app = cyclopts.App(name="doctor")

_MARKS = {"pass": "ok  ", "warn": "warn", "fail": "FAIL"}


@app.default
async def doctor(*, home: Home = DEFAULT_HOME, json: Json = False) -> Exit:
    """Check everything that builds need, without changing or spending anything, and say how to fix what fails.

    The exit code is 4 when something fails; a warning alone is no failure.

    For example:

        nightshift doctor --json
    """
    findings = await diagnose(home)
    failed = any(one.status == "fail" for one in findings.values())
    if json:
        write_json([{"check": name, **asdict(one)} for name, one in findings.items()])
    else:
        for name, one in findings.items():
            write_line(f"{_MARKS[one.status]}  {name:<11} {one.detail}")
            if one.fix and one.status != "pass":
                write_line(f"                  fix: {one.fix}")
    return Exit.CONFIGURATION if failed else Exit.OK
