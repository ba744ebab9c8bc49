"""Reads the policies of accounts from their streams."""

from collections import OrderedDict

from nightshift.contracts.events.account import AccountPolicyChanged
from nightshift.eventlog.port import EventLog, account_stream

_KEPT = 2_000


class EventLogAccountPolicies:
    """The port AccountPolicies over the event log.

    Keeps in memory the policies of the accounts that were read last. So another read of such an account fetches only
    its new events.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._read: OrderedDict[str, tuple[int, AccountPolicyChanged | None]] = OrderedDict()

    async def newest(self, account_id: str) -> AccountPolicyChanged | None:
        """Return the newest policy of the account, or None when none was ever set."""
        version, policy = self._read.get(account_id) or (0, None)
        async for event in self._log.read_stream(account_stream(account_id), from_version=version + 1):
            version = event.version
            if isinstance(event.data, AccountPolicyChanged):
                policy = event.data
        kept = self._read.get(account_id)
        if kept is None or kept[0] <= version:  # a read that began later may have stored a newer policy
            self._read[account_id] = version, policy
        self._read.move_to_end(account_id)
        if len(self._read) > _KEPT:
            self._read.popitem(last=False)
        return policy
