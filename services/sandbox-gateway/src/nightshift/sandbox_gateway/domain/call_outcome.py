"""The outcome of a tool call, before its text is masked and cut."""

from dataclasses import dataclass
from typing import Literal

ErrorKind = Literal[
    "exit", "timeout", "bad_input", "unknown_tool", "sandbox_lost", "cancelled", "refused", "tool"
]


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """The text for the model and how the call ended. `preview`: the port and the address that `open_port` opened."""

    output: str
    error_kind: ErrorKind | None = None
    exit_code: int | None = None
    preview: tuple[int, str] | None = None

    @property
    def is_error(self) -> bool:
        return self.error_kind is not None
