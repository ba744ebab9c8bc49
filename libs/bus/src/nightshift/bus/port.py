"""The ports of the bus: subscriptions of consumers, and sending messages.

The Kafka adapter and the in-memory bus pass the same conformance suite.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

from nightshift.contracts.envelope import Message
from nightshift.contracts.model import Event
from nightshift.eventlog.errors import Refused
from nightshift.eventlog.port import RecordedEvent

#: Handles one event. Raises Refused, Transient or Fault. Must be short: long work goes to a WorkerPool.
Handler = Callable[[RecordedEvent], Awaitable[None]]

#: Returns whether the handlers' dependencies (the database) answer now. Never raises.
DependencyProbe = Callable[[], Awaitable[bool]]


class Gate(Protocol):
    """Limits how much a replica takes. A WorkerPool is one."""

    @property
    def full(self) -> bool:
        """Whether no further message may be handled now."""
        ...

    async def room(self) -> None:
        """Return when there is room."""
        ...


@dataclass(frozen=True, slots=True)
class Subscription:
    """One consumer group on one topic. Events of types without a handler are skipped by their header.

    While `gate` is full, partitions are paused and the backlog is seen as lag. With `from_now`, each process reads all
    partitions from their ends, without a group at the broker; `group` is then its name in logs. Under traffic a message
    may wait up to `max_fetch_delay_s` for others, because a fetch of a hundred costs as much as one of one.

    Where several groups read a topic, one of them reports the records that cannot be decoded; the others have
    `reports_undecodable` False and skip those that name no type of their handlers.
    """

    topic: str
    group: str
    handlers: Mapping[type[Event], Handler]
    gate: Gate | None = None
    from_now: bool = False
    max_fetch_delay_s: float = 0.0
    reports_undecodable: bool = True


class TopicPartition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class Inbound(Protocol):
    """A message as the client returns it, such as aiokafka's record. `timestamp` is in Unix milliseconds."""

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
        """Return a message of the contracts addressed to a topic."""
        return cls(topic, message.key, message.value, message.headers)


class Sent(NamedTuple):
    """The place of a message that was sent."""

    topic: str
    partition: int
    offset: int


class MessageTooLarge(Refused):
    """A message is larger than the broker accepts."""


class Producer(Protocol):
    """Sends messages. An async context manager: entering connects, leaving closes within a bound."""

    async def send(self, messages: Sequence[Outgoing]) -> tuple[Sent, ...]:
        """Send in order; return when all in-sync replicas have acknowledged every message.

        Raises Unavailable: each message may have arrived or not, so send all again. Raises MessageTooLarge when one is
        larger than the broker accepts: any of the others may have arrived.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...


class Consumers(Protocol):
    """The running consumers of a service. An async context manager: entering starts them, leaving drains and stops."""

    @property
    def assigned(self) -> bool:
        """Whether the group has assigned every subscription its partitions; the number may be zero."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...
