"""How consumers fetch from the embedded broker, which answers a waiting fetch only at its time limit.

Instead of the broker, the client waits: until a notification says that a topic has new records, at most for a time
that depends on the recent traffic.
"""

from functools import partial
from typing import Self

from aiokafka import AIOKafkaConsumer

from nightshift.bus.kafka.attempts import PartitionAttempts
from nightshift.bus.kafka.embedded import patches
from nightshift.bus.kafka.embedded.attempts import GroupAttempts
from nightshift.bus.kafka.embedded.fetch_throttle import REQUEST_STEPS, FetchThrottle
from nightshift.bus.kafka.embedded.publish_notifications import PostgresPublishNotifications
from nightshift.bus.kafka.strategy import FetchWait
from nightshift.bus.port import Subscription
from nightshift.bus.settings import KafkaSettings
from nightshift.eventlog.database import Database

_JOINING = FetchWait(50, 1)  # used until all clients have started


class EmbeddedBroker:
    """The BrokerStrategy for the embedded broker: throttled fetches, and attempts stored in a second consumer group."""

    def __init__(self, settings: KafkaSettings, database: Database | None) -> None:
        self._facts = frozenset(settings.topics.facts)
        self._notifications = PostgresPublishNotifications(database) if database is not None else None
        self._throttles: dict[str, FetchThrottle] = {}

    @property
    def notified(self) -> bool:
        """Whether the relay's notifications arrive now."""
        return self._notifications is not None and self._notifications.connected

    def fetch_wait(self, subscription: Subscription) -> FetchWait:
        """Return a short wait for the consumer's start. Afterwards the consumer's FetchThrottle sets the wait."""
        return _JOINING

    def attempts(self, group: str) -> PartitionAttempts:
        """Return a store that keeps the group's attempts (see RestartGuard) as committed offsets of a second group."""
        return GroupAttempts(group)

    def started(self, subscription: Subscription, consumer: AIOKafkaConsumer) -> None:
        """Throttle the fetches of a consumer that has started."""
        throttle = self._throttle(subscription)
        self._throttles[subscription.group] = throttle
        throttle.set_timeout_of(partial(patches.set_fetch_wait, consumer))
        patches.throttle_fetches(consumer, throttle)

    def resumed(self, group: str) -> None:
        """Let the group's consumer fetch at once, because partitions were resumed."""
        if (throttle := self._throttles.get(group)) is not None:
            throttle.notify()

    def stopping(self, consumer: AIOKafkaConsumer) -> None:
        """Make sure that the consumer leaves its group when it stops."""
        patches.leave_any_generation(consumer)

    async def __aenter__(self) -> Self:
        if self._notifications is not None:
            await self._notifications.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._notifications is not None:
            await self._notifications.__aexit__(*exc)

    def _throttle(self, subscription: Subscription) -> FetchThrottle:
        """Return the throttle of a subscription.

        Only topics that the relay publishes to have notifications; others are polled.
        """
        delay_s = subscription.max_fetch_delay_s
        if self._notifications is None:
            return FetchThrottle(max_fetch_delay_s=delay_s)
        if subscription.topic not in self._facts:
            return FetchThrottle(steps=REQUEST_STEPS, max_fetch_delay_s=delay_s)
        throttle = FetchThrottle(self._notifications, max_fetch_delay_s=delay_s)
        self._notifications.subscribe(subscription.topic, throttle.notify)
        return throttle
