import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from nightshift.contracts import generate
from nightshift.contracts.asyncapi import document
from nightshift.contracts.model import Owner
from nightshift.contracts.readers import EVERY_REPLICA, subscribed
from nightshift.contracts.registry import CATALOGUE, wire_name
from nightshift.contracts.schemas import consumer_schema, producer_schema
from nightshift.contracts.topics import Topics

ROOT = Path(__file__).parents[3]
GENERATE = [sys.executable, "-m", "nightshift.contracts.generate"]


def test_generated_files_are_up_to_date(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert generate.stale() == [], "run `python -m nightshift.contracts.generate` and commit"


def test_check_names_stale_files_and_writes_nothing(tmp_path):
    done = subprocess.run([*GENERATE, "--check"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "docs/reference/events.md" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_schema_file_belongs_to_an_event():
    known = {wire_name(*key) for key in generate.CATALOGUE.models}
    for path in generate.SCHEMAS.glob("*/*.json"):
        assert path.stem in known, f"{path} is of no known event"


@pytest.mark.parametrize("model", CATALOGUE.newest.values(), ids=lambda model: model.type)
def test_schemas_are_open_for_readers_and_closed_for_senders(model):
    name = wire_name(model.type, model.version)
    opened = consumer_schema(model)
    jsonschema.Draft202012Validator.check_schema(opened)
    assert opened["$id"] == f"https://nightshift.dev/schemas/{name}.json"
    assert "additionalProperties" not in opened
    for part, schema in opened.get("$defs", {}).items():
        assert schema.get("additionalProperties", True) is (part != "BlobRef")
    if model.owner is Owner.OUTSIDE:
        closed = producer_schema(model)
        jsonschema.Draft202012Validator.check_schema(closed)
        assert closed["$id"] != opened["$id"]
        assert closed["additionalProperties"] is False
        assert all(not part.get("additionalProperties", True) for part in closed.get("$defs", {}).values())


def test_asyncapi_lists_every_topic_message_and_group():
    doc = document()
    assert doc["asyncapi"] == "3.0.0"
    assert {channel["address"] for channel in doc["channels"].values()} == set(Topics().all)
    messages = doc["components"]["messages"]
    assert set(messages) == {wire_name(model.type, model.version) for model in CATALOGUE.newest.values()}
    assert set(messages) == {name for channel in doc["channels"].values() for name in channel["messages"]}
    for message in messages.values():
        assert message["summary"]
        assert (generate.SCHEMAS / message["payload"]["$ref"]).is_file()
        assert message["bindings"]["kafka"]["bindingVersion"] == "0.5.0"
    for reader, family, _ in subscribed():
        group = doc["operations"][f"{reader}.receive.{family}"]["bindings"]["kafka"]["groupId"]
        shared = Topics().group(reader, f"nightshift.{family}.v1")
        if (reader, family) in EVERY_REPLICA:
            own = Topics().replica_group(reader, f"nightshift.{family}.v1", "host-1")
            assert re.search(group["pattern"], own)
            assert not re.search(group["pattern"], shared)
        else:
            assert group["enum"] == [shared]
    assert doc["components"]["schemas"]["FactHeaders"]["required"][-4:] == [
        "ce_time", "ce_sequence", "ce_correlationid", "ce_causationid",
    ]  # fmt: skip


def test_every_asyncapi_reference_resolves():
    doc = document()

    def references(node):
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"]
            for part in node.values():
                yield from references(part)
        elif isinstance(node, list):
            for part in node:
                yield from references(part)

    inside = [ref for ref in references(doc) if ref.startswith("#/")]
    assert inside
    for ref in inside:
        node = doc
        for part in ref[2:].split("/"):
            node = node[part]
    json.dumps(doc)


def test_every_event_has_a_docstring():
    for model in CATALOGUE.newest.values():
        assert model.__doc__, model.type
