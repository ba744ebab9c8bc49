"""The bus as its users see it: what a service says of its consumers, and how a message is sent.

The Kafka adapter and the in-memory bus pass the same conformance suite.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

from nightshift.contracts.envelope import Message
from nightshift.contracts.model import Event
from nightshift.eventlog.errors import Refused
from nightshift.eventlog.port import RecordedEvent

#: Takes note of one event. Raises Refused, Transient or Fault; holds no `try`. Must be short: what is long goes to a
#: WorkerPool.
Handler = Callable[[RecordedEvent], Awaitable[None]]

#: Says whether what the handlers stand on (the database) answers now. Never raises.
GroundProbe = Callable[[], Awaitable[bool]]


class Gate(Protocol):
    """What a full replica waits at before it takes the next message. A WorkerPool is one."""

    @property
    def full(self) -> bool: ...

    async def room(self) -> None:
        """Returns when there is room."""
        ...


@dataclass(frozen=True, slots=True)
class Subscription:
    """One consumer group on one topic. Events of types without a handler are skipped by their header, undecoded.

    While `gate` is full no further message is taken: the partitions are paused, and the backlog is seen as lag.
    `from_now`: for a group that is new with each process and wants to hear only; what was said before is in the log.
    `patience_s`: nobody waits for what these handlers do, so under traffic a message may wait so long for others to be
    taken with it. Each fetch costs this process and the broker the same, whether it brings one message or a hundred.
    """

    topic: str
    group: str
    handlers: Mapping[type[Event], Handler]
    gate: Gate | None = None
    from_now: bool = False
    patience_s: float = 0.0


class Partition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class Inbound(Protocol):
    """A message as a client hands it over; aiokafka's record is one. `timestamp` is in Unix milliseconds."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Records that the client cannot decode, as one message: `value` holds their bytes as the broker has them.

    It stands for the offsets from `offset` to `next_offset` - 1. `problem` says what is wrong with the bytes.
    """

    topic: str
    partition: int
    offset: int
    next_offset: int
    value: bytes
    problem: str
    timestamp: int = 0
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()


def offset_after(message: Inbound) -> int:
    """The offset to commit when this message is settled."""
    return message.next_offset if isinstance(message, Undecodable) else message.offset + 1


class UndecodableRecord(Refused):
    """A record, or a whole batch, does not have the form of Kafka's protocol."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to send. Messages of one key (or of one given partition) keep the order in which they were sent."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    partition: int | None = None

    @classmethod
    def of(cls, topic: str, message: Message) -> Self:
        """A message of the contracts, on its way to a topic."""
        return cls(topic, message.key, message.value, message.headers)


class Sent(NamedTuple):
    """Where a message is now."""

    topic: str
    partition: int
    offset: int


class MessageTooLarge(Refused):
    """A message is larger than the broker carries."""


class Producer(Protocol):
    """Sends messages. An async context manager: entering connects, leaving closes within a bound."""

    async def send(self, messages: Sequence[Outgoing]) -> tuple[Sent, ...]:
        """Send in order; returns when every one is acked by all in-sync replicas.

        Raises Unavailable, after which any of them may be there or not: send again. Raises MessageTooLarge
        (Refused) when one is larger than the broker carries; then none of this call's batch need be there.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...


class Consumers(Protocol):
    """The running consumers of a service. An async context manager: entering starts them, leaving drains and stops."""

    @property
    def assigned(self) -> bool:
        """Whether every subscription has been given its partitions (none is an answer too)."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...
