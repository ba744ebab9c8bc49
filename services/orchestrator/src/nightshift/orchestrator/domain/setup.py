"""The preparation of a workspace before the first turn: its source, set-up commands, variables and network."""

import re
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from nightshift.contracts.events.build import BuildAccepted, ToolCallRequested
from nightshift.contracts.events.requests import BuildRequested, Source
from nightshift.contracts.hosts import HostName
from nightshift.contracts.tools import PrepareWorkspace
from nightshift.eventlog.errors import BadMessage

_HOST: TypeAdapter[str] = TypeAdapter(HostName)
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]*")
#: Seconds for the clone, and for each command.
_STEP_S = 900


def check(request: BuildRequested) -> None:
    """Raise BadMessage, which names the field, when the source cannot be cloned or a variable is set twice."""
    if request.source is not None:
        _check_source(request.source, request.secrets)
    if both := set(request.secrets) & set(request.environment):
        raise BadMessage(f"{sorted(both)[0]} is a secret and a variable", field="environment")
    for name, value in request.environment.items():
        if "\0" in value:
            raise BadMessage(f"the value of {name} contains NUL", field="environment")


def _check_source(source: Source, secrets: tuple[str, ...]) -> None:
    try:
        parts = urlsplit(source.repository)
        _HOST.validate_python(parts.hostname or "")
        good = parts.scheme == "https" and parts.port in (None, 443) and "@" not in parts.netloc
    except (ValueError, ValidationError):
        good = False
    if not good or any(letter.isspace() for letter in source.repository):
        raise BadMessage(
            "`source.repository` must be an https:// address of a public host, without a user",
            field="source.repository",
        )
    if not _REF.fullmatch(source.ref) or ".." in source.ref:
        raise BadMessage("a ref is the name of a branch or a tag, or a commit", field="source.ref")
    if source.secret is not None and source.secret not in secrets:
        raise BadMessage("the secret of the source must be among `secrets`", field="source.secret")


def setup_calls(accepted: BuildAccepted) -> tuple[ToolCallRequested, ...]:
    """Return the call that prepares the workspace. Returns none when the build asks for no preparation."""
    given = (accepted.source, accepted.setup_commands, accepted.environment)
    if not any(given) and not accepted.secrets and not accepted.egress_hosts:
        return ()
    steps = (accepted.source is not None) + len(accepted.setup_commands)
    return (
        ToolCallRequested(
            call_id=f"{accepted.build_id}/0/0",
            turn=0,
            index=0,
            tool=PrepareWorkspace.tool,
            tool_use_id="setup",
            input={},
            timeout_s=_STEP_S * max(1, steps),
            purpose="setup",
        ),
    )
