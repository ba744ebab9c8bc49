"""The tools of the agent: their names, inputs, and descriptions for the model.

The orchestrator sends `schemas()` to the model, and the sandbox-gateway validates inputs with the same models. Field
names follow Anthropic's published agent tools.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: Where the agent works, in every sandbox. Relative paths start here.
WORKSPACE: Final = "/home/user/workspace"

_Path = Annotated[str, Field(min_length=1, max_length=4096)]


class ToolInput(BaseModel):
    """The input of a tool. Refuses unknown fields, so that the model learns of its mistake.

    Calls with `effect` read run concurrently; calls with `effect` write run in order. `needs_sandbox` is False for a
    tool that does nothing in the sandbox.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: ClassVar[str]
    description: ClassVar[str]
    effect: ClassVar[Literal["read", "write"]]
    needs_sandbox: ClassVar[bool] = True


class Bash(ToolInput):
    tool: ClassVar[str] = "bash"
    effect: ClassVar[Literal["read", "write"]] = "write"
    description: ClassVar[str] = (
        "Run a command with bash in the workspace. stdout, stderr and the exit code come back; a non-zero exit is an"
        " error. Each call is a new shell: directory and variables do not carry over. With `run_in_background` the call"
        " returns at once with a handle; then `action` read (its output so far), stop (ends the whole process group) or"
        " restart, with that `handle`. Servers must be started in the background."
    )

    command: Annotated[str, Field(min_length=1, max_length=200_000)] | None = None
    run_in_background: bool = False
    timeout_s: (
        Annotated[int, Field(ge=1, le=3600, description="Seconds before the command is ended.")] | None
    ) = None
    action: Literal["run", "read", "stop", "restart"] = "run"
    handle: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    @model_validator(mode="after")
    def _fits_its_action(self) -> Self:
        if self.action == "run" and self.command is None:
            raise ValueError("`command` is needed")
        if self.action != "run" and self.handle is None:
            raise ValueError(f"action {self.action} needs the `handle` that the background call returned")
        return self


class ReadFile(ToolInput):
    tool: ClassVar[str] = "read_file"
    effect: ClassVar[Literal["read", "write"]] = "read"
    description: ClassVar[str] = (
        "Read a text file with numbered lines. `offset` is the first line (1 is the first), `limit` how many lines."
    )

    file_path: _Path
    offset: Annotated[int, Field(ge=1)] = 1
    limit: Annotated[int, Field(ge=1, le=10_000)] = 2_000


class WriteFile(ToolInput):
    tool: ClassVar[str] = "write_file"
    effect: ClassVar[Literal["read", "write"]] = "write"
    description: ClassVar[str] = "Write a whole file, replacing what is there. Missing folders are made."

    file_path: _Path
    content: Annotated[str, Field(max_length=5_000_000)]


class EditFile(ToolInput):
    tool: ClassVar[str] = "edit_file"
    effect: ClassVar[Literal["read", "write"]] = "write"
    description: ClassVar[str] = (
        "Replace `old_string` by `new_string` in a file. `old_string` must be there exactly, and once unless"
        " `replace_all` is set; otherwise nothing is changed and the error says how often it is there."
    )

    file_path: _Path
    old_string: Annotated[str, Field(min_length=1, max_length=1_000_000)]
    new_string: Annotated[str, Field(max_length=1_000_000)]
    replace_all: bool = False


class Glob(ToolInput):
    tool: ClassVar[str] = "glob"
    effect: ClassVar[Literal["read", "write"]] = "read"
    description: ClassVar[str] = "Find files by a pattern such as `**/*.py`, newest first."

    pattern: Annotated[str, Field(min_length=1, max_length=1024)]
    path: _Path = "."
    limit: Annotated[int, Field(ge=1, le=2_000)] = 200


class Grep(ToolInput):
    tool: ClassVar[str] = "grep"
    effect: ClassVar[Literal["read", "write"]] = "read"
    description: ClassVar[str] = (
        "Search file contents by a regular expression (Python's syntax). Gives `path:line: text`. `glob` narrows the"
        " files."
    )

    pattern: Annotated[str, Field(min_length=1, max_length=4096)]
    path: _Path = "."
    glob: Annotated[str, Field(min_length=1, max_length=1024)] = "**/*"
    ignore_case: bool = False
    limit: Annotated[int, Field(ge=1, le=2_000)] = 200


class OpenPort(ToolInput):
    tool: ClassVar[str] = "open_port"
    effect: ClassVar[Literal["read", "write"]] = "write"
    description: ClassVar[str] = (
        "Open a port of a server that runs in the sandbox as the preview. Waits until it answers over HTTP at `path`"
        " and gives the address from outside and the status."
    )

    port: Annotated[int, Field(ge=1, le=65_535)]
    path: Annotated[str, Field(max_length=2048, pattern=r"^/[!-~]*$")] = "/"


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

    file_path: Annotated[str, Field(max_length=4096, pattern=r"\.md$")]
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


#: Name → input model.
TOOLS: Final[Mapping[str, type[ToolInput]]] = MappingProxyType(
    {
        model.tool: model
        for model in (Bash, ReadFile, WriteFile, EditFile, Glob, Grep, OpenPort, Narrate, Document, AskUser)
    }
)


def schemas() -> list[dict[str, Any]]:
    """Returns the tools for the Messages API, `[{name, description, input_schema}]`, always in the same order."""
    return [
        {"name": name, "description": model.description, "input_schema": _schema(model)}
        for name, model in TOOLS.items()
    ]


def _schema(model: type[ToolInput]) -> dict[str, Any]:
    """Returns the JSON Schema without titles and class docstrings, because each word costs tokens."""
    schema = model.model_json_schema()
    schema.pop("description", None)
    schema.pop("title", None)
    for field in schema.get("properties", {}).values():
        field.pop("title", None)
    return schema
