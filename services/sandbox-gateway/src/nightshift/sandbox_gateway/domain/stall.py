"""Translates an error to `sandbox.stalled`: why a build waits, and what a person can do."""

from datetime import datetime
from typing import Literal

from nightshift.contracts.events.sandbox import SandboxStalled
from nightshift.eventlog.errors import ConfigurationError, Transient
from nightshift.sandboxes.errors import FileRefused, SandboxUnavailable

_DETAIL = 2000
_CANCEL = "or stop the build with `nightshift cancel`"
#: An error that usually passes by itself is reported after so many failures in a row.
_PASSING_ATTEMPTS = 2


def stalled_by(error: Exception, *, attempt: int, since: datetime) -> SandboxStalled | None:
    """Return the event `sandbox.stalled` for this error. `attempt` counts failures in a row; the first was at `since`.

    Returns None for the first failures if their kind usually passes by itself.
    """
    detail = f"{error}" or type(error).__name__
    reason: Literal["unavailable", "refused", "restore_refused", "dependency", "fault"]
    match error:
        case SandboxUnavailable():
            reason, action = "unavailable", "The gateway keeps trying. If it lasts, check the provider"
        case ConfigurationError():
            reason, action = "refused", (error.hint or "Check the settings of the gateway")
        case FileRefused():
            reason, action = "restore_refused", "Report the path that cannot be restored as a fault"
        case Transient():
            reason, action = "dependency", "The gateway keeps trying. If it lasts, run `nightshift doctor`"
        case _:
            reason, action = "fault", "Read the gateway's log and report the error"
            detail = f"{type(error).__name__}: {detail}"
    if isinstance(error, Transient) and attempt < _PASSING_ATTEMPTS:
        return None
    return SandboxStalled(
        reason=reason, detail=detail[:_DETAIL], action=f"{action}, {_CANCEL}.", attempt=attempt, since=since
    )


def stalled_slowly(*, seconds: float, attempt: int, since: datetime) -> SandboxStalled:
    """Return the event `sandbox.stalled` for a sandbox that has neither answered nor failed for `seconds` seconds."""
    return SandboxStalled(
        reason="slow",
        detail=f"the sandbox has not answered for {seconds:.0f} s",
        action=f"Nothing yet: the provider or the restore of a large workspace may take longer. Wait, {_CANCEL}.",
        attempt=attempt,
        since=since,
    )
