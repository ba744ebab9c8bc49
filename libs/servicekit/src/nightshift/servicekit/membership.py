"""Tells the readers of pending work when messages do not reach this process, or may have reached one that died."""

import asyncio
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class GroupMembership:
    """The membership of this process in its consumer groups.

    Until `joined`, no message arrives: after a kill the broker waits for the dead member's session to end. When a group
    assigns its partitions anew, a member may have left work behind whose messages it had committed.
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
