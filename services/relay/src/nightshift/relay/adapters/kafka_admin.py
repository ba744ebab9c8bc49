"""Lists, describes and creates topics at the broker."""

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import InvalidReplicationFactorError, KafkaError, TopicAlreadyExistsError, for_code

from nightshift.bus.kafka.credentials import connection_arguments
from nightshift.bus.settings import KafkaSettings
from nightshift.eventlog.errors import Refused, Unavailable
from nightshift.relay.domain.topics import TopicPlan

_NO_ERROR = 0
_TOO_FEW_BROKERS = (
    "a single broker keeps one copy of a topic: set NIGHTSHIFT_RELAY_TOPIC_REPLICATION=1 for `nightshift up` and the"
    " relay, or create the topics with `nightshift topics apply --replication 1`"
)


class KafkaAdmin:
    """A connected admin client. `kafka_admin` creates it."""

    def __init__(self, client: AIOKafkaAdminClient, address: str) -> None:
        self._client = client
        self._address = address

    async def names(self) -> frozenset[str]:
        """Return the names of all topics. No topic is asked for by name, because some brokers would then create it."""
        with _translated(self._address):
            return frozenset(await self._client.list_topics())

    async def describe(self, names: Sequence[str]) -> dict[str, TopicPlan]:
        """Return topic name → partitions, replication and settings, for each of these topics that exists."""
        there = sorted(set(names) & await self.names())
        if not there:
            return {}
        with _translated(self._address):
            described = await self._client.describe_topics(there)
            configs = await self._client.describe_configs(
                [ConfigResource(ConfigResourceType.TOPIC, name) for name in there]
            )
        settings = {
            resource[3]: {entry[0]: entry[1] for entry in resource[4]}
            for answer in configs
            for resource in answer.resources
        }
        return {
            topic["topic"]: TopicPlan(
                topic["topic"],
                len(topic["partitions"]),
                min(len(partition["replicas"]) for partition in topic["partitions"]),
                settings.get(topic["topic"], {}),
            )
            for topic in described
            if topic["error_code"] == _NO_ERROR
        }

    async def create(self, plan: Sequence[TopicPlan]) -> frozenset[str]:
        """Create these topics and return the names of those that did not exist before.

        Raises Refused when the broker refuses a topic, and Unavailable when it does not answer or cannot create one
        now.
        """
        new = [
            NewTopic(
                topic.name,
                num_partitions=topic.partitions,
                replication_factor=topic.replication,
                topic_configs=dict(topic.config),
            )
            for topic in plan
        ]
        with _translated(self._address):
            answer = await self._client.create_topics(new)
        created = set()
        for name, code, *text in answer.topic_errors:
            error = for_code(code)
            if code == _NO_ERROR:
                created.add(name)
                continue
            if error is TopicAlreadyExistsError:
                continue
            message = f"the broker does not create {name}: {text[0] if text and text[0] else error.__name__}"
            if error is InvalidReplicationFactorError:
                raise Refused(message, hint=_TOO_FEW_BROKERS)
            raise Unavailable(message) if error.retriable else Refused(message)
        return frozenset(created)


@contextlib.asynccontextmanager
async def kafka_admin(settings: KafkaSettings) -> AsyncIterator[KafkaAdmin]:
    """Connect an admin client, and disconnect it when the block ends. Raises Unavailable when the broker does not
    answer.
    """
    client = AIOKafkaAdminClient(**connection_arguments(settings), request_timeout_ms=10_000)
    address = settings.kafka_bootstrap
    try:
        with _translated(address):
            await client.start()
        yield KafkaAdmin(client, address)
    finally:
        with contextlib.suppress(KafkaError, OSError):
            await client.close()


@contextlib.contextmanager
def _translated(address: str) -> Iterator[None]:
    try:
        yield
    except (KafkaError, OSError, TimeoutError) as error:
        raise Unavailable(
            f"the broker at {address} does not answer: {str(error) or type(error).__name__}",
            hint="look at NIGHTSHIFT_KAFKA_BOOTSTRAP, and whether the broker runs",
        ) from error
