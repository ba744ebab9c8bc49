"""Ask Nightshift for a build without any code of ours: JSON and headers, as a service in another language would.

    pip install aiokafka
    python examples/produce_plain.py --bootstrap 127.0.0.1:9092 --idea "A habit tracker"

Every client of every language can do this: a key, six headers and a JSON object. What the object may hold is in
libs/contracts/src/nightshift/contracts/schemas/producer/nightshift.requests.build_requested.v1.json.
"""

import argparse
import asyncio
import json
from datetime import UTC, datetime
from uuid import uuid4

from aiokafka import AIOKafkaProducer


async def send(data: dict[str, object], *, bootstrap: str, topic: str) -> None:
    """Send the request as a CloudEvent in Kafka's binary mode: attributes as headers, data as the value."""
    build_id = str(data["build_id"])
    headers = {
        "content-type": "application/json",
        "ce_specversion": "1.0",
        "ce_id": build_id,  # the same ce_source and ce_id again is the same request again
        "ce_type": "nightshift.requests.build_requested.v1",
        "ce_source": "/examples/plain",
        "ce_subject": build_id,
        "ce_time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),  # optional
    }
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await producer.start()
    try:
        await producer.send_and_wait(
            topic,
            json.dumps(data).encode(),
            key=build_id.encode(),  # the subject, or the order within a build is lost
            headers=[(name, value.encode()) for name, value in headers.items()],
        )
    finally:
        await producer.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bootstrap", default="127.0.0.1:9092", help="Kafka's address")
    parser.add_argument("--topic", default="nightshift.requests.v1", help="the installation's requests")
    parser.add_argument("--idea", default="A habit tracker that works on my phone")
    parser.add_argument("--account", default="demo", help="who pays")
    parser.add_argument("--project", default="habit-tracker")
    parser.add_argument("--build-id", default=None, help="yours to choose; default: a new one")
    options = parser.parse_args()

    data: dict[str, object] = {
        "build_id": options.build_id or f"build-{uuid4().hex[:12]}",
        "project_id": options.project,
        "account_id": options.account,
        "idea_brief": options.idea,
        "understanding_qna": [{"question": "Who will use it?", "answer": "Only me."}],
    }
    asyncio.run(send(data, bootstrap=options.bootstrap, topic=options.topic))
    print(data["build_id"])


if __name__ == "__main__":
    main()
