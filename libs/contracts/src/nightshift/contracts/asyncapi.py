"""Generates the AsyncAPI 3.0 document: servers, topics, messages with their headers and keys, and the services that
read them.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from nightshift.contracts import topics
from nightshift.contracts.attributes import JSON_TYPE
from nightshift.contracts.model import Event, Owner
from nightshift.contracts.readers import EVERY_REPLICA, subscribed
from nightshift.contracts.registry import CATALOGUE, wire_name
from nightshift.contracts.topics import FAMILIES, Topics, schema_uri

_KAFKA: Final = {"bindingVersion": "0.5.0"}
_TOPICS: Final = Topics()
_KEY: Final = {
    "type": "string",
    "minLength": 1,
    "maxLength": 128,
    "description": "The build id, or the account id; the same as `ce_subject`.",
}
_PRINCIPAL_HEADERS: Final = {
    topics.PRINCIPAL: {
        "type": "string",
        "pattern": "^(operator|account/[A-Za-z0-9][A-Za-z0-9._-]{0,127})$",
        "description": "Who asks. An account may request only what belongs to it.",
    },
    topics.SIGNATURE: {
        "type": "string",
        "pattern": "^[A-Za-z0-9_-]{1,64}:[A-Za-z0-9+/]{43}=$",
        "description": "The id of a key, and the signature of the request with it. Demanded by an installation that has"
        " keys.",
    },
}
_WHAT: Final = {
    "requests": "Requests from outside, in binary mode or structured mode (`application/cloudevents+json`).",
    "build": "The orchestrator's facts: the lifecycle of a build and each step of its loop.",
    "sandbox": "The sandbox-gateway's facts: results of tool calls, the life of sandboxes.",
    "snapshot": "The snapshotter's facts: workspaces saved, or not.",
    "budget": "The budget's facts: grants, denials, settlements, wakes, and the days of accounts.",
    "dead-letter": "Records that a consumer could not handle: original bytes and headers, reason, source topic.",
}


def document() -> dict[str, Any]:
    """Returns the AsyncAPI document as a dict. References to payload schemas are relative to the file's folder."""
    return {
        "asyncapi": "3.0.0",
        "id": "urn:nightshift:events",
        "info": {
            "title": "Nightshift events",
            "version": "1.0.0",
            "description": "Requests go in on one topic, facts come out on one topic per owner. CloudEvents 1.0 on"
            " Kafka; the key is the build id (account id on account events), so the order within a build holds.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": JSON_TYPE,
        "servers": {
            "kafka": {
                "host": "{bootstrap}",
                "protocol": "kafka",
                "description": "Any Kafka-protocol broker.",
                "variables": {"bootstrap": {"default": "127.0.0.1:9092"}},
                "bindings": {"kafka": _KAFKA},
            }
        },
        "channels": {family: _channel(family) for family in _WHAT},
        "operations": dict(_operations()),
        "components": {
            "messages": {
                name: _message(name, model) for family in _WHAT for name, model in _names(family).items()
            },
            "schemas": {
                "RequestHeaders": _headers(facts=False),
                "FactHeaders": _headers(facts=True),
                "Key": _KEY,
            },
        },
    }


def _ref(path: str) -> dict[str, str]:
    return {"$ref": f"#/{path}"}


def _names(family: str) -> dict[str, type[Event]]:
    """Returns the events of one topic by their wire names, such as `nightshift.build.ready.v1`."""
    models = (model for model in CATALOGUE.newest.values() if FAMILIES[model.owner] == family)
    return {wire_name(model.type, model.version): model for model in models}


def _channel(family: str) -> dict[str, Any]:
    address = _TOPICS.family(family)
    return {
        "address": address,
        "title": family,
        "description": _WHAT[family],
        "servers": [_ref("servers/kafka")],
        "messages": {name: _ref(f"components/messages/{name}") for name in _names(family)},
        "bindings": {"kafka": {"topic": address, **_KAFKA}},
    }


def _operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for owner, family in FAMILIES.items():
        if owner is not Owner.OUTSIDE:
            yield (
                f"relay.send.{family}",
                {
                    "action": "send",
                    "channel": _ref(f"channels/{family}"),
                    "summary": f"The relay publishes the log's {family} facts, in version order per build.",
                    "bindings": {"kafka": _KAFKA},
                },
            )
    for reader, family, handled in subscribed():
        names = (name for name, model in _names(family).items() if model in handled)
        yield (
            f"{reader}.receive.{family}",
            {
                "action": "receive",
                "channel": _ref(f"channels/{family}"),
                "summary": f"The {reader} handles these messages of the topic and skips the others.",
                "messages": [_ref(f"channels/{family}/messages/{name}") for name in names],
                "bindings": {"kafka": {"groupId": _group(reader, family), **_KAFKA}},
            },
        )


def _group(reader: Owner, family: str) -> dict[str, Any]:
    name = _TOPICS.group(reader, _TOPICS.family(family))
    if (reader, family) in EVERY_REPLICA:
        return {
            "type": "string",
            "pattern": f"^{re.escape(name)}\\..+$",
            "description": "Each replica reads the whole topic, in a consumer group of its own.",
        }
    return {"type": "string", "enum": [name]}


def _message(name: str, model: type[Event]) -> dict[str, Any]:
    outside = model.owner is Owner.OUTSIDE
    return {
        "name": name,
        "title": model.type,
        "summary": (model.__doc__ or "").strip().partition("\n")[0],
        "contentType": JSON_TYPE,
        "headers": _ref(f"components/schemas/{'RequestHeaders' if outside else 'FactHeaders'}"),
        "payload": {"$ref": f"{'producer' if outside else 'consumer'}/{name}.json"},
        "correlationId": {"location": f"$message.header#/{topics.CORRELATION_ID}"},
        "bindings": {"kafka": {"key": _KEY, **_KAFKA}},
        "x-ce-dataschema": schema_uri(name),
        "x-owner": str(model.owner),
    }


def _headers(*, facts: bool) -> dict[str, Any]:
    required = [
        topics.CONTENT_TYPE,
        topics.SPECVERSION,
        topics.ID,
        topics.TYPE,
        topics.SOURCE,
        topics.SUBJECT,
    ]
    if facts:
        required += [topics.TIME, topics.SEQUENCE, topics.CORRELATION_ID, topics.CAUSATION_ID]
    return {
        "type": "object",
        "description": "Each header is UTF-8 text. Other headers are ignored.",
        "required": required,
        "properties": {
            topics.CONTENT_TYPE: {"const": JSON_TYPE},
            topics.SPECVERSION: {"const": "1.0"},
            topics.ID: {"type": "string", "format": "uuid"} if facts else {"type": "string", "minLength": 1},
            topics.TYPE: {"type": "string", "description": "The message's name."},
            topics.SOURCE: {"type": "string", "format": "uri-reference"},
            topics.SUBJECT: _ref("components/schemas/Key"),
            topics.TIME: {"type": "string", "format": "date-time"},
            topics.DATASCHEMA: {"type": "string", "format": "uri"},
            topics.SEQUENCE: {
                "type": "string",
                "pattern": "^[0-9]{19}$",
                "description": "The event's version in its stream. Drop a message whose sequence is not above the"
                " last one that you saw for its subject and topic.",
            },
            topics.CORRELATION_ID: {"type": "string"},
            topics.CAUSATION_ID: {"type": "string", "format": "uuid"},
            topics.PARTITION_KEY: _ref("components/schemas/Key"),
            topics.FLOW_TRACEPARENT: {"type": "string", "description": "The trace in which the flow began."},
            topics.TRACEPARENT: {"type": "string", "description": "The trace of this hop."},
            topics.TRACESTATE: {"type": "string"},
            **({topics.DATAREF: {"type": "string", "format": "uri-reference"}} if facts else {}),
            **({topics.REPLAYED: {"const": "true"}} if facts else _PRINCIPAL_HEADERS),
        },
    }
