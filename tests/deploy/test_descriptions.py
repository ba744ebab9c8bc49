"""What deploy/ says of the services agrees with their code: names, roles, topics, rights, versions."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from nightshift.contracts.topics import Topics
from nightshift.devstack.stack.plan import SERVICES, service_name
from nightshift.relay.domain.topics import default_plan

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "nightshift"
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose" / "compose.yaml").read_text())
FACTS = yaml.safe_load(
    re.search(
        r'define "nightshift.facts" -}}\n(.*?){{-', (CHART / "templates" / "_helpers.tpl").read_text(), re.S
    )[1]
)
#: Service → the topics that it subscribes to, which its user must read. The relay reads what it published last.
READS = {
    "orchestrator": {"requests", "build", "sandbox", "budget"},
    "sandbox-gateway": {"build", "snapshot"},
    "snapshotter": {"build"},
    "budget": {"requests", "build"},
    "relay": {"build", "sandbox", "snapshot", "budget"},
}


def version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_the_chart_has_every_service_with_its_own_role():
    assert {fact["name"]: f"nightshift_{fact['role']}" for fact in FACTS.values()} == {
        service_name(module): role for module, role in SERVICES.items()
    }


def test_compose_runs_every_service_as_its_own_role():
    for module, role in SERVICES.items():
        service = COMPOSE["services"][service_name(module)]
        assert service["command"] == ["service", service_name(module)]
        assert service["environment"]["NIGHTSHIFT_POSTGRES_DSN"].startswith(f"postgresql://{role}@")


def test_only_what_makes_sandboxes_is_privileged_in_compose():
    privileged = {name for name, service in COMPOSE["services"].items() if service.get("privileged")}
    assert privileged == {"sandbox-gateway"}


def test_chart_image_and_members_have_one_version():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert {chart["version"], chart["appVersion"]} == {version()}
    assert f":-nightshift:{version()}}}" in (ROOT / "deploy" / "compose" / "compose.yaml").read_text()
    members = [
        *ROOT.glob("libs/*/pyproject.toml"),
        *ROOT.glob("services/*/pyproject.toml"),
        ROOT / "cli/pyproject.toml",
    ]
    assert {tomllib.loads(path.read_text())["project"]["version"] for path in members} == {version()}


def strimzi() -> str:
    return (CHART / "templates" / "strimzi.yaml").read_text()


def test_the_topic_manifests_agree_with_the_plan():
    days = re.search(r"range \$family, \$days := dict (.*?) }}", strimzi())[1].split()
    found = {family.strip('"'): int(number) for family, number in zip(days[::2], days[1::2], strict=True)}
    planned = {topic.name: topic for topic in default_plan(Topics())}
    assert {Topics().family(family) for family in found} == set(planned)
    for family, number in found.items():
        assert planned[Topics().family(family)].config["retention.ms"] == str(number * 86_400_000)


@pytest.mark.parametrize("service", READS)
def test_a_kafka_user_reads_what_its_service_subscribes_to(service):
    line = re.search(rf'^  "{service}" \(dict (.*)\)$', strimzi(), re.MULTILINE)[1]
    reads = re.search(r'"reads" \(list (.*?)\)', line)[1]
    assert {word.strip('"') for word in reads.split()} == READS[service]
    writes = {word.strip('"') for word in re.search(r'"writes" \(list (.*?)\)', line)[1].split()}
    facts = {name.split(".")[1] for name in Topics().facts}
    assert writes == (facts if service == "relay" else {"dead-letter"})


@pytest.mark.parametrize("service", [name for name in READS if name != "relay"])
def test_the_subscriptions_in_the_code_are_those_of_the_users(service):
    module = service.replace("-", "_")
    folder = ROOT / "services" / service / "src" / "nightshift" / module
    source = (folder / "app.py").read_text() + (folder / "handlers.py").read_text()
    named = set(re.findall(r"topics\.(requests|build|sandbox|snapshot|budget)\b", source))
    assert named == READS[service]


def test_every_value_is_in_the_schema():
    schema = json.loads((CHART / "values.schema.json").read_text())

    def check(value, rules, path: str) -> None:
        if isinstance(value, dict) and "properties" in rules:
            assert set(value) <= set(rules["properties"]), path
            assert rules["additionalProperties"] is False, path
            for key, below in value.items():
                check(below, rules["properties"][key], f"{path}.{key}")

    check(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "values")


def test_no_secret_is_a_value_of_the_chart():
    def names(value, path=()):
        if isinstance(value, dict):
            for key, below in value.items():
                yield from names(below, (*path, key))
        else:
            yield ".".join(path)

    secret = re.compile(r"password|token|apikey|secretkey|accesskey|private", re.IGNORECASE)
    assert [
        name for name in names(yaml.safe_load((CHART / "values.yaml").read_text())) if secret.search(name)
    ] == []
