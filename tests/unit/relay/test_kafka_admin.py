"""What creating topics reports when the broker refuses."""

from types import SimpleNamespace

import pytest
from aiokafka.errors import InvalidReplicationFactorError, PolicyViolationError

from nightshift.eventlog.errors import Refused
from nightshift.relay.adapters.kafka_admin import KafkaAdmin
from nightshift.relay.domain.topics import TopicPlan


class RefusingClient:
    """Answers every creation with one error code."""

    def __init__(self, code: int) -> None:
        self._code = code

    async def create_topics(self, topics):
        return SimpleNamespace(topic_errors=[(topic.name, self._code, "no") for topic in topics])


async def creation_error(code: int) -> Refused:
    with pytest.raises(Refused) as raised:
        await KafkaAdmin(RefusingClient(code), "k:1").create([TopicPlan("facts", 1, 3, {})])
    return raised.value


async def test_too_few_brokers_for_the_copies_names_the_setting() -> None:
    error = await creation_error(InvalidReplicationFactorError.errno)
    assert "the broker does not create facts: no" in str(error)
    assert "NIGHTSHIFT_RELAY_TOPIC_REPLICATION=1" in error.hint
    assert "nightshift topics apply --replication 1" in error.hint


async def test_another_refusal_has_no_hint_about_copies() -> None:
    assert (await creation_error(PolicyViolationError.errno)).hint is None
