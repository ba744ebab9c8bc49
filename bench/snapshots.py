"""Measures snapshots of a workspace in a local sandbox, beside `tar | zstd` of the same files.

    python bench/snapshots.py [--files 10000] [--bytes 18000]

Prints the seconds and the bytes sent of the first snapshot, of one with 1 % of the files changed, of an unchanged
one and of a restore, and the longest time that the event loop stood still. The object store is in memory.
"""

import argparse
import asyncio
import subprocess
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.sandboxes.local.driver import LocalDriver
from nightshift.sandboxes.local.settings import LocalSettings
from nightshift.sandboxes.port import CallSpec, Sandbox
from nightshift.sandboxes.snapshots.capture import capture
from nightshift.sandboxes.snapshots.manifest import ProjectKey
from nightshift.sandboxes.snapshots.restore import restore
from nightshift.sandboxes.snapshots.store import SnapshotStore

_MAKE = """
import os, random
draw = random.Random(1)
for n in range({files}):
    folder = f'd{{n // 100}}'
    os.makedirs(folder, exist_ok=True)
    half = draw.randbytes({size} // 2).hex().encode()
    open(f'{{folder}}/f{{n}}', 'wb').write(half)
"""
_TICK_S = 0.001


class StallMeter:
    """The longest time between two turns of the event loop."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.perf_counter()
            self.longest = max(self.longest, now - last - _TICK_S)
            last = now


async def measured(what: str, done: Awaitable[Any]) -> Any:
    """Await, and print the seconds and the longest stall of the event loop meanwhile."""
    meter = StallMeter()
    metering = asyncio.create_task(meter.run())
    begun = time.perf_counter()
    result = await done
    seconds = time.perf_counter() - begun
    metering.cancel()
    sent = getattr(result, "uploaded_bytes", 0)
    print(
        f"{what:24} {seconds:8.2f} s {sent:14,} bytes sent {meter.longest * 1000:8.0f} ms stall", flush=True
    )
    return result


async def run(sandbox: Sandbox, call: str, script: str) -> None:
    """Run a shell script to its end."""
    await sandbox.start_call(CallSpec(call, ["bash", "-c", script]))
    status = await sandbox.wait_call(call, wait_s=120)
    if status.exit_code != 0:
        raise SystemExit(f"{call} failed")


def tar(folder: Path) -> None:
    """Print the seconds and the bytes of `tar | zstd` of the same files."""
    begun = time.perf_counter()
    command = 'tar -C "$1" -cf - . 2>/dev/null | zstd -3 -q -c | wc -c'
    packed = subprocess.run(["bash", "-c", command, "tar", folder], capture_output=True, check=True)
    print(f"{'tar | zstd':24} {time.perf_counter() - begun:8.2f} s {int(packed.stdout):14,} bytes")


async def main(files: int, size: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        driver = LocalDriver(LocalSettings(Path(folder)))
        objects, key = MemoryObjectStore(), ProjectKey.derive(b"bench", "p")
        store = SnapshotStore(objects, key)
        one = await driver.create("b1", generation=1)
        two = await driver.create("b1", generation=2)
        try:
            await run(one, "b1/1/0", f'python3 -c "{_MAKE.format(files=files, size=size)}"; sleep 0.2')

            def snapshot(version: int, reason: str = "checkpoint") -> Awaitable[object]:
                exact = reason == "pre_sleep"
                return capture(one, store, "b1", at_version=version, reason=reason, exact=exact)

            await measured("first", snapshot(1))
            await measured("unchanged", snapshot(2))
            await run(
                one,
                "b1/2/0",
                f"for n in $(seq 0 100 {files - 1}); do echo $n >> d$((n/100))/f$n; done; sleep 0.2",
            )
            await measured("1 % changed", snapshot(3))
            await measured("unchanged", snapshot(4))
            last = await capture(one, store, "b1", at_version=5, reason="pre_sleep", exact=True)
            await measured("before a sleep", snapshot(6, "pre_sleep"))
            restored = await measured("restore", restore(two, SnapshotStore(objects, key), last.key))
            if restored.lost:
                raise SystemExit(f"the restore lost {restored.lost[:3]}")
            await asyncio.to_thread(tar, Path(folder) / one.id)
        finally:
            await one.kill()
            await two.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--bytes", type=int, default=18_000)
    options = parser.parse_args()
    asyncio.run(main(options.files, options.bytes))
