"""How long `nightshift up` takes from nothing and with data present, and what the stack costs when nothing happens.

The limit beside us in the same run: the same servers started bare, one after the other's answer, without services.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from nightshift.devstack.parts import EmbeddedKafka, EmbeddedPostgres, EmbeddedS3, ScriptedModel

UP = (sys.executable, "-m", "nightshift.cli", "up", "--json", "--home")


def _environment() -> dict[str, str]:
    hidden = ("NIGHTSHIFT_", "ANTHROPIC_", "E2B_")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)}


def up(home: Path, *arguments: str) -> tuple[float, subprocess.Popen[str], dict]:
    """Seconds until the first line; the process; what it told."""
    began = time.monotonic()
    process = subprocess.Popen(
        [*UP, str(home), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=_environment(),
    )
    line = process.stdout.readline()
    took = time.monotonic() - began
    if not line:
        sys.exit(f"nightshift up ended with code {process.wait()}")
    return took, process, json.loads(line)


def down(process: subprocess.Popen[str]) -> float:
    """Stop it; seconds until it was gone."""
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.wait()
    process.stdout.close()
    return time.monotonic() - began


async def bare(folder: Path) -> float:
    """The parts side by side without us around them: the limit."""
    parts = [
        EmbeddedPostgres(folder / "postgres"),
        EmbeddedKafka(folder),
        EmbeddedS3(folder / "s3"),
        ScriptedModel(folder),
    ]
    began = time.monotonic()
    await asyncio.gather(*(part.start() for part in parts))
    took = time.monotonic() - began
    await asyncio.gather(*(part.stop() for part in parts))
    return took


def idle_cpu(root: int, seconds: float) -> dict[str, float]:
    """Percent of one core by process name, of the whole tree, over `seconds`."""
    tree = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    before = {one: sum(one.cpu_times()[:2]) for one in tree}
    time.sleep(seconds)  # the measurement itself
    used: dict[str, float] = {}
    for one, start in before.items():
        if one.is_running():
            name = _name(one)
            used[name] = used.get(name, 0.0) + (sum(one.cpu_times()[:2]) - start) / seconds * 100
    return used


def _name(process: psutil.Process) -> str:
    words = process.cmdline()
    modules = [word for word in words if word.startswith("nightshift.")]
    return modules[0] if modules else Path(process.name()).name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle-seconds", type=float, default=20.0)
    parser.add_argument("--only", default="", help="parts and services, as of `nightshift up`")
    args = parser.parse_args()
    arguments = ("--only", args.only) if args.only else ()
    base = Path(tempfile.mkdtemp(prefix="nightshift-bench-"))
    base.chmod(0o755)
    empty, present, stopped, bare_empty, bare_present = [], [], [], [], []
    try:
        for number in range(args.rounds):
            home = base / f"home-{number}"
            for seconds in (empty, present):
                took, process, told = up(home, *arguments)
                seconds.append(took)
                stopped.append(down(process))
            folder = base / f"bare-{number}"
            folder.mkdir(mode=0o755)
            bare_empty.append(asyncio.run(bare(folder)))
            bare_present.append(asyncio.run(bare(folder)))
        _, process, told = up(base / "home-0", *arguments)
        settle = time.monotonic() + 5
        while time.monotonic() < settle:  # first rebalances and a first checkpoint are not idleness
            time.sleep(0.5)
        used = idle_cpu(process.pid, args.idle_seconds)
        memory = sum(
            one.memory_info().rss
            for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        )
        down(process)
    finally:
        shutil.rmtree(base, ignore_errors=True)

    services = ", ".join(told["services"]) or "none"
    print(f"Services: {services}. Medians of {args.rounds} rounds; idle over {args.idle_seconds:g} s.\n")
    print("| what | ours | the bare parts | ratio | target |")
    print("|---|---|---|---|---|")
    for what, ours, limit, target in (
        ("`nightshift up`, data directory empty, s", empty, bare_empty, "≤ 8"),
        ("`nightshift up`, data present, s", present, bare_present, "≤ 3"),
    ):
        mine, theirs = statistics.median(ours), statistics.median(limit)
        print(f"| {what} | {mine:.2f} | {theirs:.2f} | {mine / theirs:.1f} | {target} |")
    print(f"| stop, s | {statistics.median(stopped):.2f} | – | – | – |")
    print(f"| idle CPU of the whole tree, % of one core | {sum(used.values()):.1f} | – | – | ≤ 15 |")
    for name, percent in sorted(used.items(), key=lambda item: -item[1]):
        print(f"| – {name} | {percent:.1f} | – | – | – |")
    print(f"| memory of the whole tree (RSS summed, MiB) | {memory / 2**20:.0f} | – | – | – |")


if __name__ == "__main__":
    main()
