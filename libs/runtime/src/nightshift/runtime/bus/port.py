"""What a service says of its consumers: which topic, which group, which handler for which event. The factory does the rest."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from nightshift.contracts.model import Event
from nightshift.runtime.log.port import RecordedEvent

#: Takes note of one event. Raises Refused, Transient or Fault; holds no `try`. Must be short: what is long goes to a Workshop.
Handler = Callable[[RecordedEvent], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Subscription:
    """One consumer group on one topic. Events of types without a handler are skipped by their header, undecoded."""

    topic: str
    group: str
    handlers: Mapping[type[Event], Handler]
