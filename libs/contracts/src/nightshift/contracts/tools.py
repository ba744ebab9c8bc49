"""The tools of the agent: their names, inputs, and descriptions for the model.

The orchestrator sends `schemas()` to the model, and the sandbox gateway validates inputs with the same classes. Field
names follow the tools that Anthropic has published for agents.
"""

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from nightshift.contracts.file_types import FILE_TYPES

#: The folder in every sandbox in which the agent works. Relative paths start here.
WORKSPACE: Final = "/home/user/workspace"

_HOME: Final = "/home/user"
_LOCAL_URL: Final = re.compile(r"http://(?:localhost|127\.0\.0\.1|0\.0\.0\.0)(?::(\d{1,5}))?(/[!-~]*)?")


def _at_home(path: str) -> str:
    return _HOME + path[1:] if path == "~" or path.startswith("~/") else path


_Path = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_at_home)]


class ToolInput(BaseModel):
    """The input of a tool. Unknown fields are refused, so that the model learns of its mistake.

    - `synonyms`: other names of fields that models tend to use. They are accepted but not in the schema.
    - `effect`: calls with effect `read` run concurrently, and calls with effect `write` run one after the other.
    - `needs_sandbox`: False for a tool that does nothing in the sandbox.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: ClassVar[str]
    description: ClassVar[str]
    effect: ClassVar[Literal["read", "write"]]
    needs_sandbox: ClassVar[bool] = True
    synonyms: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @model_validator(mode="before")
    @classmethod
    def _reads_synonyms(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        for name in given:
            if cls.synonyms.get(name) in given:
                raise ValueError(f"`{name}` and `{cls.synonyms[name]}` are the same; give one of them")
        return cls._translated({cls.synonyms.get(name, name): value for name, value in given.items()})

    @classmethod
    def _translated(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Return the input in this tool's form. Converts the forms of other tools, such as milliseconds."""
        return given


def _number(value: Any) -> float | None:
    """Return a JSON number, or the number in a string such as `"10"`, as a float. Returns None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


class Bash(ToolInput):
    tool: ClassVar[str] = "bash"
    effect: ClassVar[Literal["read", "write"]] = "write"
    description: ClassVar[str] = (
        "Run a command with bash in the workspace, without a terminal or input. stdout, stderr and the exit code come"
        " back; a non-zero exit is an error, except 1 of grep, diff, find and test. Each call is a new shell: directory"
        " and variables do not carry over; with `keep_directory` it starts where the last such call ended. With"
        " `run_in_background` the call returns at once with a handle; then `action` read (its output since the last"
        " look), stop (ends the whole process group) or restart, with that `handle`. Servers must be started in the"
        " background."
    )

    command: Annotated[str, Field(min_length=1, max_length=200_000)] | None = None
    run_in_background: bool = False
    keep_directory: bool = False
    timeout_s: (
        Annotated[int, Field(ge=1, le=3600, description="Seconds before the command is ended.")] | None
    ) = None
    action: Literal["run", "read", "stop", "restart"] = "run"
    handle: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    @classmethod
    def _translated(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Accepts fields of other shell tools: `timeout` in milliseconds, `description`, and `restart`.

        `description` and `restart` change nothing, because every call starts a new shell.
        """
        given = dict(given)
        given.pop("description", None)
        if given.get("restart") in (True, False) and given.pop("restart") and "command" not in given:
            given["command"] = ":"
        milliseconds = _number(given.get("timeout"))
        if milliseconds is not None and given.get("timeout_s") is None:
            del given["timeout"]
            given["timeout_s"] = max(1, math.ceil(milliseconds / 1000))
        return given

    @model_validator(mode="after")
    def _fits_its_action(self) -> Self:
        if self.action == "run" and self.command is None:
            raise ValueError("`command` is needed")
        if self.keep_directory and (self.run_in_background or self.action != "run"):
            raise ValueError("`keep_directory` is for a command in the foreground")
        if self.action != "run" and self.handle is None:
            raise ValueError(f"action {self.action} needs the `handle` that the background call returned")
        return self


class ReadFile(ToolInput):
    tool: ClassVar[str] = "read_file"
    effect: ClassVar[Literal["read", "write"]] = "read"
    description: ClassVar[str] = (
        "Read a text file with numbered lines, an image (png, jpeg, gif, webp) or a PDF. `offset` is the first line (1"
        " is the first), `limit` how many lines. Line endings are not shown; a note at the end names the encoding and"
        " the line endings where they are not UTF-8 and LF. Control characters are shown as \\x1b."
    )

    file_path: _Path
    offset: Annotated[int, Field(ge=0)] = 1
    limit: Annotated[int, Field(ge=1, le=10_000)] = 2_000

    @classmethod
    def _translated(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Accepts `view_range` [first, last], where a last line of -1 is the end of the file."""
        lines = given.get("view_range")
        if not (isinstance(lines, list) and len(lines) == 2 and all(type(line) is int for line in lines)):
            return given
        first, last = lines
        given = {name: value for name, value in given.items() if name != "view_range"}
        if first < 0 or (last != -1 and last < first):
            raise ValueError("`view_range` is [first line, last line], or [first line, -1]")
        return {
            **given,
            "offset": first,
            "limit": 10_000 if last == -1 else min(last - max(first, 1) + 1, 10_000),
        }


class WriteFile(ToolInput):
    tool: ClassVar[str] = "write_file"
    effect: ClassVar[Literal["read", "write"]] = "write"
    description: ClassVar[str] = (
        "Write a whole file, replacing what is there. Missing folders are made. A file that exists keeps its encoding"
        " and line endings."
    )

    file_path: _Path
    content: Annotated[str, Field(max_length=5_000_000)]


class EditFile(ToolInput):
    tool: ClassVar[str] = "edit_file"
    effect: ClassVar[Literal["read", "write"]] = "write"
    description: ClassVar[str] = (
        "Replace `old_string` by `new_string` in a file. `old_string` must be there exactly, and once unless"
        " `replace_all` is set; otherwise nothing is changed and the error says how often it is there. The file keeps"
        " its encoding and line endings. An empty `old_string` creates a new file."
    )

    file_path: _Path
    old_string: Annotated[str, Field(max_length=1_000_000)]
    new_string: Annotated[str, Field(max_length=1_000_000)]
    replace_all: bool = False


class Glob(ToolInput):
    tool: ClassVar[str] = "glob"
    effect: ClassVar[Literal["read", "write"]] = "read"
    description: ClassVar[str] = (
        "Find files by a pattern such as `*.py` (at any depth), `src/**/*.{ts,tsx}` or `!*.md`, newest first. Hidden"
        " files are found; a note names what was ignored (.gitignore in a git repository, .git, node_modules,"
        " __pycache__, .venv unless the path or pattern names them)."
    )
    synonyms: ClassVar[Mapping[str, str]] = MappingProxyType({"head_limit": "limit"})

    pattern: Annotated[_Path, Field(max_length=1024)]
    path: _Path = "."
    limit: Annotated[int, Field(ge=1, le=2_000)] = 200


class Grep(ToolInput):
    tool: ClassVar[str] = "grep"
    effect: ClassVar[Literal["read", "write"]] = "read"
    description: ClassVar[str] = (
        "Search file contents by a regular expression, line by line (`multiline`: across lines). Gives `path:line:"
        " text`, by `output_mode` only the files, or the number of matching lines of each. `glob` (such as `*.py`,"
        " `!*.md`) and `type` (such as py) narrow the files. Ignored files are left out as by the tool glob."
    )
    synonyms: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"-i": "ignore_case", "-A": "after", "-B": "before", "-C": "context", "head_limit": "limit"}
    )

    pattern: Annotated[str, Field(min_length=1, max_length=4096)]
    path: _Path = "."
    glob: Annotated[_Path, Field(max_length=1024)] | None = None
    type: Annotated[str, Field(max_length=20)] | None = None
    output_mode: Literal["content", "files_with_matches", "count"] = "content"
    ignore_case: bool = False
    multiline: bool = False
    before: Annotated[int, Field(ge=0, le=1_000, description="Lines shown before each match.")] | None = None
    after: Annotated[int, Field(ge=0, le=1_000)] | None = None
    context: Annotated[int, Field(ge=0, le=1_000, description="Lines before and after.")] = 0
    offset: Annotated[int, Field(ge=0, description="Matches to leave out first.")] = 0
    limit: Annotated[int, Field(ge=1, le=2_000)] = 200

    @classmethod
    def _translated(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Accepts `-n`, which changes nothing, and a limit of 0, which means the largest limit."""
        given = {name: value for name, value in given.items() if name != "-n"}
        if _number(given.get("limit")) == 0:
            given["limit"] = 2_000
        return {name: value for name, value in given.items() if value is not None}

    @model_validator(mode="after")
    def _knows_the_type(self) -> Self:
        if self.type is not None and self.type not in FILE_TYPES:
            raise ValueError(
                f"there is no type {self.type!r}; there are: {', '.join(FILE_TYPES)}; or use `glob`"
            )
        return self

    def globs(self) -> list[str]:
        """Returns the file patterns of `glob` and `type`.

        In `glob`, blanks and commas outside braces separate patterns.
        """
        kinds = [] if self.type is None else [f"*.{{{FILE_TYPES[self.type]}}}"]
        return [*re.findall(r"(?:\{[^}]*\}|[^\s,{]|\{)+", self.glob or ""), *kinds]


class OpenPort(ToolInput):
    tool: ClassVar[str] = "open_port"
    effect: ClassVar[Literal["read", "write"]] = "write"
    description: ClassVar[str] = (
        "Open a port of a server that runs in the sandbox as the preview. Waits until it answers over HTTP at `path`"
        " and gives the address from outside and the status."
    )

    port: Annotated[int, Field(ge=1, le=65_535)]
    path: Annotated[str, Field(max_length=2048, pattern=r"^/[!-~]*$")] = "/"


class TakeScreenshot(ToolInput):
    tool: ClassVar[str] = "take_screenshot"
    effect: ClassVar[Literal["read", "write"]] = "write"
    description: ClassVar[str] = (
        "Look at a page of a server that runs in the sandbox: a real browser opens it and returns two pictures, as on a"
        " desktop (1280×800) and on a phone (390×844), with the errors of the page's scripts and requests. The server"
        " must run in the background."
    )

    port: Annotated[int, Field(ge=1, le=65_535)]
    path: Annotated[str, Field(max_length=2048, pattern=r"^/[!-~]*$")] = "/"

    @classmethod
    def _translated(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Accepts `url` when it is an address of this sandbox, such as `http://localhost:3000/about`."""
        url = given.get("url")
        found = _LOCAL_URL.fullmatch(url) if isinstance(url, str) else None
        if found is None or "port" in given:
            return given
        rest = {name: value for name, value in given.items() if name != "url"}
        return {"path": found[2] or "/", **rest, "port": int(found[1] or 80)}


class Narrate(ToolInput):
    tool: ClassVar[str] = "narrate"
    effect: ClassVar[Literal["read", "write"]] = "read"
    needs_sandbox: ClassVar[bool] = False
    description: ClassVar[str] = (
        "Tell the person who watches what you do: the phase you are in and one or two sentences. Call it when a phase"
        " begins."
    )

    phase: Literal["scaffold", "code", "deps", "checks"]
    message: Annotated[str, Field(min_length=1, max_length=4000)]


class Document(ToolInput):
    tool: ClassVar[str] = "document"
    effect: ClassVar[Literal["read", "write"]] = "write"
    description: ClassVar[str] = (
        "Write a document for the person who asked for the build, in Markdown, into the workspace (README.md, docs/…)."
    )

    file_path: Annotated[_Path, Field(pattern=r"\.md$")]
    content: Annotated[str, Field(min_length=1, max_length=1_000_000)]


class AskUser(ToolInput):
    tool: ClassVar[str] = "ask_user"
    effect: ClassVar[Literal["read", "write"]] = "read"
    needs_sandbox: ClassVar[bool] = False
    description: ClassVar[str] = (
        "Ask the person who asked for the build, when a decision is theirs and guessing wrong would cost much work. The"
        " build waits, for hours if need be, so ask rarely and all at once. Offer `options` when there are few. With"
        " `deadline_s` and `default` you get `default` when nobody answers in time. The answer is the result."
    )

    question: Annotated[str, Field(min_length=1, max_length=4000)]
    options: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(max_length=10)
    ] = ()
    deadline_s: (
        Annotated[int, Field(ge=1, le=604_800, description="Seconds to wait for an answer.")] | None
    ) = None
    default: Annotated[str, Field(min_length=1, max_length=4000)] | None = None

    @model_validator(mode="after")
    def _default_has_its_deadline(self) -> Self:
        if (self.deadline_s is None) != (self.default is None):
            raise ValueError("`deadline_s` and `default` come together")
        return self


class Verdict(BaseModel):
    """The judge's verdict on one criterion. `criterion` is its number, from 1, in the list that the judge received."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    criterion: Annotated[int, Field(ge=1)]
    met: bool
    evidence: Annotated[str, Field(min_length=1, max_length=4000)]


class ReportVerdicts(ToolInput):
    tool: ClassVar[str] = "report_verdicts"
    effect: ClassVar[Literal["read", "write"]] = "read"
    needs_sandbox: ClassVar[bool] = False
    description: ClassVar[str] = (
        "Report your verdicts, one for each criterion, and end your work. `criterion` is the number of the criterion,"
        " `met` whether it is met, `evidence` what you saw that shows it: the file and line, or the check and its"
        " output. For a criterion that is not met, say what is missing."
    )

    verdicts: Annotated[tuple[Verdict, ...], Field(min_length=1, max_length=100)]


class PrepareWorkspace(ToolInput):
    """Clones the source of the build and runs its set-up commands. The orchestrator calls it once, the agent never."""

    tool: ClassVar[str] = "prepare_workspace"
    effect: ClassVar[Literal["read", "write"]] = "write"
    description: ClassVar[str] = "Prepares the workspace before the first turn."


#: Tool name → input class.
TOOLS: Final[Mapping[str, type[ToolInput]]] = MappingProxyType(
    {
        model.tool: model
        for model in (
            *(Bash, ReadFile, WriteFile, EditFile, Glob, Grep, OpenPort, TakeScreenshot),
            *(Narrate, Document, AskUser),
        )
    }
)


#: The tools of the judge, which may read and report: tool name → input class.
JUDGE_TOOLS: Final[Mapping[str, type[ToolInput]]] = MappingProxyType(
    {model.tool: model for model in (ReadFile, Glob, Grep, ReportVerdicts)}
)


def schemas(tools: Mapping[str, type[ToolInput]] = TOOLS) -> list[dict[str, Any]]:
    """Returns the tools in the form of the Messages API, `[{name, description, input_schema}]`, always in the same
    order.
    """
    return [
        {"name": name, "description": model.description, "input_schema": _schema(model)}
        for name, model in tools.items()
    ]


def _schema(model: type[ToolInput]) -> dict[str, Any]:
    """Returns the JSON Schema without titles and without the class docstring, because each word costs tokens."""
    schema = model.model_json_schema()
    schema.pop("description", None)
    schema.pop("title", None)
    for field in schema.get("properties", {}).values():
        field.pop("title", None)
    return schema
