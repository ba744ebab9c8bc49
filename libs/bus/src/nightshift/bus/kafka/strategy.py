"""The differences between Apache Kafka and the embedded broker for consumers."""

from types import TracebackType
from typing import NamedTuple, Protocol, Self

from aiokafka import AIOKafkaConsumer

from nightshift.bus.kafka.attempts import CommittedAttempts, PartitionAttempts
from nightshift.bus.port import Subscription
from nightshift.bus.settings import KafkaSettings
from nightshift.eventlog.database import Database

# More than arrives within a fetch delay, so a fetch waits. Less than a backlog, so a backlog is fetched at once.
_DELAYED_BYTES = 256 * 1024
_FETCH_WAIT_MS = 500  # aiokafka's default


class FetchWait(NamedTuple):
    """How long a fetch waits at the broker (milliseconds). The broker answers earlier once it has `min_bytes` bytes."""

    wait_ms: int
    min_bytes: int


class BrokerStrategy(Protocol):
    """How the consumers of a process fetch, and where they store attempts (see RestartGuard).

    An async context manager that is open while the consumers run.
    """

    def fetch_wait(self, subscription: Subscription) -> FetchWait:
        """Return how long the subscription's fetches wait, and for how many bytes."""
        ...

    def attempts(self, group: str) -> PartitionAttempts:
        """Return the store for the attempts of this consumer group (see RestartGuard)."""
        ...

    def started(self, subscription: Subscription, consumer: AIOKafkaConsumer) -> None:
        """Called after a consumer has started, to adapt it to this kind of broker."""
        ...

    def resumed(self, group: str) -> None:
        """Called after paused partitions of this group were resumed."""
        ...

    def stopping(self, consumer: AIOKafkaConsumer) -> None:
        """Called before a consumer stops, to adapt it to this kind of broker."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class WakingBroker:
    """The BrokerStrategy for Apache Kafka, which answers a waiting fetch as soon as records arrive."""

    def fetch_wait(self, subscription: Subscription) -> FetchWait:
        """Return aiokafka's default, or the subscription's fetch delay when it has one."""
        if subscription.max_fetch_delay_s:
            wait_ms = min(int(subscription.max_fetch_delay_s * 1000), _FETCH_WAIT_MS)
            return FetchWait(wait_ms, _DELAYED_BYTES)
        return FetchWait(_FETCH_WAIT_MS, 1)

    def attempts(self, group: str) -> PartitionAttempts:
        """Return a store that keeps the group's attempts (see RestartGuard) in the metadata of commits."""
        return CommittedAttempts()

    def started(self, subscription: Subscription, consumer: AIOKafkaConsumer) -> None:
        """Do nothing: on Apache Kafka a consumer needs no changes."""

    def resumed(self, group: str) -> None:
        """Do nothing: on Apache Kafka a consumer needs no changes."""

    def stopping(self, consumer: AIOKafkaConsumer) -> None:
        """Do nothing: on Apache Kafka a consumer needs no changes."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None


def strategy_for(settings: KafkaSettings, database: Database | None) -> BrokerStrategy:
    """Return the strategy for the broker that the settings describe.

    On the embedded broker, `database` delivers the relay's notifications. Without a database, consumers poll.
    """
    if not settings.kafka_adaptive_fetch:
        return WakingBroker()
    # Imported only here: an installation on Apache Kafka never loads these workarounds.
    from nightshift.bus.kafka.embedded.strategy import EmbeddedBroker  # noqa: PLC0415

    return EmbeddedBroker(settings, database)
