"""The plan of topics: the file, the contracts, and what differs on a broker."""

from dataclasses import replace
from pathlib import Path

import pytest

from nightshift.contracts.topics import Topics
from nightshift.eventlog.errors import ConfigurationError
from nightshift.relay.adapters.kafka_topics import load_plan
from nightshift.relay.domain.topics import TopicState, adjusted, compare, default_plan

ROOT = Path(__file__).parents[3]


def test_the_file_in_deploy_is_the_plan_of_this_release():
    assert load_plan(ROOT / "deploy/topics.yaml", Topics()) == tuple(
        replace(topic, config=dict(topic.config)) for topic in default_plan(Topics())
    )


def test_the_plan_has_exactly_the_topics_of_the_contracts():
    topics = Topics("acme")
    assert tuple(topic.name for topic in default_plan(topics)) == topics.all


def test_the_file_serves_an_installation_with_another_prefix():
    topics = Topics("acme")
    assert {topic.name for topic in load_plan(ROOT / "deploy/topics.yaml", topics)} == set(topics.all)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("topics: []", "nightshift.build.v1"),
        ("topics: 3", "not a plan of topics"),
        ("{", "not a plan of topics"),
        ("topics: [{name: x.y.v1, partitions: 1, replication: 1, config: {}}]", "x.y.v1"),
    ],
)
def test_a_wrong_file_is_refused_and_says_where(tmp_path: Path, text: str, says: str):
    file = tmp_path / "topics.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=says):
        load_plan(file, Topics())


def test_a_small_cluster_needs_no_more_replicas_in_sync_than_it_has():
    for topic in adjusted(default_plan(Topics()), partitions=4, replication=1):
        assert (topic.partitions, topic.replication) == (4, 1)
        assert topic.config["min.insync.replicas"] == "1"


class TestCompare:
    plan = default_plan(Topics())[1]

    def test_nothing_there_is_missing(self):
        assert compare(self.plan, None).state is TopicState.MISSING

    def test_the_same_is_present(self):
        assert compare(self.plan, self.plan).state is TopicState.PRESENT

    def test_what_the_broker_does_not_tell_is_not_compared(self):
        assert compare(self.plan, replace(self.plan, config={})).state is TopicState.PRESENT

    def test_another_retention_is_drift_and_named(self):
        found = replace(self.plan, config={**self.plan.config, "retention.ms": "1"})
        report = compare(self.plan, found)
        assert report.state is TopicState.DRIFT
        assert report.differences == (f"retention.ms is 1 instead of {self.plan.config['retention.ms']}",)

    def test_fewer_replicas_are_drift(self):
        assert compare(self.plan, replace(self.plan, replication=1)).state is TopicState.DRIFT

    def test_another_number_of_partitions_is_refused_with_the_reason(self):
        report = compare(self.plan, replace(self.plan, partitions=12))
        assert report.state is TopicState.REFUSED
        assert "move keys" in report.differences[0]
        assert report.partitions == 12
