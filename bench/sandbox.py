"""The local sandbox: opening one, a no-op command, and many at once. Needs root for the full isolation."""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from nightshift.sandboxes.local.driver import LocalDriver, close_all
from nightshift.sandboxes.local.settings import LocalSettings
from nightshift.sandboxes.port import CallSpec

_OPENS, _CALLS, _PARALLEL = 10, 200, 100
_TICK_MS = 10  # of the times in /proc


def _cpu_ms(driver: LocalDriver, sandbox_id: str) -> int:
    """The CPU of the agent and of everything that it has reaped."""
    first = driver._directory(sandbox_id).first()
    if first is None:
        raise SystemExit("the sandbox has ended")
    fields = Path(f"/proc/{first.pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) * _TICK_MS


async def _measure(directory: Path) -> list[tuple[str, str, str]]:
    driver = LocalDriver(LocalSettings(directory))
    await driver.probe()
    opens = []
    for number in range(_OPENS):
        started = time.perf_counter()
        sandbox = await driver.create(f"b{number}", generation=0)
        opens.append((time.perf_counter() - started) * 1000)
    times, before = [], _cpu_ms(driver, sandbox.id)
    for number in range(_CALLS):
        started = time.perf_counter()
        await sandbox.run_call(CallSpec(f"b/1/{number}", ["bash", "-c", "true"]), wait_s=10)
        times.append((time.perf_counter() - started) * 1000)
    cpu = (_cpu_ms(driver, sandbox.id) - before) / _CALLS
    started = time.perf_counter()
    calls = (CallSpec(f"b/2/{number}", ["bash", "-c", "true"]) for number in range(_PARALLEL))
    await asyncio.gather(*(sandbox.run_call(call, wait_s=30) for call in calls))
    rate = _PARALLEL / (time.perf_counter() - started)
    return [
        ("open, median", f"{statistics.median(opens):.0f} ms", "60 ms"),
        ("no-op command with its output, median", f"{statistics.median(times):.1f} ms", "15 ms"),
        ("CPU in the sandbox for it, agent included", f"{cpu:.1f} ms", "6 ms"),
        (f"{_PARALLEL} no-op commands at once", f"{rate:.0f}/s", "150/s"),
    ]


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            rows = asyncio.run(_measure(Path(directory)))
        finally:
            close_all(Path(directory))
    print("| what | measured | limit |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
