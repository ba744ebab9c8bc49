"""The tool narrate: a message of the agent to the person who watches. It needs no sandbox."""

from nightshift.contracts.tools import Narrate
from nightshift.sandbox_gateway.domain.call_outcome import CallOutcome


def narrate(ask: Narrate) -> CallOutcome:
    return CallOutcome(f"[{ask.phase}] {ask.message}")
