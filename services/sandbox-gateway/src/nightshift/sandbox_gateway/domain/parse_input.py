"""Validates the input of a tool call. Errors name each wrong field, and the name that was probably meant."""

import difflib
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from nightshift.contracts.tools import TOOLS, ToolInput
from nightshift.sandbox_gateway.domain.call_outcome import CallOutcome

#: Names of tools that models know from elsewhere → our names. Below: the same for fields.
_TOOLS: Final = {
    "read": "read_file",
    "view": "read_file",
    "cat": "read_file",
    "write": "write_file",
    "create": "write_file",
    "create_file": "write_file",
    "edit": "edit_file",
    "multiedit": "edit_file",
    "str_replace": "edit_file",
    "str_replace_based_edit_tool": "edit_file",
    "str_replace_editor": "edit_file",
    "str_replace_based_edit": "edit_file",
    "ls": "glob",
    "find": "glob",
    "list_files": "glob",
    "search": "grep",
    "bashoutput": "bash",
    "killbash": "bash",
    "killshell": "bash",
    "screenshot": "take_screenshot",
    "browser_take_screenshot": "take_screenshot",
    "shell": "bash",
    "run": "bash",
    "execute": "bash",
}
_FIELDS: Final = {
    "path": ("file_path",),
    "file": ("file_path", "path"),
    "filename": ("file_path", "path"),
    "filepath": ("file_path", "path"),
    "notebook_path": ("file_path",),
    "file_path": ("path",),
    "directory": ("path",),
    "dir": ("path",),
    "include": ("glob",),
    "file_pattern": ("glob",),
    "query": ("pattern",),
    "regex": ("pattern",),
    "old_str": ("old_string",),
    "new_str": ("new_string",),
    "old_text": ("old_string",),
    "new_text": ("new_string",),
    "insert_text": ("new_string",),
    "text": ("content", "message"),
    "file_text": ("content",),
    "contents": ("content",),
    "cmd": ("command",),
    "script": ("command",),
    "code": ("command",),
    "background": ("run_in_background",),
    "bash_id": ("handle",),
    "shell_id": ("handle",),
    "start_line": ("offset",),
    "max_results": ("limit",),
}


def parse_input(tool: str, value: dict[str, Any]) -> ToolInput | CallOutcome:
    """Return the validated input of a tool call. For a wrong input, returns a failed outcome that tells the agent what
    to correct.
    """
    model = TOOLS.get(tool)
    if model is None:
        meant = _TOOLS.get(tool.lower()) or _closest(tool.lower(), TOOLS)
        hint = f"did you mean {meant}? " if meant else ""
        return CallOutcome(
            f"there is no tool {tool[:128]!r}; {hint}there are: {', '.join(TOOLS)}", "unknown_tool"
        )
    try:
        return model.model_validate(value)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
        return CallOutcome("; ".join(_complaint(model, detail) for detail in details), "bad_input")


def _complaint(model: type[ToolInput], detail: ErrorDetails) -> str:
    field = ".".join(map(str, detail["loc"])) or "input"
    if detail["type"] != "extra_forbidden":
        return f"{field}: {detail['msg'].removeprefix('Value error, ')}"
    names = list(model.model_fields)
    known = [name for name in _FIELDS.get(field.lower(), ()) if name in names]
    meant = known[0] if known else _closest(field.lower(), names)
    hint = f"did you mean `{meant}`?" if meant else f"there are: {', '.join(names)}"
    return f"{field[:128]}: {model.tool} has no such field; {hint}"


def _closest(name: str, names: Any) -> str | None:
    found = difflib.get_close_matches(name[:128], names, n=1, cutoff=0.6)
    return found[0] if found else None
