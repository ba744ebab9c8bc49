"""The names of all topics, consumer groups and headers. No other module spells them."""

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
#: `true` on a fact that an operator published again. Whoever has seen its sequence drops it like any other copy.
REPLAYED: Final = "ce_replayed"
#: Who asks, on a request: `operator` or `account/<id>`.
PRINCIPAL: Final = "ce_principal"
#: `<key id>:<base64>` on a signed request, also in structured mode.
SIGNATURE: Final = "nightshift_signature"
#: The trace in which the flow began. `traceparent` belongs to this hop.
FLOW_TRACEPARENT: Final = "ce_traceparent"
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"

#: The middle word of an owner's topic and of its wire names.
FAMILIES: Final[dict[Owner, str]] = {
    Owner.OUTSIDE: "requests",
    Owner.ORCHESTRATOR: "build",
    Owner.SANDBOX_GATEWAY: "sandbox",
    Owner.SNAPSHOTTER: "snapshot",
    Owner.BUDGET: "budget",
}


def wire_base(owner: Owner, type: str) -> str:
    """Returns the `ce_type` of an event type without its version: `nightshift.<family>.<name>`.

    `build.accepted` of the orchestrator is `nightshift.build.accepted`, its `tool_call.requested`
    `nightshift.build.tool_call_requested`.
    """
    family = FAMILIES[owner]
    first, _, rest = type.partition(".")
    return f"nightshift.{family}.{rest if first == family else type.replace('.', '_')}"


def schema_uri(wire: str) -> str:
    """Returns the `ce_dataschema` of a wire name: the identifier of its schema, which need not be reachable."""
    return f"https://nightshift.dev/schemas/{wire}.json"


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics with one prefix. Each installation has its own prefix, and so has each test.

    `requests` takes requests from outside; `build`, `sandbox`, `snapshot` and `budget` hold the facts of one service
    each; `dead_letter` holds the records that a consumer could not handle.
    """

    prefix: str = "nightshift"

    def family(self, family: str) -> str:
        """Returns the topic of a family such as `build`."""
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
        """The topics that the relay publishes to."""
        return (self.build, self.sandbox, self.snapshot, self.budget)

    @property
    def all(self) -> tuple[str, ...]:
        """Every topic of the installation."""
        return (self.requests, *self.facts, self.dead_letter)

    def of(self, event: type[Event]) -> str:
        """Returns the topic of an event type, which is that of its owner."""
        return self.family(FAMILIES[event.owner])

    def group(self, service: str, topic: str) -> str:
        """Returns the consumer group of a service for one topic: `<prefix>.<service>.<family>`.

        Each topic has a group of its own, so that all members of a group have the same subscription.
        """
        family = topic.removeprefix(f"{self.prefix}.").removesuffix(".v1")
        return f"{self.prefix}.{service}.{family}"

    def replica_group(self, service: str, topic: str, replica_id: str) -> str:
        """Returns the consumer group of one replica that reads the whole topic."""
        return f"{self.group(service, topic)}.{replica_id}"
