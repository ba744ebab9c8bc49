"""What consumers do differently on Apache Kafka and on the embedded broker."""

from types import TracebackType
from typing import NamedTuple, Protocol, Self

from aiokafka import AIOKafkaConsumer

from nightshift.bus.kafka.attempts import CommittedAttempts, PartitionAttempts
from nightshift.bus.port import Subscription
from nightshift.bus.settings import KafkaSettings
from nightshift.eventlog.database import Database

# More bytes than arrive within a fetch delay, fewer than a backlog, which is fetched without waiting.
_DELAYED_BYTES = 256 * 1024
_FETCH_WAIT_MS = 500  # the client's default


class FetchWait(NamedTuple):
    """How long a fetch waits at the broker (milliseconds), and for how many bytes."""

    wait_ms: int
    min_bytes: int


class BrokerStrategy(Protocol):
    """How consumers fetch and where they keep attempts. An async context manager around the consumers."""

    def fetch_wait(self, subscription: Subscription) -> FetchWait:
        """Return what the subscription's fetches wait for."""
        ...

    def attempts(self, group: str) -> PartitionAttempts:
        """Return where the group's attempts are kept."""
        ...

    def started(self, subscription: Subscription, consumer: AIOKafkaConsumer) -> None:
        """Prepare a consumer that has started."""
        ...

    def resumed(self, group: str) -> None:
        """Note that partitions of this group were resumed."""
        ...

    def stopping(self, consumer: AIOKafkaConsumer) -> None:
        """Prepare a consumer that is about to stop."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class WakingBroker:
    """Apache Kafka: a waiting fetch returns when records arrive, so the client's own fetching is right."""

    def fetch_wait(self, subscription: Subscription) -> FetchWait:
        """See BrokerStrategy."""
        if subscription.max_fetch_delay_s:
            wait_ms = min(int(subscription.max_fetch_delay_s * 1000), _FETCH_WAIT_MS)
            return FetchWait(wait_ms, _DELAYED_BYTES)
        return FetchWait(_FETCH_WAIT_MS, 1)

    def attempts(self, group: str) -> PartitionAttempts:
        """See BrokerStrategy."""
        return CommittedAttempts()

    def started(self, subscription: Subscription, consumer: AIOKafkaConsumer) -> None:
        """See BrokerStrategy."""

    def resumed(self, group: str) -> None:
        """See BrokerStrategy."""

    def stopping(self, consumer: AIOKafkaConsumer) -> None:
        """See BrokerStrategy."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None


def strategy_for(settings: KafkaSettings, database: Database | None) -> BrokerStrategy:
    """Return the strategy for the broker that the settings describe.

    On the embedded broker, `database` delivers the relay's notifications; without it, topics are polled.
    """
    if not settings.kafka_adaptive_fetch:
        return WakingBroker()
    # Loaded only where it is needed: an installation on Apache Kafka runs without these workarounds.
    from nightshift.bus.kafka.embedded.strategy import EmbeddedBroker  # noqa: PLC0415

    return EmbeddedBroker(settings, database)
