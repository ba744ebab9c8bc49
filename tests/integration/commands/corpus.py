"""Reads the corpus: commands and file edits as coding agents send them, one file for each kind of work.

`$ ` begins a command, `> ` continues it, `! ` is a call of a file tool with its input as JSON. `? PROGRAM` leaves out
the step below it where the program is not installed. `~ content NAME…` names files whose content differs at every run.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Step:
    """One call: `command` of bash, or `tool` with its `input`. `line` is its place in the file."""

    line: int
    command: str = ""
    tool: str = ""
    input: dict[str, Any] = field(default_factory=dict)
    needs: str | None = None


@dataclass
class Session:
    """The steps of one file, which run in order in one workspace."""

    name: str
    steps: list[Step] = field(default_factory=list)
    varying: set[str] = field(default_factory=set)


def read(path: Path) -> Session:
    session = Session(path.stem)
    needs: str | None = None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        kind, text = line[:1], line[2:]
        if kind == "$":
            session.steps.append(Step(number, text, needs=needs))
        elif kind == ">":
            last = session.steps.pop()
            session.steps.append(Step(last.line, f"{last.command}\n{text}", needs=last.needs))
        elif kind == "!":
            tool, _, value = text.partition(" ")
            session.steps.append(Step(number, tool=tool, input=json.loads(value)))
        elif kind == "~":
            session.varying |= set(text.split()[1:])
        needs = text if kind == "?" else None
    return session


def sessions() -> list[Session]:
    return [read(path) for path in sorted(FOLDER.glob("*.txt"))]
