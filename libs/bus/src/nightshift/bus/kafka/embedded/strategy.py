"""Fetches from the embedded broker, which answers a waiting fetch only when its wait is over.

The waiting is done in the client instead: until a notification says that a topic has new records, or as long as the
traffic suggests.
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

_JOINING = FetchWait(50, 1)  # until all clients have started


class EmbeddedBroker:
    """The strategy for the embedded broker. See BrokerStrategy."""

    def __init__(self, settings: KafkaSettings, database: Database | None) -> None:
        self._facts = frozenset(settings.topics.facts)
        self._notifications = PostgresPublishNotifications(database) if database is not None else None
        self._throttles: dict[str, FetchThrottle] = {}

    @property
    def notified(self) -> bool:
        """Whether notifications arrive now."""
        return self._notifications is not None and self._notifications.connected

    def fetch_wait(self, subscription: Subscription) -> FetchWait:
        """See BrokerStrategy."""
        return _JOINING

    def attempts(self, group: str) -> PartitionAttempts:
        """See BrokerStrategy."""
        return GroupAttempts(group)

    def started(self, subscription: Subscription, consumer: AIOKafkaConsumer) -> None:
        """Throttle the consumer's fetches."""
        throttle = self._throttle(subscription)
        self._throttles[subscription.group] = throttle
        throttle.set_timeout_of(partial(patches.set_fetch_wait, consumer))
        patches.throttle_fetches(consumer, throttle)

    def resumed(self, group: str) -> None:
        """Fetch at once."""
        if (throttle := self._throttles.get(group)) is not None:
            throttle.notify()

    def stopping(self, consumer: AIOKafkaConsumer) -> None:
        """See BrokerStrategy."""
        patches.leave_any_generation(consumer)

    async def __aenter__(self) -> Self:
        if self._notifications is not None:
            await self._notifications.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._notifications is not None:
            await self._notifications.__aexit__(*exc)

    def _throttle(self, subscription: Subscription) -> FetchThrottle:
        """The relay notifies of facts only; nobody notifies of what others send to a topic."""
        delay_s = subscription.max_fetch_delay_s
        if self._notifications is None:
            return FetchThrottle(max_fetch_delay_s=delay_s)
        if subscription.topic not in self._facts:
            return FetchThrottle(steps=REQUEST_STEPS, max_fetch_delay_s=delay_s)
        throttle = FetchThrottle(self._notifications, max_fetch_delay_s=delay_s)
        self._notifications.subscribe(subscription.topic, throttle.notify)
        return throttle
