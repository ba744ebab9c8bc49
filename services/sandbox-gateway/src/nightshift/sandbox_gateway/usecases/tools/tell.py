"""narrate: what the agent tells the person who watches. The words are in the call itself."""

from nightshift.contracts.tools import Narrate
from nightshift.sandbox_gateway.domain.outcome import Outcome


def narrate(ask: Narrate) -> Outcome:
    return Outcome(f"[{ask.phase}] {ask.message}")
