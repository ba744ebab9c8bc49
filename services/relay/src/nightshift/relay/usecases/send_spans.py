"""The spans of published events. Each event of an exported trace has one, from its send to its acknowledgement."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from nightshift.bus.port import TopicPartition
from nightshift.contracts.topics import TRACEPARENT
from nightshift.relay.domain.records import Record
from nightshift.servicekit import tracing
from nightshift.servicekit.tracing import OpenSpan


@contextmanager
def send_spans(records: Mapping[TopicPartition, Iterable[Record]]) -> Iterator[None]:
    """Run the block, which sends these records, within a span for each record. Does nothing when tracing is off.

    The header `traceparent` of a record is set to the trace of its span. Its header `ce_traceparent` keeps the trace of
    the event.
    """
    exporter = tracing.exporter()
    if exporter is None:
        yield
        return
    spans: list[OpenSpan] = []
    for partition, group in records.items():
        for record in group:
            if not tracing.sampled(record.row.traceparent):
                continue
            span = exporter.start(
                f"send {partition.topic}",
                kind="producer",
                parent=record.row.traceparent,
                attributes={
                    "messaging.system": "kafka",
                    "messaging.operation.name": "send",
                    "messaging.operation.type": "send",
                    "messaging.destination.name": partition.topic,
                    "messaging.destination.partition.id": str(partition.partition),
                    "messaging.message.id": str(record.row.event_id),
                    "nightshift.event.type": record.row.type,
                },
            )
            spans.append(span)
            hop = (TRACEPARENT, span.traceparent.encode())
            record.headers[:] = [hop if header[0] == TRACEPARENT else header for header in record.headers]
    try:
        yield
    except BaseException as error:
        for span in spans:
            span.fail(type(error).__qualname__)
        raise
    finally:
        for span in spans:
            span.end()
