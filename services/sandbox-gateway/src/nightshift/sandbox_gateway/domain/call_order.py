"""The order in which a build's waiting calls run: reads run together, every other call alone, in log order."""

from collections.abc import Iterable

from nightshift.contracts.tools import TOOLS
from nightshift.sandbox_gateway.domain.sandbox_state import PendingCall


def groups(calls: Iterable[PendingCall]) -> list[list[PendingCall]]:
    """Group the calls in log order. The calls of one group may run at the same time."""
    found: list[list[PendingCall]] = []
    for call in sorted(calls, key=lambda call: call.version):
        if found and reads(call) and reads(found[-1][0]):
            found[-1].append(call)
        else:
            found.append([call])
    return found


def reads(call: PendingCall) -> bool:
    """Whether the call changes nothing. An unknown tool is refused, which changes nothing either."""
    if call.asked.purpose == "setup":
        return False
    model = TOOLS.get(call.asked.tool)
    return model is None or model.effect == "read"
