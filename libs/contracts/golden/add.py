"""Adds the golden file of an event type that has none, from its data as JSON on standard input.

    python libs/contracts/golden/add.py checkpoint.saved < data.json

A golden file is what this version of the type looks like in the log and on the wire, for ever. It is never changed.
"""

import argparse
import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from nightshift.contracts import cloudevents, ids
from nightshift.contracts.envelope import Envelope, fact_source
from nightshift.contracts.model import Owner
from nightshift.contracts.registry import encode, model, validate, wire_name

HERE = Path(__file__).parent
DIGESTS = HERE / "DIGESTS"
AT = datetime(2026, 11, 22, 3, 14, 15, 926535, tzinfo=UTC)
SUBJECTS = {"build": "night-7", "account": "acme"}


def golden(type_: str, data: object) -> str:
    """The text of the file: key, headers and value of the Kafka message."""
    event_model = model(type_)
    event = validate(type_, event_model.version, data)
    subject = SUBJECTS[event_model.stream]
    if event_model.owner is Owner.OUTSIDE:
        message = cloudevents.encode_request(event, id="night-7-1", source="/acme/web", time=AT)
    else:
        cause = ids.request_cause("build.requested", subject)
        envelope = Envelope(
            id=str(ids.event_id(cause, type_)),
            type=wire_name(type_, event_model.version),
            source=fact_source(f"{event_model.owner}/7f3a"),
            subject=subject,
            time=AT,
            sequence=7,
            correlation_id=subject,
            causation_id=cause,
        )
        message = cloudevents.encode_fact(envelope, encode(event))
    key = json.dumps(message.key.decode())
    headers = json.dumps({name: value.decode() for name, value in message.headers}, indent=2)
    return f'{{\n"key": {key},\n"headers": {headers},\n"data": {message.value.decode()}\n}}\n'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("type", help="such as checkpoint.saved")
    type_ = parser.parse_args().type
    path = HERE / f"{wire_name(type_, model(type_).version)}.json"
    if path.exists():
        sys.exit(f"error: {path.name} is there already and is never changed")
    text = golden(type_, json.load(sys.stdin))
    path.write_text(text, encoding="utf-8")
    with DIGESTS.open("a", encoding="utf-8") as digests:
        digests.write(f"{hashlib.sha256(text.encode()).hexdigest()}  {path.name}\n")


if __name__ == "__main__":
    main()
