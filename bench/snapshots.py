"""Measures snapshots of a workspace in a local sandbox beside restic and `tar | zstd | put`, on the same S3 server.

    python bench/snapshots.py [--files 10000] [--bytes 18000] [--restic PATH]
    python bench/snapshots.py --memory 5    the most memory that a snapshot of so many GB takes
    python scripts/s3_server.py run -- .venv/bin/python bench/snapshots.py    on a server that checks signatures

Without NIGHTSHIFT_S3_… the embedded S3 server is used. restic is found on the PATH; without it its column is empty.
"""

import argparse
import asyncio
import gc
import json
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nightshift.devstack.parts.s3 import EmbeddedS3
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.settings import ObjectStoreSettings
from nightshift.sandboxes.local.driver import LocalDriver
from nightshift.sandboxes.local.settings import LocalSettings
from nightshift.sandboxes.port import CallSpec, Sandbox
from nightshift.sandboxes.snapshots.capture import Captured, capture
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
_LARGE = """
import os
block = os.urandom(8 << 20)
for n in range({count}):
    open(f'f{{n}}', 'wb').write(n.to_bytes(8, 'big') + block[n * 1000:] + block[:n * 1000])
"""
_TICK_S = 0.001


class StallMeter:
    """The longest time between two turns of the event loop, in seconds."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.perf_counter()
            self.longest = max(self.longest, now - last - _TICK_S)
            last = now


@asynccontextmanager
async def object_store(folder: Path) -> AsyncIterator[tuple[S3ObjectStore, ObjectStoreSettings]]:
    """The server of the environment, or else an embedded one in the folder."""
    embedded = None if os.environ.get("NIGHTSHIFT_S3_ENDPOINT") else EmbeddedS3(folder / "s3")
    if embedded is None:
        settings = ObjectStoreSettings.load()
    else:
        at = await embedded.start()
        settings = ObjectStoreSettings.load(
            s3_bucket=at.bucket,
            s3_endpoint=at.endpoint,
            s3_access_key=at.access_key,
            s3_secret_key=at.secret_key,
        )
    try:
        async with S3ObjectStore(settings) as objects:
            yield objects, settings
    finally:
        if embedded is not None:
            await embedded.stop()


async def run(sandbox: Sandbox, call: str, script: str) -> None:
    """Run a shell script to its end."""
    await sandbox.start_call(CallSpec(call, ["bash", "-c", script], timeout_s=None))
    status = await sandbox.wait_call(call, wait_s=600)
    if status.exit_code != 0:
        raise SystemExit(f"{call} failed")


class Peers:
    """restic and `tar | zstd | put` of the same files to the same server."""

    def __init__(self, folder: Path, settings: ObjectStoreSettings, restic: str | None) -> None:
        self._folder = folder
        self._restic_path = restic
        self._bucket = f"{settings.s3_endpoint}/{settings.s3_bucket}"
        secret = settings.s3_secret_key
        self._env = os.environ | {
            "RESTIC_REPOSITORY": f"s3:{self._bucket}/restic",
            "RESTIC_PASSWORD": "bench",
            "RESTIC_CACHE_DIR": str(folder / "cache"),
            "AWS_ACCESS_KEY_ID": settings.s3_access_key or "",
            "AWS_SECRET_ACCESS_KEY": secret.get_secret_value() if secret else "",
            "AWS_DEFAULT_REGION": settings.s3_region,
        }

    async def restic(self, *arguments: str) -> str:
        """The seconds that this restic command takes, or `-` without restic."""
        if self._restic_path is None:
            return "-"
        begun = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            self._restic_path, *arguments, env=self._env, stdout=subprocess.DEVNULL
        )
        if await process.wait() != 0:
            raise SystemExit(f"restic {arguments[0]} failed")
        return f"{time.perf_counter() - begun:.2f}"

    async def tar(self, objects: S3ObjectStore, workspace: Path) -> str:
        begun = time.perf_counter()
        command = 'tar -C "$1" -cf - . | zstd -3 -q -c'
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", command, "tar", str(workspace), stdout=subprocess.PIPE
        )
        packed, _ = await process.communicate()
        await objects.put("tar.zst", packed)
        return f"{time.perf_counter() - begun:.2f}"

    async def untar(self, objects: S3ObjectStore, target: Path) -> str:
        begun = time.perf_counter()
        target.mkdir()
        packed = await objects.get("tar.zst")
        command = 'zstd -d -q -c | tar -C "$1" -xf -'
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", command, "tar", str(target), stdin=subprocess.PIPE
        )
        await process.communicate(packed)
        return f"{time.perf_counter() - begun:.2f}"


async def measured(work: Awaitable[Any]) -> tuple[Any, str, float]:
    """Await. Returns the result, the seconds, and the longest stall of the event loop in milliseconds."""
    meter = StallMeter()
    metering = asyncio.create_task(meter.run())
    gc.collect()
    gc.freeze()  # as a service does when it has started
    begun = time.perf_counter()
    result = await work
    seconds = time.perf_counter() - begun
    metering.cancel()
    return result, f"{seconds:.2f}", meter.longest * 1000


async def compare(files: int, size: int, restic: str | None) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        driver = LocalDriver(LocalSettings(folder / "sandboxes"))
        key = ProjectKey.derive(b"bench", "p")
        async with object_store(folder) as (objects, settings):
            one, two = await driver.create("b1", generation=1), await driver.create("b1", generation=2)
            try:
                store = SnapshotStore(objects, key)
                peers = Peers(folder, settings, restic)
                await peers.restic("init", "-q")
                await table((one, two), store, peers, folder, (files, size))
            finally:
                await one.kill()
                await two.kill()


def workspace_of(sandbox: Path) -> Path:
    """Return the workspace of a local sandbox: through its process 1, when its home is an image only mounted there."""
    if os.geteuid() != 0:
        return sandbox / "home/workspace"
    process = json.loads((sandbox / "bwrap.json").read_text().splitlines()[0])["child-pid"]
    return Path(f"/proc/{process}/root/home/user/workspace")


async def table(
    sandboxes: tuple[Sandbox, Sandbox],
    store: SnapshotStore,
    peers: Peers,
    folder: Path,
    size: tuple[int, int],
) -> None:
    """Print a row for each step."""
    one, two = sandboxes
    workspace = workspace_of(folder / "sandboxes" / one.id)
    files, version = size[0], 0
    objects: Any = store.objects
    last: list[Captured] = []

    async def snapshot(**more: Any) -> Captured:
        nonlocal version
        version += 1
        saved = await capture(one, store, "b1", at_version=version, reason="checkpoint", **more)
        await one.stored(version)
        last.append(saved)
        return saved

    async def row(
        what: str, work: Awaitable[Any], restic: Awaitable[str] | None, tar: Awaitable[str] | None
    ) -> None:
        result, seconds, stall = await measured(work)
        sent = f"{result.uploaded_bytes:,}" if isinstance(result, Captured) else ""
        theirs = [await one if one is not None else "" for one in (restic, tar)]
        print(f"| {what} | {seconds} | {theirs[0]} | {theirs[1]} | {sent} | {stall:.0f} |", flush=True)

    def backup() -> Awaitable[str]:
        return peers.restic("backup", "-q", str(workspace))

    print("| step | ours, s | restic, s | tar, zstd, put, s | bytes sent | longest stall, ms |")
    print("|---|---:|---:|---:|---:|---:|", flush=True)
    await run(one, "b1/1/0", f'python3 -c "{_MAKE.format(files=files, size=size[1])}"; sleep 0.2')
    await row("first", snapshot(), backup(), peers.tar(objects, workspace))
    await row("unchanged", snapshot(), backup(), None)
    change = "for n in $(seq 0 100 {0}); do echo {1} >> d$((n/100))/f$n; done; sleep 0.2"
    for again in range(2):
        await run(one, f"b1/2/{again}", change.format(files - 1, again))
        await row("1 % changed", snapshot(), backup(), None)
    await row("unchanged", snapshot(), backup(), None)
    await row("before a sleep", snapshot(exact=True), None, None)
    fresh = SnapshotStore(objects, store.key)
    await row(
        "restore",
        restore(two, fresh, last[-1].key),
        peers.restic("restore", "-q", "latest", "--target", str(folder / "restic-out")),
        peers.untar(objects, folder / "tar-out"),
    )


async def memory(gigabytes: int) -> None:
    """Print the growth of this process's memory over the first snapshot of a large workspace."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        driver = LocalDriver(LocalSettings(folder / "sandboxes"))
        async with object_store(folder) as (objects, _):
            sandbox = await driver.create("b1", generation=1)
            try:
                await run(sandbox, "b1/1/0", f'python3 -c "{_LARGE.format(count=gigabytes * 120)}"')
                store = SnapshotStore(objects, ProjectKey.derive(b"bench", "p"))
                saved, seconds, stall = await measured(
                    capture(sandbox, store, "b1", at_version=1, reason="checkpoint")
                )
            finally:
                await sandbox.kill()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{saved.bytes:,} bytes in {seconds} s: {peak:.0f} MiB at most, longest stall {stall:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--bytes", type=int, default=18_000)
    parser.add_argument("--restic", default=shutil.which("restic"))
    parser.add_argument("--memory", type=int, metavar="GB")
    options = parser.parse_args()
    work: Callable[[], Any] = lambda: compare(options.files, options.bytes, options.restic)  # noqa: E731
    if options.memory:
        work = lambda: memory(options.memory)  # noqa: E731
    elif options.restic is None:
        print("restic is not on the PATH (Debian: apt-get install restic): its column is empty\n")
    asyncio.run(work())


if __name__ == "__main__":
    main()
