"""Decides the order of a build's waiting calls: calls that only read run together, all others one by one in log
order.
"""

from collections.abc import Iterable

from nightshift.contracts.tools import TOOLS
from nightshift.sandbox_gateway.domain.sandbox_state import PendingCall


def groups(calls: Iterable[PendingCall]) -> list[list[PendingCall]]:
    """Return the calls in groups, in log order. A group must end before the next one starts.

    A group is either one call, or several calls that only read and therefore may run at the same time.
    """
    found: list[list[PendingCall]] = []
    for call in sorted(calls, key=lambda call: call.version):
        if found and reads(call) and reads(found[-1][0]):
            found[-1].append(call)
        else:
            found.append([call])
    return found


def reads(call: PendingCall) -> bool:
    """Return whether the call changes nothing. A call of an unknown tool is refused, so it also changes nothing."""
    if call.asked.purpose == "setup":
        return False
    model = TOOLS.get(call.asked.tool)
    return model is None or model.effect == "read"
