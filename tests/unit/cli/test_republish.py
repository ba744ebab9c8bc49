"""A republished record is the one that the relay sent, marked as replayed."""

from tests.support.long_build import long_build

from nightshift.cli import main
from nightshift.cli.commands.republish import record
from nightshift.cli.exits import Exit
from nightshift.contracts.cloudevents import decode_fact
from nightshift.contracts.topics import REPLAYED, SEQUENCE, Topics

EVENTS = long_build(1)


def test_a_record_is_a_fact_with_its_first_id_and_sequence():
    for event in EVENTS:
        sent = record(event, Topics())
        assert sent.topic == Topics().of(type(event.data))
        received = decode_fact(sent.key, sent.headers, sent.value)
        assert received.event == event.data
        assert received.envelope.replayed
        assert (received.envelope.id, received.envelope.sequence) == (str(event.event_id), event.version)
        assert dict(sent.headers)[REPLAYED] == b"true"
        assert dict(sent.headers)[SEQUENCE] == f"{event.version:019}".encode()


def test_republish_needs_builds_or_all():
    assert main.run(["republish"]) == Exit.USAGE
    assert main.run(["republish", "b1", "--all"]) == Exit.USAGE
    assert main.run(["republish", "b1", "--rate", "0"]) == Exit.USAGE
