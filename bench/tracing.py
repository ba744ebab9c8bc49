"""What tracing costs: the CPU of a step, of all services together, without tracing, at 10 % and at 100 %.

    python bench/tracing.py                   three rounds of each, 1,000 steps a round
    python bench/tracing.py --rounds 1 --steps 300

The spans go to a collector that throws them away, in a process of its own that is not counted.
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import statistics
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent))

from steps import stack

from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.contracts.events.account import AccountOpened

_OTEL = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG")
_SERVICES = {"orchestrator", "sandbox_gateway", "snapshotter", "budget", "relay"}


class _Sink(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _collect(pipe) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    pipe.send(server.server_address[1])
    server.serve_forever()


def _cpu(up: int) -> float:
    """The CPU seconds of all services below the process of `nightshift up`."""
    total = 0.0
    for process in psutil.Process(up).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() in _SERVICES:
                used = process.cpu_times()
                total += used.user + used.system
    return total


async def _round(parallel: int, turns: int) -> float:
    """Milliseconds of CPU a step."""
    async with stack(None, parallel + 8) as running, KafkaProducer(running.settings) as producer:
        rich = AccountOpened(account_id="bench", period_budget_microusd=10**13, period_days=30)
        await running.send(producer, rich)
        await running.run(producer, parallel, 5)
        await asyncio.sleep(8)  # the first export of a process loads its HTTP client
        before = _cpu(running.pid)
        await running.run(producer, parallel, turns)
        return (_cpu(running.pid) - before) / (parallel * turns) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000, help="steps of a round")
    parser.add_argument("--parallel", type=int, default=20)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    collector = context.Process(target=_collect, args=(theirs,), daemon=True)
    collector.start()
    endpoint = f"http://127.0.0.1:{ours.recv()}"
    shares: dict[str, dict[str, str]] = {
        "off": {},
        "10 %": dict(zip(_OTEL, (endpoint, "parentbased_traceidratio", "0.1"), strict=True)),
        "100 %": dict(zip(_OTEL, (endpoint, "parentbased_always_on", ""), strict=True)),
    }
    found: dict[str, list[float]] = {name: [] for name in shares}
    for _ in range(given.rounds):
        for name, env in shares.items():
            for variable in _OTEL:
                os.environ.pop(variable, None)
            os.environ.update(env)
            found[name].append(asyncio.run(_round(given.parallel, given.steps // given.parallel)))
            print(name, f"{found[name][-1]:.2f} ms", file=sys.stderr, flush=True)
    base = statistics.median(found["off"])
    print("| tracing | CPU of a step, ms (median) | least | against off |\n|---|---|---|---|")
    for name, values in found.items():
        median = statistics.median(values)
        print(f"| {name} | {median:.2f} | {min(values):.2f} | {(median / base - 1) * 100:+.1f} % |")
    collector.terminate()


if __name__ == "__main__":
    main()
