"""Going back in time: the fold, decoding and verifying of a long build, its page, and a fork with a large workspace.

python bench/time.py                 everything
python bench/time.py --without-fork  without a whole stack: seconds instead of a minute
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path

_ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(_ROOT))

from tests.support.long_build import long_build  # noqa: E402

from nightshift.cli.event_lines import read_lines  # noqa: E402
from nightshift.cli.page import MOST_BYTES, page  # noqa: E402
from nightshift.contracts.registry import decode, encode  # noqa: E402
from nightshift.eventlog.port import RecordedEvent  # noqa: E402
from nightshift.orchestrator.domain.evolve import evolve  # noqa: E402
from nightshift.orchestrator.domain.state import INITIAL  # noqa: E402
from nightshift.orchestrator.usecases.replay import verify  # noqa: E402

_MEGABYTES = 200
_SCENARIO = """
name: large-workspace
turns:
- say: I make a large workspace.
  calls:
  - tool: bash
    input:
      command: "mkdir data && for i in $(seq 100); do head -c 2M /dev/urandom > data/$i.bin; done"
      timeout_s: 300
- say: I write a test.
  calls:
  - tool: write_file
    input:
      file_path: test_it.py
      content: "import unittest\\nclass T(unittest.TestCase):\\n    def test_it(self): pass\\n"
- say: Done.
"""


@dataclass(frozen=True)
class Figure:
    what: str
    value: str
    target: str = "–"


def best(rounds: int, work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of some rounds: the others were disturbed."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def folds(turns: int) -> list[Figure]:
    events = long_build(turns)
    rows = [(one.data.type, one.data.version, encode(one.data)) for one in events]
    count = len(events)
    folding = best(15, lambda: reduce(evolve, events, INITIAL))
    decoding = best(3, lambda: [decode(*row) for row in rows])
    verifying = best(2, lambda: verify(events))
    size = len(page("b1", events))
    name = f"{turns} turns, {count:,} events"
    return [
        Figure(f"fold, {name}", f"{count / folding:,.0f} events/s", "≥ 60,000"),
        Figure(
            f"decode from the log's text, then fold, {name}", f"{count / (folding + decoding):,.0f} events/s"
        ),
        Figure(f"verify, {name}", f"{count / verifying:,.0f} events/s"),
        Figure(f"page of {turns} turns", f"{size:,} bytes", f"≤ {MOST_BYTES:,}"),
    ]


class Stack:
    """A whole stack in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._home = folder / "home"
        scenario = folder / "scenario.yaml"
        scenario.write_text(_SCENARIO)
        self.process = subprocess.Popen(
            [*self._words("up"), "--json", "--scenario", str(scenario)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline(), "the stack did not start"

    def _words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "nightshift.cli", *words, "--home", str(self._home)]

    def run(self, *words: str) -> str:
        return subprocess.run(self._words(*words), check=True, stdout=subprocess.PIPE, text=True).stdout

    def log(self, build: str) -> list[RecordedEvent]:
        return read_lines(self.run("log", build, "--json").splitlines(), build)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def fork(rounds: int) -> list[Figure]:
    folder = Path(tempfile.mkdtemp(prefix="nightshift-bench-"))
    folder.chmod(0o755)
    stack = Stack(folder)
    try:
        stack.run("account", "open", "rich", "--budget", "10000")
        stack.run("build", "--idea", "A large workspace", "--build-id", "base", "--account", "rich")
        stack.run("wait", "base", "--for", "end", "--timeout", "300s")
        while not any(getattr(one.data, "reason", "") == "completion" for one in stack.log("base")):
            time.sleep(1)  # the large workspace is on its way to the object store
        first, restored = [], []
        for number in range(rounds):
            name = f"fork-{number}"
            sent = datetime.now(UTC)
            stack.run("fork", "base", "--at", "turn:1", "--build-id", name)
            stack.run("wait", name, "--for", "end", "--timeout", "300s")
            first.append(_after(sent, stack.log(name), "model_call.started"))
            restored.append(_after(sent, stack.log(name), "sandbox.restored"))
    finally:
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return [
        # The command's own start counts: it is what a person waits for. The request leaves right after this append.
        Figure(
            f"`nightshift fork` → first model request, {_MEGABYTES} MB workspace",
            f"{min(first):.2f} s",
            "≤ 2 s",
        ),
        Figure(f"`nightshift fork` → workspace of {_MEGABYTES} MB restored", f"{min(restored):.2f} s"),
    ]


def _after(sent: datetime, events: Sequence[RecordedEvent], kind: str) -> float:
    return next((one.recorded_at - sent).total_seconds() for one in events if one.data.type == kind)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--without-fork", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = [*folds(150), *folds(2_000)[:3]]
    figures += [] if options.without_fork else fork(options.rounds)
    if options.json:
        print(json.dumps([vars(one) for one in figures]))
        return
    print("| what | ours | target |")
    print("|---|---|---|")
    for one in figures:
        print(f"| {one.what} | {one.value} | {one.target} |")


if __name__ == "__main__":
    main()
