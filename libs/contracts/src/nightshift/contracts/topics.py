"""Every topic, group and header name. Nobody writes one of these by hand elsewhere."""

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
#: Where the flow began. The bare `traceparent` beside it is this hop's.
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
    """The `ce_type` of an event type without its version: `nightshift.<family>.<name>`.

    `build.accepted` of the orchestrator is `nightshift.build.accepted`, its `tool_call.requested`
    `nightshift.build.tool_call_requested`.
    """
    family = FAMILIES[owner]
    first, _, rest = type.partition(".")
    return f"nightshift.{family}.{rest if first == family else type.replace('.', '_')}"


def schema_uri(wire: str) -> str:
    """The `ce_dataschema` of a wire name: where its schema is named, not where it is fetched."""
    return f"https://nightshift.dev/schemas/{wire}.json"


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics under a prefix: an installation has its own, and so has every test."""

    prefix: str = "nightshift"

    def _topic(self, family: str) -> str:
        return f"{self.prefix}.{family}.v1"

    @property
    def requests(self) -> str:
        """What producers outside ask."""
        return self._topic("requests")

    @property
    def build(self) -> str:
        """The orchestrator's facts."""
        return self._topic("build")

    @property
    def sandbox(self) -> str:
        """The sandbox-gateway's facts."""
        return self._topic("sandbox")

    @property
    def snapshot(self) -> str:
        """The snapshotter's facts."""
        return self._topic("snapshot")

    @property
    def budget(self) -> str:
        """The budget's facts, on builds and on accounts."""
        return self._topic("budget")

    @property
    def dead_letter(self) -> str:
        """What could not be handled, with its reason."""
        return self._topic("dead-letter")

    @property
    def facts(self) -> tuple[str, ...]:
        """The topics that the relay writes."""
        return (self.build, self.sandbox, self.snapshot, self.budget)

    @property
    def all(self) -> tuple[str, ...]:
        """Every topic of the installation."""
        return (self.requests, *self.facts, self.dead_letter)

    def of(self, event: type[Event]) -> str:
        """The topic an event type travels on: its owner's."""
        return self._topic(FAMILIES[event.owner])

    def group(self, service: str, topic: str) -> str:
        """The consumer group of a service on one topic: `<prefix>.<service>.<family>`.

        One group per topic, so that members with different subscriptions never meet in one rebalance.
        """
        family = topic.removeprefix(f"{self.prefix}.").removesuffix(".v1")
        return f"{self.prefix}.{service}.{family}"

    def replica_group(self, service: str, topic: str, replica_id: str) -> str:
        """The group of one replica that reads everything on a topic, beside its like."""
        return f"{self.group(service, topic)}.{replica_id}"
