"""The outcome of a tool call before its text is masked and shortened."""

from dataclasses import dataclass
from typing import Any, Literal

from nightshift.contracts.events.sandbox import NetworkUse

ErrorKind = Literal[
    "exit", "timeout", "bad_input", "unknown_tool", "sandbox_lost", "cancelled", "refused", "tool"
]


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """The text for the model, and how the call ended.

    - `preview`: the port and the URL that `open_port` opened.
    - `blocks`: content blocks that the agent receives instead of the text.
    - `whole_in`: the names of the files in the sandbox that contain the whole output, for a note if the text is
      shortened.
    """

    output: str
    error_kind: ErrorKind | None = None
    exit_code: int | None = None
    preview: tuple[int, str] | None = None
    blocks: tuple[dict[str, Any], ...] | None = None
    whole_in: str | None = None
    network: tuple[NetworkUse, ...] = ()

    @property
    def is_error(self) -> bool:
        return self.error_kind is not None
