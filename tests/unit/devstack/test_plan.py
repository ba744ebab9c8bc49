"""What a stack consists of, from flags and environment."""

import json
import os
import stat
from pathlib import Path

import pytest

from nightshift.devstack.child import Child, ChildSpec
from nightshift.devstack.errors import BadPlan, HomeInUse
from nightshift.devstack.parts import KafkaAddress, PostgresAddress
from nightshift.devstack.stack import home as homes
from nightshift.devstack.stack import plan as plans
from nightshift.devstack.stack.addresses import (
    Addresses,
    given_addresses,
    needs_snapshot_key,
    service_environment,
)
from nightshift.devstack.stack.plan import Given, make_plan
from nightshift.devstack.stack.units import ServiceReplica


@pytest.fixture(autouse=True)
def _two_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "is_installed", lambda name: name in {"relay", "orchestrator"})


def test_all_parts_and_every_service_that_is_installed(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, environ={})
    assert plan.services == {"relay": 1, "orchestrator": 1}
    assert all(plan.starts(part) for part in plans.PARTS)


def test_only_and_replicas(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, environ={}, only=["postgres", " kafka", "s3", "relay"], replicas={"relay": 3})
    assert plan.services == {"relay": 3}
    assert not plan.starts("model")
    assert make_plan(tmp_path, environ={}, replicas={"relay": 0}).services == {"orchestrator": 1}


@pytest.mark.parametrize(
    ("environ", "given", "part"),
    [
        ({"NIGHTSHIFT_POSTGRES_DSN": "postgresql://x/y"}, Given(), "postgres"),
        ({"NIGHTSHIFT_KAFKA_BOOTSTRAP": "k:1"}, Given(), "kafka"),
        ({"NIGHTSHIFT_S3_ENDPOINT": "http://s"}, Given(), "s3"),
        ({"ANTHROPIC_API_KEY": "sk"}, Given(), "model"),
        ({}, Given(model="http://m"), "model"),
        ({}, Given(kafka="k:1"), "kafka"),
    ],
)
def test_what_is_given_is_not_started(
    tmp_path: Path, environ: dict[str, str], given: Given, part: str
) -> None:
    plan = make_plan(tmp_path, environ=environ, given=given)
    assert [one for one in plans.PARTS if not plan.starts(one)] == [part]


def test_a_scenario_asks_for_the_scripted_model_key_or_not(tmp_path: Path) -> None:
    assert make_plan(tmp_path, environ={"ANTHROPIC_API_KEY": "sk"}, scenario=tmp_path / "s").starts("model")


def test_a_service_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadPlan, match="budget is not installed"):
        make_plan(tmp_path, environ={}, only=["budget"])


def test_a_service_is_shown_by_one_name_and_found_by_both(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(plans, "is_installed", lambda _name: True)
    for asked in ("sandbox-gateway", "sandbox_gateway"):
        plan = make_plan(tmp_path, environ={}, only=["postgres", "kafka", "s3", asked], replicas={asked: 2})
        assert plan.services == {"sandbox_gateway": 2}
    with pytest.raises(BadPlan) as caught:
        make_plan(tmp_path, environ={}, only=["moon"])
    assert "sandbox-gateway" in str(caught.value.hint)

    async def launch(spec: ChildSpec) -> Child:
        return Child.start(spec)

    no_utf_8 = tmp_path / os.fsdecode(b"h\xff")
    replica = ServiceReplica("sandbox_gateway", 1, env={}, log_dir=no_utf_8, launch=launch)
    assert replica.name == "sandbox-gateway #2"


def test_a_service_gets_its_role_and_the_brokers_ways(tmp_path: Path) -> None:
    plan = make_plan(
        tmp_path, environ={"ANTHROPIC_API_KEY": "sk-real", "PATH": "/bin"}, scenario=tmp_path / "s"
    )
    found = Addresses(
        PostgresAddress("127.0.0.1", 5),
        KafkaAddress("k:1", idempotence=False, adaptive_fetch=True),
        None,
        "http://m",
    )
    env = service_environment(plan, found, "relay")
    assert env["NIGHTSHIFT_POSTGRES_DSN"] == "postgresql://nightshift_relay@127.0.0.1:5/nightshift"
    assert env["NIGHTSHIFT_KAFKA_IDEMPOTENCE"] == "false"
    assert env["NIGHTSHIFT_KAFKA_ADAPTIVE_FETCH"] == "true"
    assert env["ANTHROPIC_BASE_URL"] == "http://m"
    assert env["ANTHROPIC_API_KEY"] != "sk-real", "a real key is not for the scripted model"
    assert env["PATH"] == "/bin"


def test_a_real_broker_and_a_real_key_are_used_as_they_are(tmp_path: Path) -> None:
    environ = {"NIGHTSHIFT_KAFKA_BOOTSTRAP": "k:1", "ANTHROPIC_API_KEY": "sk-real"}
    plan = make_plan(tmp_path, environ=environ)
    env = service_environment(plan, given_addresses(plan), "orchestrator")
    assert env["NIGHTSHIFT_KAFKA_IDEMPOTENCE"] == "true"
    assert env["NIGHTSHIFT_KAFKA_ADAPTIVE_FETCH"] == "false"
    assert env["ANTHROPIC_API_KEY"] == "sk-real"
    assert env["ANTHROPIC_BASE_URL"] == "https://api.anthropic.com"


def test_a_home_has_one_private_snapshot_key(tmp_path: Path) -> None:
    drawn = homes.snapshot_key(tmp_path)
    assert len(drawn) == 64
    assert homes.snapshot_key(tmp_path) == drawn
    assert stat.S_IMODE((tmp_path / "snapshot.key").stat().st_mode) == 0o600
    (tmp_path / "other").mkdir()
    assert homes.snapshot_key(tmp_path / "other") != drawn


@pytest.mark.parametrize(("given", "needed"), [({}, True), ({"NIGHTSHIFT_SNAPSHOT_KEY": "k"}, False)])
def test_the_snapshot_key_goes_to_services_unless_one_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], needed: bool
) -> None:
    monkeypatch.setattr(plans, "is_installed", lambda _name: True)
    plan = make_plan(tmp_path, environ=given)
    assert needs_snapshot_key(plan) is needed
    found = Addresses(snapshot_key="drawn" if needed else None)
    keys = {
        one: service_environment(plan, found, one).get("NIGHTSHIFT_SNAPSHOT_KEY") for one in plan.services
    }
    if needed:
        assert keys == dict.fromkeys(plan.services) | {"sandbox_gateway": "drawn", "snapshotter": "drawn"}
    else:
        assert set(keys.values()) == {"k"}
    assert not needs_snapshot_key(make_plan(tmp_path, environ={}, only=["postgres", "kafka", "s3", "relay"]))


def test_a_home_has_one_holder(tmp_path: Path) -> None:
    with homes.hold(tmp_path):
        assert homes.is_held(tmp_path)
        with pytest.raises(HomeInUse, match="a stack runs on"), homes.hold(tmp_path):
            pass
        homes.write_stack(tmp_path, {"home": "x"})
        assert homes.read_stack(tmp_path) == {"home": "x"}
    assert not homes.is_held(tmp_path)
    assert homes.read_stack(tmp_path) is None


def test_what_a_killed_stack_left_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text(json.dumps({"home": "x"}))
    (tmp_path / "stack.lock").write_text("1\n")
    assert homes.read_stack(tmp_path) is None
    with homes.hold(tmp_path):
        assert homes.read_stack(tmp_path) is None, "not ready yet"


def test_ports_are_remembered_and_rubbish_is_not(tmp_path: Path) -> None:
    homes.remember_ports(tmp_path, {"kafka": 21000})
    assert homes.remembered_ports(tmp_path) == {"kafka": 21000}
    (tmp_path / "ports.json").write_text("{")
    assert homes.remembered_ports(tmp_path) == {}


def test_topics_on_a_given_broker_follow_the_settings_of_the_relay(tmp_path: Path) -> None:
    environ = {"NIGHTSHIFT_RELAY_TOPIC_REPLICATION": "1", "NIGHTSHIFT_RELAY_TOPIC_PARTITIONS": "6"}
    for given, expected in ((environ, (6, 1)), ({}, (None, None))):
        found = given_addresses(make_plan(tmp_path, environ=given, given=Given(kafka="k:1"))).kafka
        assert found is not None
        assert (found.partitions, found.replication) == expected


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_replication_that_is_no_number_is_refused(tmp_path: Path, value: str) -> None:
    environ = {"NIGHTSHIFT_RELAY_TOPIC_REPLICATION": value}
    with pytest.raises(BadPlan, match="NIGHTSHIFT_RELAY_TOPIC_REPLICATION"):
        given_addresses(make_plan(tmp_path, environ=environ, given=Given(kafka="k:1")))


def test_the_broker_is_restarted_at_a_size_that_can_be_set(tmp_path: Path) -> None:
    assert make_plan(tmp_path, environ={}).broker_memory_mb == 64
    assert make_plan(tmp_path, environ={"NIGHTSHIFT_BROKER_MEMORY_MB": "256"}).broker_memory_mb == 256
    for value in ("0", "-5", "much", "nan"):
        with pytest.raises(BadPlan, match="NIGHTSHIFT_BROKER_MEMORY_MB"):
            make_plan(tmp_path, environ={"NIGHTSHIFT_BROKER_MEMORY_MB": value})
