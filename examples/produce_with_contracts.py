"""Ask Nightshift for a build from your own Python service: aiokafka and the contracts, nothing else of ours.

    pip install aiokafka nightshift-contracts
    python examples/produce_with_contracts.py --bootstrap 127.0.0.1:9092 --idea "A habit tracker"

Prints the build id. Run it again with the same --build-id and nothing changes: that is how to retry safely.
"""

import argparse
import asyncio
from uuid import uuid4

from aiokafka import AIOKafkaProducer

from nightshift.contracts.cloudevents import encode_request
from nightshift.contracts.events.requests import BuildRequested, QuestionAnswer
from nightshift.contracts.topics import Topics


async def send(request: BuildRequested, *, bootstrap: str, topic: str) -> None:
    """Returns when the broker has the request on disk, on all replicas that it wants."""
    # The same source and id again is the same request again, so the build id is the natural one.
    message = encode_request(request, id=request.build_id, source="/examples/with-contracts")
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await producer.start()
    try:
        await producer.send_and_wait(topic, message.value, key=message.key, headers=list(message.headers))
    finally:
        await producer.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bootstrap", default="127.0.0.1:9092", help="Kafka's address")
    parser.add_argument("--topic-prefix", default="nightshift", help="the installation's prefix")
    parser.add_argument("--idea", default="A habit tracker that works on my phone")
    parser.add_argument("--account", default="demo", help="who pays")
    parser.add_argument("--project", default="habit-tracker")
    parser.add_argument("--build-id", default=None, help="yours to choose; default: a new one")
    options = parser.parse_args()

    request = BuildRequested(
        build_id=options.build_id or f"build-{uuid4().hex[:12]}",
        project_id=options.project,
        account_id=options.account,
        idea_brief=options.idea,
        understanding_qna=(QuestionAnswer(question="Who will use it?", answer="Only me."),),
    )
    topic = Topics(options.topic_prefix).requests
    asyncio.run(send(request, bootstrap=options.bootstrap, topic=topic))
    print(request.build_id)


if __name__ == "__main__":
    main()
