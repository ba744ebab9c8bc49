"""What a Think-Act-Observe step costs beyond the model and the tool: from the model's last byte to the next request's
first byte, with one tool call that does nothing, on a whole stack of real processes.

    python bench/steps.py                                            the embedded broker
    python scripts/kafka_server.py run -- python bench/steps.py        and beside it Apache Kafka, one fresh node
    python bench/steps.py --without-embedded --kafka HOST:PORT       only a fresh broker of yours
    python bench/steps.py --peers results/

`--peers` is a folder of JSON files `{"peer", "metrics": {"seq_step_p50_ms": [..], "seq_step_p99_ms": [..],
"conc50_steps_s": [..], "conc200_steps_s": [..]}}`, such as other engines measured on the same machine and the same
work; they are printed beside us.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.port import Outgoing
from nightshift.bus.settings import KafkaSettings
from nightshift.contracts.cloudevents import encode_request
from nightshift.contracts.events.account import AccountOpened
from nightshift.contracts.events.build import BuildFailed
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.model import Request
from nightshift.contracts.topics import Topics
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.port import build_stream
from nightshift.eventlog.postgres import PostgresEventLog, log_database
from nightshift.relay.adapters.kafka_topics import apply

_MARK = re.compile(rb"\[bench ([a-z0-9-]+)\]")
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_REFUSED = b'{"type":"error","error":{"type":"invalid_request_error","message":"enough"}}'
_REFUSAL = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    % len(_REFUSED)
) + _REFUSED
_WORK = "x" * 700  # what a step says: about the kilobyte of the peers' step


@dataclass
class Seen:
    """The model's side of one build, in seconds: when each request's first byte came, when each answer was out."""

    asked: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)

    def gaps(self) -> list[float]:
        """Milliseconds between an answer and the next question."""
        return [(ask - answer) * 1e3 for answer, ask in zip(self.answered, self.asked[1:], strict=False)]


class Model:
    """The Messages API as a stopwatch: each turn asks for one `narrate`; the question after `turns` waits for `over`.

    Then it is refused, which ends the build at once: its place is free for the next, and nothing is asked again.
    """

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}
        self.turns: dict[str, int] = {}
        self.finished = asyncio.Semaphore(0)
        self.over = asyncio.Event()
        self._server: asyncio.Server | None = None

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 24)
        try:
            yield f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        finally:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A cancelled connection is the end of the bench: an answer held back is nobody's failure.
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = await reader.read(1)
                if not head:
                    break
                came = time.perf_counter()
                head += await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1])) if length else b""
                await self._answer(writer, body, came)
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, body: bytes, came: float) -> None:
        marked = _MARK.search(body)
        if marked is None:
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            return
        build = marked[1].decode()
        seen = self.seen.setdefault(build, Seen())
        seen.asked.append(came)
        turn = len(seen.asked)
        if turn > self.turns[build]:
            self.finished.release()
            await self.over.wait()
            writer.write(_REFUSAL)
            return
        answer = await self.reply(build, turn)
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(answer)
            + answer
        )
        await writer.drain()
        seen.answered.append(time.perf_counter())

    async def reply(self, build: str, turn: int) -> bytes:
        """The stream of events that answers this turn."""
        return stream(build, turn, "narrate", {"phase": "scaffold", "message": f"step {turn} {_WORK}"})


def stream(build: str, turn: int, tool: str, given: Mapping[str, object]) -> bytes:
    message = {
        "id": f"msg_{build}_{turn}",
        "type": "message",
        "role": "assistant",
        "model": "scripted-1",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 1000, "output_tokens": 1},
    }
    call = {"type": "tool_use", "id": f"toolu_{build}_{turn}", "name": tool, "input": {}}
    told = json.dumps(given)
    events = [
        ("message_start", {"message": message}),
        ("content_block_start", {"index": 0, "content_block": call}),
        ("content_block_delta", {"index": 0, "delta": {"type": "input_json_delta", "partial_json": told}}),
        ("content_block_stop", {"index": 0}),
        (
            "message_delta",
            {"delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": {"output_tokens": 64}},
        ),
        ("message_stop", {}),
    ]
    return "".join(
        f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n" for kind, data in events
    ).encode()


@dataclass(frozen=True)
class Stack:
    settings: KafkaSettings
    model: Model
    log: PostgresEventLog
    pid: int
    orchestrator: int  # the process id of the replica

    async def send(self, producer: KafkaProducer, *requests: Request) -> None:
        messages = [encode_request(one, id=str(uuid4()), source="/bench") for one in requests]
        await producer.send([Outgoing.of(self.settings.topics.requests, message) for message in messages])

    async def run(
        self, producer: KafkaProducer, count: int, turns: int
    ) -> tuple[list[Seen], float, list[float]]:
        """`count` builds at once of `turns` steps: what the model saw, seconds in all and to the first byte."""
        names = [f"b-{uuid4().hex[:10]}" for _ in range(count)]
        self.model.turns.update(dict.fromkeys(names, turns))
        requests = [
            BuildRequested(
                build_id=name,
                project_id="bench",
                account_id="bench",
                idea_brief=f"[bench {name}] count the steps",
                model="scripted-1",
                proof="none",
            )
            for name in names
        ]
        began = time.perf_counter()
        await self.send(producer, *requests)
        for _ in names:
            await self.model.finished.acquire()
        seen = [self.model.seen[name] for name in names]
        await self._end(names)
        return (
            seen,
            max(one.asked[-1] for one in seen) - began,
            [one.asked[0] - began for one in seen],
        )

    async def _end(self, names: list[str]) -> None:
        """Refuse what is held back, and wait until the log says that the builds have ended."""
        self.model.over.set()
        for name in names:
            while not await self._ended(name):
                await asyncio.sleep(0.05)
        self.model.over.clear()

    async def _ended(self, build: str) -> bool:
        stream = self.log.read_stream(build_stream(build), backwards=True, limit=20)
        return any([isinstance(event.data, BuildFailed) async for event in stream])


@contextlib.asynccontextmanager
async def stack(kafka: str | None, parallel: int, model: Model | None = None) -> AsyncIterator[Stack]:
    model = model or Model()
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-") as folder:
        async with model.serving() as url:
            env = {
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("NIGHTSHIFT_", "E2B_"))
            }
            if kafka:
                # One node: the plan's partitions, without its replicas.
                await apply(KafkaSettings.load(kafka_bootstrap=kafka), replication=1)
            env |= {"ANTHROPIC_API_KEY": "bench", "NIGHTSHIFT_MAX_BUILDS": str(parallel)}
            env |= {"NIGHTSHIFT_MAX_ACCOUNT_BUILDS": str(parallel)}
            command = [
                sys.executable,
                "-m",
                "nightshift.cli",
                "up",
                "--json",
                "--home",
                folder,
                "--model",
                url,
            ]
            command += ["--kafka", kafka] if kafka else []
            process = await asyncio.create_subprocess_exec(
                *command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            try:
                told = json.loads(await process.stdout.readline())
                settings = KafkaSettings.load(
                    kafka_bootstrap=told["kafka"]["bootstrap"],
                    kafka_idempotence=kafka is not None,
                    kafka_adaptive_fetch=kafka is None,
                    topic_prefix=Topics().prefix,
                )
                database = log_database(PgConfig(dsn=told["postgres"]["dsn"]))
                log = PostgresEventLog(database, actor="bench", notify=False)
                yield Stack(settings, model, log, process.pid, told["services"]["orchestrator"][0]["pid"])
                await database.close()
            finally:
                process.send_signal(signal.SIGINT)
                try:
                    await asyncio.wait_for(process.wait(), 60)
                except TimeoutError:
                    process.kill()


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


async def measure(kafka: str | None, given: argparse.Namespace) -> dict[str, float]:
    sizes = [int(one) for one in given.parallel.split(",") if one]
    found: dict[str, float] = {}
    async with stack(kafka, max([*sizes, 8]) + 8) as running, KafkaProducer(running.settings) as producer:
        # Money for every step of every build: a night is not what is measured here.
        rich = AccountOpened(account_id="bench", period_budget_microusd=10**13, period_days=30)
        await running.send(producer, rich)
        await running.run(producer, 1, 5)
        first, gaps = [], []
        for _ in range(given.builds):
            seen, _, starts = await running.run(producer, 1, given.steps)
            first += [start * 1e3 for start in starts]
            gaps += seen[0].gaps()
        found |= {
            "first_byte_p50": statistics.median(first),
            "p50": statistics.median(gaps),
            "p99": percentile(gaps, 0.99),
        }
        for size in sizes:
            turns = max(given.total // size, 5)
            _, seconds, _ = await running.run(producer, size, turns)
            found[f"steps_s_{size}"] = size * turns / seconds
    return found


def peers(folder: Path | None) -> list[tuple[str, dict[str, float]]]:
    told = []
    for file in sorted(folder.glob("*.json")) if folder else ():
        result = json.loads(file.read_text())
        metrics = {name: statistics.median(values) for name, values in result["metrics"].items()}
        if "seq_step_p50_ms" in metrics:
            told.append((result["peer"], metrics))
    return told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--builds", type=int, default=5, help="builds one after the other")
    parser.add_argument("--steps", type=int, default=50, help="steps of each")
    parser.add_argument("--parallel", default="50,200", help="builds at once, a figure for each")
    parser.add_argument("--total", type=int, default=2000, help="steps of all parallel builds together")
    parser.add_argument(
        "--kafka",
        default=os.environ.get("NIGHTSHIFT_KAFKA_BOOTSTRAP"),
        help="a fresh broker beside the embedded one",
    )
    parser.add_argument("--without-embedded", action="store_true", help="only the broker of --kafka")
    parser.add_argument("--peers", type=Path, help="results of other engines, one JSON file each")
    given = parser.parse_args()
    sizes = [int(one) for one in given.parallel.split(",") if one]
    names = [
        "step p50 ms",
        "step p99 ms",
        *(f"{size} builds, steps/s" for size in sizes),
        "request to first byte, p50 ms",
    ]
    print("| | " + " | ".join(names) + " |\n|---" * 1 + "|---" * len(names) + "|")
    for label, kafka in [
        *([("Nightshift, embedded broker", None)] if not given.without_embedded else []),
        *([("Nightshift, Apache Kafka", given.kafka)] if given.kafka else []),
    ]:
        found = asyncio.run(measure(kafka, given))
        cells = [
            found["p50"],
            found["p99"],
            *(found[f"steps_s_{size}"] for size in sizes),
            found["first_byte_p50"],
        ]
        print(f"| {label} | " + " | ".join(f"{cell:,.1f}" for cell in cells) + " |", flush=True)
    if not given.kafka:
        print("| Nightshift, Apache Kafka (see --help) |" + " – |" * len(names))
    print("| aim | 4.6 | – | " + " | ".join("450" for _ in sizes) + " | 150 |")
    for name, metrics in peers(given.peers):
        cells = [metrics.get("seq_step_p50_ms"), metrics.get("seq_step_p99_ms")]
        cells += [metrics.get(f"conc{size}_steps_s") for size in sizes]
        print(
            f"| {name} | " + " | ".join("–" if cell is None else f"{cell:,.1f}" for cell in cells) + " | – |"
        )


if __name__ == "__main__":
    main()
