"""Finds the account of a build, so that a worker pool can share its slots among the accounts."""

from collections import OrderedDict
from dataclasses import dataclass, field

from nightshift.contracts.events.build import BuildAccepted
from nightshift.eventlog.port import EventLog, build_stream

_MOST = 20_000


@dataclass(eq=False, slots=True)
class BuildAccounts:
    """Remembers the account of each recently used build. The account of a build never changes."""

    log: EventLog
    _known: OrderedDict[str, str] = field(default_factory=OrderedDict, init=False)

    async def load(self, build_id: str) -> None:
        """Read the account from the build's stream, unless an earlier call read it. Raises Transient when the log does
        not answer.
        """
        if build_id in self._known:
            return
        async for event in self.log.read_stream(build_stream(build_id)):
            if isinstance(event.data, BuildAccepted):
                self._known[build_id] = event.data.account_id
            break
        while len(self._known) > _MOST:
            self._known.popitem(last=False)

    def of(self, build_id: str) -> str | None:
        """Return the account of the build. Returns None when `load` was not called or the build was never accepted."""
        return self._known.get(build_id)
