"""What came of a tool call, before it is cut, masked and appended."""

from dataclasses import dataclass
from typing import Literal

ErrorKind = Literal[
    "exit", "timeout", "bad_input", "unknown_tool", "sandbox_lost", "cancelled", "refused", "tool"
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """`preview`: (port, address) that is open now."""

    output: str
    error_kind: ErrorKind | None = None
    exit_code: int | None = None
    preview: tuple[int, str] | None = None

    @property
    def is_error(self) -> bool:
        return self.error_kind is not None
