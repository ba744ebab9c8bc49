"""A handler without us: reads a topic with aiokafka. Arguments: bootstrap, topic, how many messages to wait for.

Prints a line when it listens, and at its end a line `id seconds` for each message.
"""

import asyncio
import sys
import time

from aiokafka import AIOKafkaConsumer

from nightshift.servicekit.service import run_loop


async def main(bootstrap: str, topic: str, count: int) -> None:
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=None,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=3,
    )
    await consumer.start()
    while not consumer.assignment():
        await asyncio.sleep(0.01)
    for partition in consumer.assignment():
        await consumer.position(partition)
    print("ready", flush=True)
    got: list[tuple[str, float]] = []
    while len(got) < count:
        for records in (await consumer.getmany(timeout_ms=1000)).values():
            at = time.time()
            got += [(dict(record.headers)["ce_id"].decode(), at) for record in records]
    await consumer.stop()
    for name, at in got:
        print(name, repr(at))


run_loop(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
