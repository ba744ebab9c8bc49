"""Applies the topic plan to a real broker, by function and by command."""

import json
import os
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from nightshift.bus.settings import KafkaSettings
from nightshift.cli.main import run
from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import KafkaAddress
from nightshift.relay.adapters.kafka_topics import apply
from nightshift.relay.domain.topics import TopicState

pytestmark = pytest.mark.kafka


@pytest.fixture
def settings(kafka: KafkaAddress) -> KafkaSettings:
    return KafkaSettings(kafka_bootstrap=kafka.bootstrap, topic_prefix=f"t{uuid4().hex[:12]}")


async def names(settings: KafkaSettings) -> set[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await admin.start()
    try:
        return {name for name in await admin.list_topics() if name.startswith(settings.topic_prefix)}
    finally:
        await admin.close()


async def test_missing_topics_are_created_once(settings: KafkaSettings):
    first = await apply(settings, partitions=3, replication=1)
    again = await apply(settings, partitions=3, replication=1)
    assert {one.name for one in first} == set(settings.topics.all) == await names(settings)
    assert {one.state for one in first} == {TopicState.CREATED}
    assert {one.state for one in again} == {TopicState.PRESENT}
    assert {one.partitions for one in again} == {3}


async def test_a_dry_run_creates_nothing(settings: KafkaSettings):
    reports = await apply(settings, partitions=2, replication=1, dry_run=True)
    assert {one.state for one in reports} == {TopicState.MISSING}
    assert await names(settings) == set()


async def test_another_number_of_partitions_changes_nothing(settings: KafkaSettings):
    await apply(settings, partitions=2, replication=1)
    reports = await apply(settings, partitions=4, replication=1)
    assert {(one.state, one.partitions) for one in reports} == {(TopicState.REFUSED, 2)}


def test_the_command_creates_reports_and_refuses(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path
):
    for name in [name for name in os.environ if name.startswith("NIGHTSHIFT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NIGHTSHIFT_KAFKA_BOOTSTRAP", settings.kafka_bootstrap)
    monkeypatch.setenv("NIGHTSHIFT_TOPIC_PREFIX", settings.topic_prefix)
    command = ["topics", "apply", "--replication", "1", "--home", str(tmp_path), "--json", "--partitions"]
    assert run([*command, "2"]) == 0
    created = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in created] == list(Topics(settings.topic_prefix).all)
    assert {one["state"] for one in created} == {"created"}
    assert run([*command, "3"]) == 1
    said = capsys.readouterr()
    assert {one["state"] for one in json.loads(said.out)} == {"refused"}
    assert "error:" in said.err
    assert "hint:" in said.err
