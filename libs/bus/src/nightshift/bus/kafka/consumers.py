"""The broker factory: every consumer of ours is made here, on FastStream, with batches and manual acks.

FastStream makes the client, subscribes it and calls us with each batch of records; what happens to a message is decided
by the intake. Its own acknowledgement, decoding, injection and replies are off: the first would commit what failed,
the others cost more than the work.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Self, cast

import structlog
from aiokafka.errors import (
    AuthenticationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.kafka.message import FAKE_CONSUMER, KafkaAckableMessage
from faststream.kafka.subscriber.usecase import BatchSubscriber
from faststream.message import StreamMessage

from nightshift.bus.dispatch import Dispatcher
from nightshift.bus.intake import Intake
from nightshift.bus.kafka import internals
from nightshift.bus.kafka.attempts import CommittedAttempts, PartitionAttempts
from nightshift.bus.kafka.checked_consumer import CheckedConsumer
from nightshift.bus.kafka.feed import Feed, Records
from nightshift.bus.kafka.fetch_pace import REQUEST_STEPS, FetchPace, Wakes
from nightshift.bus.kafka.security import faststream_security
from nightshift.bus.kafka.watchdog import Watchdog
from nightshift.bus.parking import Parking
from nightshift.bus.policy import ConsumerPolicy, RetryPolicy
from nightshift.bus.port import GroundProbe, Producer, Subscription
from nightshift.bus.settings import KafkaSettings
from nightshift.bus.settle import Settler
from nightshift.contracts.registry import CATALOGUE, Registry
from nightshift.eventlog.errors import ConfigurationError
from nightshift.eventlog.objects.port import ObjectStore

_log = structlog.get_logger(__name__)
#: FastStream's own words, through our log; what it tells at info is told by us.
_framework_log = logging.getLogger("faststream")

# A poll returns as soon as there is a record. FastStream sleeps as long again after an empty one, blind to new records,
# so an empty poll must not happen.
_POLL_MS = 24 * 3600 * 1000

# What a broker that wakes its fetches waits for on behalf of a patient consumer: more than comes in its patience, less
# than a backlog, which is fetched without waiting.
_PATIENT_BYTES = 256 * 1024
_FETCH_WAIT_MS = 500  # the client's default, for a broker that wakes a waiting fetch
_JOINING_WAIT_MS = 50  # where the pace is ours, until all clients have started
_BATCH_OVERHEAD = 65_536  # what a batch may weigh beside the largest message in it
_START_AGAIN_S = 1.0
_METADATA_MAX_AGE_MS = 30_000  # how late a topic made after our start is seen
_NOT_LET_IN = (
    AuthenticationFailedError,
    UnsupportedSaslMechanismError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
)


class KafkaConsumers:
    """The running consumers of one service. Enter it to start, leave it to drain and stop.

    `failed` is set, with a reason in the log, when a consumer makes no progress that it should make: the process
    should end then, and be started anew.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        subscriptions: Sequence[Subscription],
        *,
        producer: Producer,
        objects: ObjectStore,
        ground: GroundProbe | None = None,
        wakes: Wakes | None = None,
        policy: ConsumerPolicy | None = None,
        registry: Registry = CATALOGUE,
        client_id: str = "nightshift",
        stop_s: float = 10.0,
    ) -> None:
        """`ground` tells whether the database answers, `stop_s` bounds the closing of the clients.

        `wakes` is the relay's word of new facts, where the broker does not wake a waiting fetch itself.
        """
        retry = RetryPolicy(
            attempts=settings.retry_attempts, base_s=settings.retry_base_s, cap_s=settings.retry_cap_s
        )
        self._settings = settings
        self._policy = policy or ConsumerPolicy(retry=retry)
        self._stop_s = stop_s
        self._wakes = wakes
        self._parking = Parking(
            producer,
            objects,
            topic=settings.topics.dead_letter,
            carry_limit=settings.kafka_max_message_bytes,
            retry=self._policy.retry,
        )
        self._objects = objects
        self._registry = registry
        self._ground = ground
        _framework_log.setLevel(logging.ERROR)
        self._broker = KafkaBroker(
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
        self.watchdog = Watchdog(self._feeds, ground=ground)
        self._housekeeper: asyncio.Task[None] | None = None

    @property
    def assigned(self) -> bool:
        """Whether every subscription has been given its partitions."""
        return all(feed.assigned for feed in self._feeds)

    @property
    def settled(self) -> int:
        """Messages handled, passed over or parked since the start."""
        return sum(feed.progress for feed in self._feeds)

    @property
    def failed(self) -> asyncio.Event:
        """Set when the process should end."""
        return self.watchdog.failed

    async def __aenter__(self) -> Self:
        """Waits for a broker that does not answer yet, and says so. Raises ConfigurationError when it shuts us out."""
        said = 0.0
        while not await self._start_clients():
            if time.monotonic() - said > self._policy.retry.say_every_s:
                said = time.monotonic()
                _log.warning("waits for the broker", bootstrap=self._settings.kafka_bootstrap)
            await asyncio.sleep(_START_AGAIN_S)
        for feed in self._feeds:
            if feed.pace is not None and feed.subscriber.consumer is not None:
                feed.pace.set_wait_of(partial(internals.set_fetch_wait, feed.subscriber.consumer))
                internals.pace_fetches(feed.subscriber.consumer, feed.pace)
        self._housekeeper = asyncio.create_task(self._keep_house(), name="bus housekeeper")
        return self

    async def _start_clients(self) -> bool:
        """All at once: a join is held by the broker, and FastStream would start one subscriber after the other."""
        await self._broker.connect()
        config = self._broker.config.broker_config
        config.builder = partial(CheckedConsumer, **cast(partial[Any], config.builder).keywords)
        outcomes = await asyncio.gather(
            *(feed.subscriber.start() for feed in self._feeds), return_exceptions=True
        )
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if not errors:
            self._broker.running = True
            return True
        await self._stop_clients()
        for error in errors:
            if isinstance(error, _NOT_LET_IN):
                raise ConfigurationError(
                    f"the broker does not let us in: {type(error).__name__}: {error}",
                    hint="look at the NIGHTSHIFT_KAFKA_SASL_ and _SSL_ variables and the broker's ACLs",
                ) from error
            if not isinstance(error, KafkaError | OSError | TimeoutError):
                raise error
        return False

    async def abandon(self) -> None:
        """End as if the process were killed: nothing is finished, nothing more is committed. For tests."""
        await self._end_housekeeper()
        for feed in self._feeds:
            feed.stop_taking()
            await feed.intake.abandon()
        await self._stop_clients()

    async def __aexit__(self, *exc: object) -> None:
        await self._end_housekeeper()
        for feed in self._feeds:
            feed.stop_taking()
        await asyncio.gather(*(feed.intake.close() for feed in self._feeds))
        await self._stop_clients()

    def _feed(self, subscription: Subscription) -> Feed:
        dispatcher = Dispatcher(
            subscription,
            objects=self._objects,
            seen_subjects=self._policy.seen_subjects,
            registry=self._registry,
        )
        settler = Settler(
            dispatcher,
            self._parking,
            self._policy.retry,
            topic=subscription.topic,
            group=subscription.group,
            gate=subscription.gate,
            ground=self._ground,
        )
        intake = Intake(
            settler,
            self._policy,
            topic=subscription.topic,
            group=subscription.group,
            alone=self._alone,
        )
        attempts = self._attempts(subscription.group)
        feed = Feed(intake, self._pace(subscription), attempts, guarded=not subscription.from_now)
        wait_ms, least_bytes = _waiting(subscription, paced=feed.pace is not None)
        subscriber = self._broker.subscriber(
            subscription.topic,
            batch=True,
            group_id=subscription.group,
            ack_policy=AckPolicy.MANUAL,
            auto_offset_reset="latest" if subscription.from_now else "earliest",
            max_poll_interval_ms=int(self._settings.kafka_max_poll_interval_s * 1000),
            session_timeout_ms=int(self._settings.session_timeout_s * 1000),
            heartbeat_interval_ms=int(self._settings.session_timeout_s * 300),
            max_poll_records=self._settings.kafka_max_poll_records,
            max_records=self._settings.kafka_max_poll_records,
            fetch_max_wait_ms=wait_ms,
            fetch_min_bytes=least_bytes,
            max_partition_fetch_bytes=max(self._settings.kafka_max_message_bytes, 1_048_576)
            + _BATCH_OVERHEAD,
            batch_timeout_ms=_POLL_MS,
            listener=feed,
            parser=_as_it_came,
            decoder=_records,
            no_reply=True,
        )
        subscriber(feed.on_batch)
        feed.subscriber = demand_manual_acks(subscriber)
        return feed

    def _attempts(self, group: str) -> PartitionAttempts:
        if not self._settings.kafka_adaptive_fetch:
            return CommittedAttempts()
        from nightshift.bus.kafka.embedded import GroupAttempts  # noqa: PLC0415 - the embedded broker only

        return GroupAttempts(group)

    def _pace(self, subscription: Subscription) -> FetchPace | None:
        """The relay tells of facts only: of what others put on a topic, nobody tells."""
        if not self._settings.kafka_adaptive_fetch:
            return None
        patience = subscription.patience_s
        if self._wakes is None:
            return FetchPace(patience_s=patience)
        if subscription.topic not in self._settings.topics.facts:
            return FetchPace(steps=REQUEST_STEPS, patience_s=patience)
        pace = FetchPace(self._wakes, patience_s=patience)
        self._wakes.on(subscription.topic, pace.ring)
        return pace

    async def _end_housekeeper(self) -> None:
        if self._housekeeper is not None:
            self._housekeeper.cancel()
            await asyncio.gather(self._housekeeper, return_exceptions=True)

    async def _keep_house(self) -> None:
        """About once a second: whether the consumers make progress."""
        while True:
            await asyncio.sleep(1.0)
            for feed in self._feeds:
                feed.commit_positions()
            await self.watchdog.look()

    async def _stop_clients(self) -> None:
        """aiokafka's stop waits for a broker that is gone."""
        for feed in self._feeds:
            if feed.subscriber.consumer is not None:
                internals.leave_any_generation(feed.subscriber.consumer)
        try:
            async with asyncio.timeout(self._stop_s):
                await self._broker.stop()
        except TimeoutError:
            _log.warning("consumers did not close in time", seconds=self._stop_s)
            for feed in self._feeds:
                if feed.subscriber.consumer is not None:
                    await internals.close_connections(feed.subscriber.consumer)
        except ExceptionGroup as errors:
            _log.warning("consumers closed with errors", errors=[repr(error) for error in errors.exceptions])


def _waiting(subscription: Subscription, *, paced: bool) -> tuple[int, int]:
    """How long a fetch waits at the broker (milliseconds), and for how much (bytes)."""
    if paced:  # it is the client that waits
        return _JOINING_WAIT_MS, 1
    if subscription.patience_s:
        return min(int(subscription.patience_s * 1000), _FETCH_WAIT_MS), _PATIENT_BYTES
    return _FETCH_WAIT_MS, 1


def demand_manual_acks(subscriber: Any) -> BatchSubscriber:
    """Refuse a subscriber that FastStream would acknowledge by itself. Raises ValueError."""
    if not isinstance(subscriber, BatchSubscriber) or subscriber.ack_policy is not AckPolicy.MANUAL:
        raise ValueError("a subscriber of ours takes batches and acknowledges by hand")
    return subscriber


async def _as_it_came(records: Records) -> StreamMessage[Any]:
    """No header is read here: one that is not UTF-8 would fail the whole batch."""
    return KafkaAckableMessage(
        body=b"", headers={}, message_id="", correlation_id="", raw_message=records, consumer=FAKE_CONSUMER
    )


async def _records(message: StreamMessage[Any]) -> Records:
    return cast(Records, message.raw_message)
