"""The names of all topics, consumer groups and headers. No other module contains them."""

from dataclasses import dataclass
from typing import Final

from nightshift.contracts.model import Event, Owner

CONTENT_TYPE: Final = "content-type"
SPECVERSION: Final = "ce_specversion"
ID: Final = "ce_id"
TYPE: Final = "ce_type"
SOURCE: Final = "ce_source"
SUBJECT: Final = "ce_subject"
TIME: Final = "ce_time"
DATASCHEMA: Final = "ce_dataschema"
SEQUENCE: Final = "ce_sequence"
CORRELATION_ID: Final = "ce_correlationid"
CAUSATION_ID: Final = "ce_causationid"
PARTITION_KEY: Final = "ce_partitionkey"
DATAREF: Final = "ce_dataref"
#: `true` on a fact that an operator published again. A consumer drops it when it has seen its sequence, like any copy.
REPLAYED: Final = "ce_replayed"
#: Who asks, on a request: `operator` or `account/<id>`.
PRINCIPAL: Final = "ce_principal"
#: `<key id>:<base64>` on a signed request, also in structured mode.
SIGNATURE: Final = "nightshift_signature"
#: The trace in which the whole flow began. `traceparent` belongs to this one message.
FLOW_TRACEPARENT: Final = "ce_traceparent"
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"

#: Owner → the family name in its topic and its wire names.
FAMILIES: Final[dict[Owner, str]] = {
    Owner.OUTSIDE: "requests",
    Owner.ORCHESTRATOR: "build",
    Owner.SANDBOX_GATEWAY: "sandbox",
    Owner.SNAPSHOTTER: "snapshot",
    Owner.BUDGET: "budget",
}


def wire_base(owner: Owner, type: str) -> str:
    """Returns the wire name (`ce_type`) of an event type without its version: `nightshift.<family>.<name>`.

    The orchestrator's family is `build`. So its `build.accepted` becomes `nightshift.build.accepted`, and its
    `tool_call.requested` becomes `nightshift.build.tool_call_requested`.
    """
    family = FAMILIES[owner]
    first, _, rest = type.partition(".")
    return f"nightshift.{family}.{rest if first == family else type.replace('.', '_')}"


def schema_uri(wire: str) -> str:
    """Returns the `ce_dataschema` for a wire name: an identifier of its schema that need not be reachable."""
    return f"https://nightshift.dev/schemas/{wire}.json"


@dataclass(frozen=True, slots=True)
class Topics:
    """The topic names with one prefix. Each installation has its own prefix, and so has each test.

    `requests` receives requests from outside. `build`, `sandbox`, `snapshot` and `budget` each contain the facts of one
    service. `dead_letter` contains records that a consumer could not handle.
    """

    prefix: str = "nightshift"

    def family(self, family: str) -> str:
        """Returns the topic of a family, such as `build`."""
        return f"{self.prefix}.{family}.v1"

    @property
    def requests(self) -> str:
        return self.family("requests")

    @property
    def build(self) -> str:
        return self.family("build")

    @property
    def sandbox(self) -> str:
        return self.family("sandbox")

    @property
    def snapshot(self) -> str:
        return self.family("snapshot")

    @property
    def budget(self) -> str:
        return self.family("budget")

    @property
    def dead_letter(self) -> str:
        return self.family("dead-letter")

    @property
    def facts(self) -> tuple[str, ...]:
        """The topics to which the relay publishes."""
        return (self.build, self.sandbox, self.snapshot, self.budget)

    @property
    def all(self) -> tuple[str, ...]:
        """Every topic of the installation."""
        return (self.requests, *self.facts, self.dead_letter)

    def of(self, event: type[Event]) -> str:
        """Returns the topic of an event type, which is the topic of its owner."""
        return self.family(FAMILIES[event.owner])

    def group(self, service: str, topic: str) -> str:
        """Returns the name of a service's consumer group on one topic: `<prefix>.<service>.<family>`.

        A group reads only one topic, so that all its members have the same subscription.
        """
        family = topic.removeprefix(f"{self.prefix}.").removesuffix(".v1")
        return f"{self.prefix}.{service}.{family}"

    def replica_group(self, service: str, topic: str, replica_id: str) -> str:
        """Returns the name of a consumer group with one replica as its only member, so that this replica reads the
        whole topic.
        """
        return f"{self.group(service, topic)}.{replica_id}"
