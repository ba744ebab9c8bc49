"""Runs the consumers of a service on FastStream, as batch subscribers with manual acknowledgement.

FastStream creates the Kafka clients, subscribes them and passes each batch of records to a PartitionFeed. This module
turns off FastStream's acknowledgement, because it would commit messages whose handler failed. It also turns off
decoding, dependency injection and replies: they cost more CPU than the handlers (docs/adr/0018).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self, cast

import structlog
from aiokafka.errors import KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.kafka.message import FAKE_CONSUMER, KafkaAckableMessage
from faststream.kafka.subscriber.usecase import BatchSubscriber
from faststream.message import StreamMessage

from nightshift.bus.batch_intake import BatchIntake
from nightshift.bus.dead_letter_publisher import DeadLetterPublisher
from nightshift.bus.dispatch import Dispatcher
from nightshift.bus.kafka import internals
from nightshift.bus.kafka.checked_consumer import CheckedConsumer
from nightshift.bus.kafka.credentials import CREDENTIALS_REFUSED, refusal
from nightshift.bus.kafka.partition_feed import PartitionFeed, Records
from nightshift.bus.kafka.security import faststream_security
from nightshift.bus.kafka.strategy import strategy_for
from nightshift.bus.kafka.topic_check import require_topics
from nightshift.bus.kafka.watchdog import Watchdog
from nightshift.bus.message_processor import MessageProcessor
from nightshift.bus.policy import ConsumerPolicy, RetryPolicy
from nightshift.bus.port import DependencyProbe, Producer, Subscription
from nightshift.bus.settings import KafkaSettings
from nightshift.contracts.registry import CATALOGUE, Registry
from nightshift.eventlog.database import Database
from nightshift.eventlog.errors import Unavailable
from nightshift.eventlog.objects.port import ObjectStore

_log = structlog.get_logger(__name__)
#: FastStream's errors appear in our log. Its info entries are left out, because they repeat ours.
_framework_log = logging.getLogger("faststream")

# A poll returns as soon as a record arrives. After an empty poll FastStream sleeps for the poll's timeout, even when
# records arrive. So the timeout is a day, and no poll comes back empty.
_POLL_MS = 24 * 3600 * 1000

_BATCH_OVERHEAD = 65_536  # the most bytes that a batch has beyond its largest message
_START_AGAIN_S = 1.0
_METADATA_MAX_AGE_MS = 30_000  # how long a consumer may take to notice a new topic


class EventBroker(KafkaBroker):
    """FastStream's broker object, except that FastStream does not start and stop it: KafkaConsumers does.

    A FastStream application would start its broker after the lifespan began and stop it before the lifespan ends. Our
    consumers start and drain within the lifespan, so `start` and `stop` do nothing.
    """

    async def start(self) -> None:
        """Do nothing. KafkaConsumers starts the subscribers."""

    async def stop(self, *exc: Any) -> None:
        """Do nothing. KafkaConsumers finishes the messages being processed and then stops the subscribers."""

    async def close(self) -> None:
        """Stop the subscribers and close their Kafka clients."""
        await super().stop()


class KafkaConsumers:
    """The running consumers of one service. An async context manager: entering it starts them.

    Leaving it finishes the messages being processed, commits their offsets and stops. `failed` is set when a partition
    with messages makes no progress; the process should then exit and be restarted.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        subscriptions: Sequence[Subscription],
        *,
        producer: Producer,
        objects: ObjectStore,
        dependencies: DependencyProbe | None = None,
        database: Database | None = None,
        policy: ConsumerPolicy | None = None,
        on_assigned: Callable[[], None] = lambda: None,
        registry: Registry = CATALOGUE,
        client_id: str = "nightshift",
        stop_s: float = 10.0,
    ) -> None:
        """Prepare the consumers without connecting.

        - `dependencies`: returns whether the dependencies of the handlers answer now.
        - `database`: delivers the relay's notifications when the broker is the embedded one. Not used on Apache Kafka.
        - `on_assigned`: called when a group has assigned partitions again. Another member may have died while at work.
        - `stop_s`: the time limit in seconds for closing the Kafka clients.
        """
        retry = RetryPolicy(
            attempts=settings.retry_attempts, base_s=settings.retry_base_s, cap_s=settings.retry_cap_s
        )
        self._settings = settings
        self._policy = policy or ConsumerPolicy(retry=retry)
        self._stop_s = stop_s
        self._strategy = strategy_for(settings, database)
        self._dead_letters = DeadLetterPublisher(
            producer,
            objects,
            topic=settings.topics.dead_letter,
            carry_limit=settings.kafka_max_message_bytes,
            retry=self._policy.retry,
        )
        self._objects = objects
        self._registry = registry
        self._dependencies = dependencies
        self._on_assigned = on_assigned
        _framework_log.setLevel(logging.ERROR)
        self.broker = EventBroker(
            settings.kafka_bootstrap.split(","),
            client_id=client_id,
            metadata_max_age_ms=_METADATA_MAX_AGE_MS,
            security=faststream_security(settings),
            consumer_only=True,
            allow_auto_create_topics=False,
            apply_types=False,
            logger=_framework_log,
        )
        self._alone = asyncio.Lock()
        self._feeds = [self._feed(subscription) for subscription in subscriptions]
        self.watchdog = Watchdog(self._feeds, dependencies=dependencies)
        self._housekeeper: asyncio.Task[None] | None = None

    @property
    def assigned(self) -> bool:
        """Whether every subscription has received its partitions."""
        return all(feed.assigned for feed in self._feeds)

    @property
    def settled(self) -> int:
        """The number of messages handled, skipped or dead-lettered since the start."""
        return sum(feed.progress for feed in self._feeds)

    @property
    def failed(self) -> asyncio.Event:
        """Set when the process should exit, because a partition with messages makes no progress."""
        return self.watchdog.failed

    async def __aenter__(self) -> Self:
        """Start the consumers; retry while the broker does not answer.

        Raises ConfigurationError when the broker refuses the credentials.
        """
        await self._strategy.__aenter__()
        logged = 0.0
        while not await self._start_clients():
            if time.monotonic() - logged > self._policy.retry.log_every_s:
                logged = time.monotonic()
                _log.warning("broker.unavailable", bootstrap=self._settings.kafka_bootstrap)
            await asyncio.sleep(_START_AGAIN_S)
        for feed in self._feeds:
            if feed.subscriber.consumer is not None:
                self._strategy.started(feed.subscription, feed.subscriber.consumer)
        self._housekeeper = asyncio.create_task(self._keep_house(), name="bus housekeeper")
        return self

    async def _start_clients(self) -> bool:
        """Start all subscribers at the same time. Returns False when the broker does not answer.

        FastStream would start them one after the other, and the broker delays each join of a group.
        """
        try:
            # A broker may create a topic that a client asks for, with another number of partitions than planned.
            await require_topics(self._settings, {feed.subscription.topic for feed in self._feeds})
        except Unavailable:
            return False
        await self.broker.connect()
        config = self.broker.config.broker_config
        config.builder = partial(CheckedConsumer, **cast(partial[Any], config.builder).keywords)
        for feed in self._feeds:
            feed.prepare()
        outcomes = await asyncio.gather(
            *(feed.subscriber.start() for feed in self._feeds), return_exceptions=True
        )
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if not errors:
            self.broker.running = True
            for feed in self._feeds:
                feed.started()
            return True
        await self._stop_clients()
        for error in errors:
            if isinstance(error, CREDENTIALS_REFUSED):
                raise refusal(error) from error
            if not isinstance(error, KafkaError | OSError | TimeoutError):
                raise error
        return False

    async def abandon(self) -> None:
        """Stop as if the process were killed: finish no message and commit no offset. For tests."""
        await self._end_housekeeper()
        for feed in self._feeds:
            feed.stop_taking()
            await feed.intake.abandon()
        await self._stop_clients()
        await self._strategy.__aexit__(None, None, None)

    async def __aexit__(self, *exc: object) -> None:
        await self._end_housekeeper()
        for feed in self._feeds:
            feed.stop_taking()
        await asyncio.gather(*(feed.intake.close() for feed in self._feeds))
        await self._stop_clients()
        await self._strategy.__aexit__(None, None, None)

    def _feed(self, subscription: Subscription) -> PartitionFeed:
        dispatcher = Dispatcher(
            subscription,
            objects=self._objects,
            seen_subjects=self._policy.seen_subjects,
            registry=self._registry,
            keys=self._settings.request_keys,
        )
        processor = MessageProcessor(
            dispatcher,
            self._dead_letters,
            self._policy.retry,
            topic=subscription.topic,
            group=subscription.group,
            gate=subscription.gate,
            dependencies=self._dependencies,
        )
        intake = BatchIntake(
            processor,
            self._policy,
            topic=subscription.topic,
            group=subscription.group,
            alone=self._alone,
        )
        feed = PartitionFeed(subscription, intake, self._strategy, self._on_assigned)
        wait = self._strategy.fetch_wait(subscription)
        subscriber = self.broker.subscriber(
            subscription.topic,
            batch=True,
            # Who reads from now on in every process needs no group: it would join, commit, and be left behind.
            group_id=None if subscription.from_now else subscription.group,
            ack_policy=AckPolicy.MANUAL,
            auto_offset_reset="latest" if subscription.from_now else "earliest",
            max_poll_interval_ms=int(self._settings.kafka_max_poll_interval_s * 1000),
            session_timeout_ms=int(self._settings.session_timeout_s * 1000),
            heartbeat_interval_ms=int(self._settings.session_timeout_s * 300),
            max_poll_records=self._settings.kafka_max_poll_records,
            max_records=self._settings.kafka_max_poll_records,
            fetch_max_wait_ms=wait.wait_ms,
            fetch_min_bytes=wait.min_bytes,
            isolation_level="read_committed",
            max_partition_fetch_bytes=max(self._settings.kafka_max_message_bytes, 1_048_576)
            + _BATCH_OVERHEAD,
            batch_timeout_ms=_POLL_MS,
            listener=feed,
            parser=_undecoded,
            decoder=_records,
            no_reply=True,
        )
        subscriber(feed.on_batch)
        feed.subscriber = demand_manual_acks(subscriber)
        return feed

    async def _end_housekeeper(self) -> None:
        if self._housekeeper is not None:
            self._housekeeper.cancel()
            await asyncio.gather(self._housekeeper, return_exceptions=True)

    async def _keep_house(self) -> None:
        """About once a second, commit the positions of idle partitions and let the watchdog check for stuck ones."""
        while True:
            await asyncio.sleep(1.0)
            for feed in self._feeds:
                await feed.commit_beginnings()
                feed.commit_positions()
                feed.measure_lag()
            await self.watchdog.look()

    async def _stop_clients(self) -> None:
        """Close the clients within a time limit, because aiokafka waits for a broker that does not answer."""
        for feed in self._feeds:
            if feed.subscriber.consumer is not None and not feed.subscription.from_now:
                self._strategy.stopping(feed.subscriber.consumer)
        try:
            async with asyncio.timeout(self._stop_s):
                await self.broker.close()
        except TimeoutError:
            _log.warning("consumers.close_timed_out", seconds=self._stop_s)
            for feed in self._feeds:
                if feed.subscriber.consumer is not None:
                    await internals.close_connections(feed.subscriber.consumer)
        except ExceptionGroup as errors:
            _log.warning("consumers.close_failed", errors=[repr(error) for error in errors.exceptions])


def demand_manual_acks(subscriber: Any) -> BatchSubscriber:
    """Return the subscriber. Raises ValueError when FastStream would acknowledge its messages itself."""
    if not isinstance(subscriber, BatchSubscriber) or subscriber.ack_policy is not AckPolicy.MANUAL:
        raise ValueError("a subscriber must take batches and acknowledge manually")
    return subscriber


async def _undecoded(records: Records) -> StreamMessage[Any]:
    """Wrap the records for FastStream without decoding them.

    No header is read here, because a header that is not UTF-8 would fail the whole batch.
    """
    return KafkaAckableMessage(
        body=b"", headers={}, message_id="", correlation_id="", raw_message=records, consumer=FAKE_CONSUMER
    )


async def _records(message: StreamMessage[Any]) -> Records:
    return cast(Records, message.raw_message)
