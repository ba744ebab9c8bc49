"""What a message costs the embedded broker as it fills, with its memory bounded and (beside it) unbounded.

Four groups read all that is sent. A build step makes about six messages.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

TOPICS = tuple(f"nightshift.{family}.v1" for family in ("build", "sandbox", "budget"))
GROUPS, BATCH, MESSAGES_PER_STEP = 4, 20, 6
UNBOUNDED_MB = 1_000_000


@contextlib.contextmanager
def running(limit_mb: float) -> Iterator[Path]:
    """A stack of a broker alone; yields its home."""
    home = Path(tempfile.mkdtemp(prefix="nightshift-bench-"))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTSHIFT_")}
    command = [sys.executable, "-m", "nightshift.cli", "up", "--json", "--only", "kafka", "--home", str(home)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**environ, "NIGHTSHIFT_BROKER_MEMORY_MB": str(limit_mb)},
    )
    try:
        process.stdout.readline()
        yield home
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
        shutil.rmtree(home, ignore_errors=True)


class Broker:
    """The broker that runs now. `cpu_s` and `starts` count over all that ran."""

    def __init__(self, home: Path) -> None:
        self._file = home / "stack.json"
        self.starts = 0
        self._ended_s = 0.0
        self._pid = 0
        self._now_s = 0.0

    def told(self) -> dict:
        """What the stack says of it."""
        return json.loads(self._file.read_text())["kafka"]

    def look(self) -> tuple[float, float]:
        """Seconds of CPU over all brokers so far; megabytes of the present one."""
        pid = self.told()["pid"]
        if pid != self._pid:
            self._ended_s, self._now_s, self._pid, self.starts = (
                self._ended_s + self._now_s,
                0.0,
                pid,
                self.starts + 1,
            )
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            self._now_s = sum(process.cpu_times()[:2])
            return self._ended_s + self._now_s, process.memory_info().rss / 2**20
        return self._ended_s + self._now_s, 0.0


async def read_all(bootstrap: str, group: str) -> None:
    """Read as one service does, for ever."""
    consumer = AIOKafkaConsumer(
        *TOPICS,
        bootstrap_servers=bootstrap,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        while True:
            if await consumer.getmany(timeout_ms=500):
                with contextlib.suppress(KafkaError):
                    await consumer.commit()
    finally:
        await consumer.stop()


async def send(producer: AIOKafkaProducer, number: int) -> None:
    """A batch of messages like the relay's; again when the broker is being restarted."""
    while True:
        try:
            futures = [
                await producer.send(
                    TOPICS[(number + each) % 3], os.urandom(400).hex().encode(), key=b"build-%d" % (each % 20)
                )
                for each in range(BATCH)
            ]
            await asyncio.gather(*futures)
        except KafkaError:
            await asyncio.sleep(0.1)
        else:
            return


async def measure(name: str, home: Path, steps: int, rows: int, rate: float) -> None:
    """Print for each row: steps so far, broker CPU per step since the row before, memory, brokers started."""
    broker = Broker(home)
    bootstrap = broker.told()["bootstrap"]
    readers = [asyncio.ensure_future(read_all(bootstrap, f"bench-{each}")) for each in range(GROUPS)]
    loop = asyncio.get_running_loop()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        await send(producer, 0)
        before, size = broker.look()
        print(f"| {name} | 0 | – | {size:.0f} | {broker.starts} |", flush=True)
        due = loop.time()
        for row in range(1, rows + 1):
            for number in range(steps * MESSAGES_PER_STEP // rows // BATCH):
                await send(producer, number)
                broker.look()
                due = max(due + BATCH / MESSAGES_PER_STEP / rate, loop.time() - 1)
                await asyncio.sleep(due - loop.time())
            now, size = broker.look()
            cost = (now - before) * 1000 / (steps / rows)
            print(
                f"| {name} | {steps * row // rows} | {cost:.2f} | {size:.0f} | {broker.starts} |", flush=True
            )
            before = now
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6_000)
    parser.add_argument("--rows", type=int, default=6)
    parser.add_argument("--rate", type=float, default=100, help="steps per second, at most")
    parser.add_argument("--limit-mb", type=float, default=64)
    parser.add_argument("--bounded-only", action="store_true")
    args = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # of a broker that is restarted it tells much
    print(
        "| broker | steps so far | broker CPU per step, ms | RSS, MiB | brokers started |\n|---|---|---|---|---|"
    )
    for name, limit in (("bounded", args.limit_mb), ("unbounded", UNBOUNDED_MB)):
        if name == "unbounded" and args.bounded_only:
            continue
        with running(limit) as home:
            asyncio.run(measure(name, home, args.steps, args.rows, args.rate))


if __name__ == "__main__":
    main()
