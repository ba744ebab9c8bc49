"""Tells those who read pending work when messages do not reach this process, or have reached a process that has
died.
"""

import asyncio
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class GroupMembership:
    """The membership of this process in its consumer groups.

    Until `joined` no message arrives, because after a kill the broker waits until the session of the dead member ends.
    When the partitions of a group are assigned again, a member may have committed messages whose work it did not do.
    """

    joined: bool = False
    _watchers: list[asyncio.Event] = field(default_factory=list)

    def watch(self) -> asyncio.Event:
        """Return an event that each new assignment sets. The caller clears the event."""
        changed = asyncio.Event()
        self._watchers.append(changed)
        return changed

    def note_assignment(self) -> None:
        """Set the events of all watchers."""
        for changed in self._watchers:
            changed.set()
