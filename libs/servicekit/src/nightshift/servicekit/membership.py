"""Signals when messages do not reach this process, or may have reached a process that died.

Readers of pending rows then read these more often.
"""

import asyncio
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class GroupMembership:
    """The membership of this process in its consumer groups.

    Until `joined` is True no message arrives: after a kill the broker waits until the session of the dead member ends.
    When partitions are assigned again, their previous owner may have committed messages without doing their work.
    """

    joined: bool = False
    _watchers: list[asyncio.Event] = field(default_factory=list)

    def watch(self) -> asyncio.Event:
        """Return a new asyncio.Event that is set at each new assignment of partitions. The caller clears it."""
        changed = asyncio.Event()
        self._watchers.append(changed)
        return changed

    def note_assignment(self) -> None:
        """Record a new assignment of partitions: set all events that `watch` returned."""
        for changed in self._watchers:
            changed.set()
