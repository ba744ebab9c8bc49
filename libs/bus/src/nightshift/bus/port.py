"""The ports of the bus: what a service subscribes to, and how it sends messages.

The Kafka adapter and the in-memory bus pass the same conformance suite.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

from nightshift.contracts.envelope import Message
from nightshift.contracts.model import Event
from nightshift.eventlog.errors import Refused
from nightshift.eventlog.port import RecordedEvent

#: Handles one event, quickly: long work belongs in a WorkerPool. Raises Refused, Transient or Fault.
Handler = Callable[[RecordedEvent], Awaitable[None]]

#: Returns whether the dependencies of the handlers (such as the database) answer now. Never raises.
DependencyProbe = Callable[[], Awaitable[bool]]


class Gate(Protocol):
    """Stops a subscription from taking messages while a service has enough work. WorkerPool implements it."""

    @property
    def full(self) -> bool:
        """Whether the service has enough work. No message is handled while it is True."""
        ...

    async def room(self) -> None:
        """Wait until the service can take another message."""
        ...


@dataclass(frozen=True, slots=True)
class Subscription:
    """The handlers of one consumer group for the events of one topic, by event type. Other types are skipped.

    - `gate`: while it is full, no message is handled. The partitions are paused, and the backlog shows as lag.
    - `from_now`: each process reads all partitions from their ends, without a consumer group at the broker. `group` is
      then only its name in logs and dead letters.
    - `max_fetch_delay_s`: under load, a message may wait this long, so that one fetch returns many. The cost of a fetch
      hardly depends on the number of its messages.
    - `reports_undecodable`: this group dead-letters the records of the topic that cannot be decoded. It is True for one
      group of each topic. The others skip such a record, unless its headers name a type that they handle.
    """

    topic: str
    group: str
    handlers: Mapping[type[Event], Handler]
    gate: Gate | None = None
    from_now: bool = False
    max_fetch_delay_s: float = 0.0
    reports_undecodable: bool = True


class TopicPartition(NamedTuple):
    """A topic and the number of one of its partitions."""

    topic: str
    partition: int


class Inbound(Protocol):
    """A message as the Kafka client returns it, for example aiokafka's ConsumerRecord.

    `timestamp` is Unix milliseconds.
    """

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
    """Takes the place of records that the Kafka client cannot decode: those from `offset` to `next_offset` - 1.

    `value` is their bytes as the broker stores them. `problem` says what is wrong with the bytes.
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
    """Return the offset to commit after this message: that of the next message in its partition."""
    return message.next_offset if isinstance(message, Undecodable) else message.offset + 1


class UndecodableRecord(Refused):
    """A record, or a whole batch of records, violates the format of Kafka's protocol."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to send.

    Messages with the same key or the same given partition keep the order in which they are sent.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    partition: int | None = None

    @classmethod
    def of(cls, topic: str, message: Message) -> Self:
        """Return an encoded event of the contracts as a message for this topic."""
        return cls(topic, message.key, message.value, message.headers)


class Sent(NamedTuple):
    """The topic, partition and offset that the broker gave a message."""

    topic: str
    partition: int
    offset: int


class MessageTooLarge(Refused):
    """A message is larger than the broker accepts."""


class Producer(Protocol):
    """Sends messages.

    An async context manager: entering it connects, leaving it closes the connection within a time limit.
    """

    async def send(self, messages: Sequence[Outgoing]) -> tuple[Sent, ...]:
        """Send messages in order. Returns when all in-sync replicas have acknowledged every message.

        Raises Unavailable when the broker does not answer, and MessageTooLarge when it refuses a message because of
        its size. In both cases any of the other messages may have arrived. After Unavailable the caller sends all of
        them again.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...


class Consumers(Protocol):
    """The running consumers of a service. An async context manager: entering it starts them.

    Leaving it finishes the messages being processed, commits their offsets and stops.
    """

    @property
    def assigned(self) -> bool:
        """Whether every subscription has received its partitions from its group, even if their number is zero."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...
