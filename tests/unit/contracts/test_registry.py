from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.unit.contracts.strategies import events, json_objects

from nightshift.contracts import ids, registry
from nightshift.contracts.errors import InvalidData, UnknownType, UnknownVersion
from nightshift.contracts.events import AnyEvent
from nightshift.contracts.events.build import AgentSteered, BuildAccepted, ToolCallRequested
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.marks import blob_fields, sealed_fields
from nightshift.contracts.model import BlobRef, Event, Owner, Pending, PendingKind
from nightshift.contracts.readers import subscribed
from nightshift.contracts.registry import CATALOGUE, Registry
from nightshift.contracts.topics import Topics

REF = {"ref": "sha256:" + "a" * 64, "bytes": 40_000}
CALL = {"call_id": "b/1/0", "turn": 1, "index": 0, "tool": "bash", "tool_use_id": "toolu_1"}


@given(events)
def test_every_event_decodes_to_what_was_encoded(event):
    text = registry.encode(event)
    assert registry.decode(event.type, event.version, text) == event
    assert registry.decode(event.type, event.version, text.encode()) == event
    assert registry.encode(registry.decode(event.type, event.version, text)) == text


@given(events)
def test_an_event_is_encoded_like_its_data(event):
    """Most events are flat and take a quicker way."""
    data = event.__pydantic_serializer__.to_python(event, exclude_none=True)
    assert registry.encode(event) == registry.canonical.dumps(data)


@given(events, json_objects)
def test_facts_ignore_unknown_fields_and_requests_refuse_them(event, more):
    data = registry.canonical.loads(registry.encode(event))
    wider = {**data, "zzz_new": more}
    for name in ("checks", "attachments", "understanding_qna", "tools"):
        wider.update({name: [{**part, "zzz_new": 1} for part in data[name]]} if name in data else {})
    text = registry.canonical.dumps(wider)
    if event.owner is Owner.OUTSIDE:
        with pytest.raises(InvalidData) as caught:
            registry.decode(event.type, event.version, text)
        assert "zzz_new" in caught.value.field
    else:
        assert registry.decode(event.type, event.version, text) == event


@pytest.mark.parametrize("model", CATALOGUE.newest.values(), ids=lambda model: model.type)
def test_every_nullable_field_defaults_to_null(model):
    for name, field in model.model_fields.items():
        if type(None) in get_args(field.annotation):
            assert field.default is None, name


@pytest.mark.parametrize("model", CATALOGUE.newest.values(), ids=lambda model: model.type)
def test_a_wire_name_parses_back_to_its_type(model):
    name = registry.wire_name(model.type, model.version)
    assert registry.parse_wire_name(name) == (model.type, model.version)
    assert Topics().of(model) == f"nightshift.{name.split('.')[1]}.v1"


@pytest.mark.parametrize(
    ("type_", "name"),
    [
        ("build.requested", "nightshift.requests.build_requested.v1"),
        ("build.accepted", "nightshift.build.accepted.v1"),
        ("tool_call.requested", "nightshift.build.tool_call_requested.v1"),
        ("tool_call.completed", "nightshift.sandbox.tool_call_completed.v1"),
        ("snapshot.saved", "nightshift.snapshot.saved.v1"),
        ("wake.requested", "nightshift.budget.wake_requested.v1"),
    ],
)
def test_wire_names_are_fixed(type_, name):
    assert registry.wire_name(type_, 1) == name


def test_absent_fields_are_left_out_and_inner_nulls_are_kept():
    asleep = CATALOGUE.model("sleep.requested")(reason="person", account_id="a")
    assert registry.encode(asleep) == '{"account_id":"a","reason":"person"}'
    call = ToolCallRequested(**CALL, input={"a": None})
    assert '"input":{"a":null}' in registry.encode(call)


def test_wire_names_are_unique():
    names = {registry.wire_name(*key) for key in registry.CATALOGUE.models}
    assert len(names) == len(registry.CATALOGUE.models) == len(get_args(AnyEvent))


def test_unknown_types_and_unknown_versions_differ():
    for call in (
        lambda: registry.decode("build.exploded", 1, "{}"),
        lambda: registry.model("build.exploded"),
        lambda: registry.parse_wire_name("nightshift.build.exploded.v1"),
        lambda: registry.parse_wire_name("nightshift.requests.accepted.v1"),
        lambda: registry.parse_wire_name("com.example.thing"),
        lambda: registry.parse_wire_name("nightshift.build.accepted.v0"),
    ):
        with pytest.raises(UnknownType):
            call()
    for call in (
        lambda: registry.decode("build.accepted", 2, "{}"),
        lambda: registry.wire_name("build.accepted", 0),
        lambda: registry.parse_wire_name("nightshift.build.accepted.v2"),
    ):
        with pytest.raises(UnknownVersion, match="newest known is 1"):
            call()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"build_id":"b"}', "project_id"),
        ('{"build_id":"b","project_id":"p","account_id":"a","idea_brief":"x","tier":"gold"}', "tier"),
        (
            '{"build_id":"b","project_id":"p","account_id":"a","idea_brief":"x","checks":[{"name":"n"}]}',
            "checks.0.command",
        ),
        ('{"build_id":"b/c","project_id":"p","account_id":"a","idea_brief":"x"}', "build_id"),
        ('{"build_id":"b","project_id":"p","account_id":"a","idea_brief":"a\\u0007b"}', "idea_brief"),
        ('{"build_id":"b","project_id":"p","account_id":"a","idea_brief":"a\\ud800b"}', "idea_brief"),
        (
            '{"build_id":"b","project_id":"p","account_id":"a","idea_brief":"x","deadline":"2026-11-22T10:00:00"}',
            "deadline",
        ),
        ("[]", ""),
        ("{", ""),
    ],
)
def test_an_error_names_the_field_and_never_the_value(text, field):
    with pytest.raises(InvalidData) as caught:
        registry.decode("build.requested", 1, text)
    assert caught.value.field == field
    assert "gold" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_pydantic_error_never_holds_the_value():
    with pytest.raises(ValidationError) as caught:
        BuildRequested(
            build_id="b", project_id="p", account_id="a", idea_brief="hush\x07", checks=({"name": "hush"},)
        )
    assert caught.value.error_count() == 2
    assert "hush" not in str(caught.value)


def test_json_that_only_python_parses_is_decoded():
    text = registry.canonical.dumps({**CALL, "input": {"\ud800": "\x00\udfff", "deep": _nested(300)}})
    event = registry.decode("tool_call.requested", 1, text)
    assert event.input["\ud800"] == "\x00\udfff"
    assert registry.encode(
        registry.decode("tool_call.requested", 1, registry.encode(event))
    ) == registry.encode(event)


def _nested(levels):
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_a_blob_reference_differs_from_a_model_object():
    def given(value):
        text = registry.canonical.dumps({**CALL, "input": value})
        fast = registry.decode("tool_call.requested", 1, text)
        assert fast == registry.validate("tool_call.requested", 1, registry.canonical.loads(text))
        return fast.input

    assert given(REF) == BlobRef(**REF)
    assert given({**REF, "more": 1}) == {**REF, "more": 1}
    assert given({"ref": "x", "bytes": 1}) == {"ref": "x", "bytes": 1}
    assert given({}) == {}
    steered = registry.decode(
        "agent.steered", 1, registry.canonical.dumps({"reason": "person", "message": REF})
    )
    assert steered.message == BlobRef(**REF)
    text = '{"content":%s}'
    responded = {
        "turn": 1, "attempt": 1, "model": "m", "message_id": "i", "stop_reason": "s", "usage": {}, "price_version": "v",
        "cost_microusd": 0, "latency_ms": 0, "first_token_ms": 0,
    }  # fmt: skip
    for content, kind in ((REF, BlobRef), ([{"type": "text"}, REF], tuple), ([], tuple)):
        event = registry.validate("model_call.responded", 1, {**responded, "content": content})
        assert isinstance(event.content, kind), text


class Renamed(Event):
    type: ClassVar[Literal["thing.renamed"]] = "thing.renamed"
    version: ClassVar[Literal[3]] = 3
    owner: ClassVar[Owner] = Owner.ORCHESTRATOR
    name: str
    size: int


def thing_renamed_v1_to_v2(data: Mapping[str, Any]) -> dict[str, Any]:
    return {"title": data["label"]}


def thing_renamed_v2_to_v3(data: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": data["title"], "size": len(data["title"])}


CHAIN = {("thing.renamed", 1): thing_renamed_v1_to_v2, ("thing.renamed", 2): thing_renamed_v2_to_v3}


def test_old_data_is_upcast_first_and_validated_after():
    own = Registry([Renamed], CHAIN)
    new = Renamed(name="four", size=4)
    assert own.decode("thing.renamed", 1, '{"label":"four"}') == new
    assert own.decode("thing.renamed", 2, '{"title":"four"}') == new
    assert own.decode("thing.renamed", 3, '{"name":"four","size":4}') == new
    assert own.wire_name("thing.renamed", 1) == "nightshift.build.thing_renamed.v1"
    assert own.parse_wire_name("nightshift.build.thing_renamed.v2") == ("thing.renamed", 2)
    assert own.model("thing.renamed") is Renamed
    with pytest.raises(InvalidData, match="not version 1"):
        own.decode("thing.renamed", 1, '{"name":"four"}')
    with pytest.raises(InvalidData) as caught:
        own.decode("thing.renamed", 2, '{"title":[1]}')
    assert caught.value.field == "name"
    with pytest.raises(UnknownVersion):
        own.decode("thing.renamed", 4, "{}")


def test_a_registry_with_a_gap_or_a_duplicate_is_refused():
    with pytest.raises(ValueError, match="no upcast from version 2"):
        Registry([Renamed], {("thing.renamed", 1): thing_renamed_v1_to_v2})
    with pytest.raises(ValueError, match="twice"):
        Registry([Renamed, Renamed], CHAIN)


def test_derived_ids_never_change():
    cause = ids.request_cause("build.requested", "night-7")
    assert cause == UUID("3570b71b-fca7-58de-9fb5-463cfedcbeb1")
    assert ids.event_id(cause, "tool_call.requested", 0) == UUID("c1ded4d0-2a63-53cb-ae7f-58ecf1a45ba7")


@given(st.uuids(), st.sampled_from(sorted(CATALOGUE.newest)), st.integers(0, 10))
def test_ids_depend_on_cause_type_and_index_alone(cause, type_, index):
    one = ids.event_id(cause, type_, index)
    assert one == ids.event_id(UUID(str(cause)), type_, index)
    assert one == uuid5(ids.NAMESPACE, f"{cause}/{type_}/{index}")
    assert one != ids.event_id(cause, type_, index + 1)
    assert one != ids.event_id(one, type_, index)
    assert ids.request_cause(type_, "a") != ids.request_cause(type_, "b")
    assert ids.message_cause("/a", "b/c") != ids.request_cause("/a", "b/c")


@given(events)
def test_every_event_lists_the_pending_rows_it_changes(event):
    changes = event.pending("b")
    assert all(isinstance(change, Pending) and change.key for change in changes)
    assert all(change.due_at is None or change.due_at.tzinfo for change in changes)
    assert len({(change.kind, change.key) for change in changes}) == len(changes)
    if event.terminal:
        assert Pending(PendingKind.BUILD, "b", opens=False) in changes


def test_every_pending_kind_is_opened_and_closed():
    opened, closed = set(), set()
    for model in CATALOGUE.newest.values():
        example = _example(model)
        for more in ({}, {"purpose": "customer"}, {"reason": "provider"}):
            for change in example.model_copy(update=more).pending("b"):
                (opened if change.opens else closed).add(change.kind)
    assert opened == closed == set(PendingKind)


def _example(model):
    event = model.model_construct(**dict.fromkeys(model.model_fields, "x"))
    return event.model_copy(update={"final": True})


def test_topics_and_groups_have_these_names():
    topics = Topics("t1")
    assert topics.all == (
        "t1.requests.v1", "t1.build.v1", "t1.sandbox.v1", "t1.snapshot.v1", "t1.budget.v1", "t1.dead-letter.v1",
    )  # fmt: skip
    assert topics.of(BuildRequested) == topics.requests
    assert topics.of(BuildAccepted) == topics.build
    assert topics.of(CATALOGUE.model("account.opened")) == topics.requests
    assert topics.of(CATALOGUE.model("budget.refreshed")) == topics.budget
    assert topics.group("relay", topics.build) == "t1.relay.build"
    groups = {topics.group(reader, f"t1.{family}.v1") for reader, family, _ in subscribed()}
    assert len(groups) == len(list(subscribed()))


def test_marks_are_read_from_the_types():
    assert sealed_fields(BuildRequested) == {
        "idea_brief", "understanding_qna", "attachments", "source", "criteria", "checks", "tools",
        "egress_hosts", "setup_commands", "environment", "message",
        "approvals",
    }  # fmt: skip
    assert blob_fields(BuildRequested) == frozenset()
    assert sealed_fields(ToolCallRequested) == blob_fields(ToolCallRequested) == {"input"}
    assert sealed_fields(AgentSteered) == blob_fields(AgentSteered) == {"message"}
    completed = CATALOGUE.model("tool_call.completed")
    assert blob_fields(completed) == {"output", "blocks"}
    assert sealed_fields(completed) == {"output", "blocks", "network"}
    assert sealed_fields(CATALOGUE.model("sandbox.restored")) == {"lost", "differs"}
    assert sealed_fields(CATALOGUE.model("snapshot.saved")) == {"skipped", "torn"}
    assert sealed_fields(CATALOGUE.model("budget.granted")) == frozenset()
    for model in CATALOGUE.newest.values():
        assert blob_fields(model) <= sealed_fields(model)


def test_an_accepted_build_ignores_unknown_fields_of_its_parts():
    data = {
        **dict.fromkeys(("build_id", "project_id", "account_id", "idea_brief", "model"), "x"),
        "turn_limit": 1, "tool_call_limit": 1, "checks": [{"name": "n", "command": "c", "zzz_new": 1}],
    }  # fmt: skip
    for text in (registry.canonical.dumps(data), registry.canonical.dumps({**data, "zzz": "\ud800"})):
        assert registry.decode("build.accepted", 1, text).checks[0].command == "c"
