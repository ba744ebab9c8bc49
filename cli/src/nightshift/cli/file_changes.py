"""Finds the file changes of the agent's own tools in the events of a build, turn by turn. Pure.

Files that shell commands write are not in the log. `nightshift diff` compares whole snapshots instead.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from nightshift.contracts.events.build import ToolCallRequested
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.model import BlobRef
from nightshift.contracts.tools import Document, EditFile, WriteFile
from nightshift.eventlog.port import RecordedEvent


@dataclass(frozen=True, slots=True)
class FileChange:
    """One change of a file. `diff` is a unified diff without its header.

    `cut` is True when lines at the end of the diff are left out.
    """

    turn: int
    version: int
    path: str
    diff: tuple[str, ...]
    cut: bool = False


def file_changes(events: Sequence[RecordedEvent], *, longest: int = 400) -> Iterator[FileChange]:
    """Yields every successful change of a file, in the order of the results. Shortens a diff to `longest` lines."""
    asked: dict[str, ToolCallRequested] = {}
    known: dict[str, str] = {}
    for event in events:
        fact = event.data
        if isinstance(fact, ToolCallRequested):
            asked[fact.call_id] = fact
        elif isinstance(fact, ToolCallCompleted) and not fact.is_error and fact.call_id in asked:
            call = asked[fact.call_id]
            change = _change(call, known)
            if change is not None:
                path, before, after = change
                lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=2))[
                    2:
                ]
                yield FileChange(call.turn, event.version, path, tuple(lines[:longest]), len(lines) > longest)


def _change(call: ToolCallRequested, known: dict[str, str]) -> tuple[str, str, str] | None:
    """Returns the path, the old text and the new text of a change, or None when the call changed no file.

    `known` maps paths to whole texts, and is updated. For an edit of a file that is not in it, the texts are only the
    edited part.
    """
    if isinstance(call.input, BlobRef):
        return None
    try:
        match call.tool:
            case WriteFile.tool:
                return _written(WriteFile.model_validate(call.input), known)
            case Document.tool:
                return _written(Document.model_validate(call.input), known)
            case EditFile.tool:
                return _edited(EditFile.model_validate(call.input), known)
            case _:
                return None
    except ValidationError:
        return None


def _written(given: WriteFile | Document, known: dict[str, str]) -> tuple[str, str, str]:
    before = known.get(given.file_path, "")
    known[given.file_path] = given.content
    return given.file_path, before, given.content


def _edited(given: EditFile, known: dict[str, str]) -> tuple[str, str, str]:
    before = known.get(given.file_path)
    if not given.old_string:  # a new file
        known[given.file_path] = given.new_string
        return given.file_path, "", given.new_string
    if before is None or given.old_string not in before:
        known.pop(given.file_path, None)
        return given.file_path, given.old_string, given.new_string
    after = before.replace(given.old_string, given.new_string, -1 if given.replace_all else 1)
    known[given.file_path] = after
    return given.file_path, before, after
