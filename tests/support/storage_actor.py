"""A process of its own that plays the snapshotter or the gateway for one build, so that a test can kill it.

python storage_actor.py snapshotter FOLDER SANDBOX VERSION S3_SETTINGS    prints the stored snapshot as JSON
python storage_actor.py gateway FOLDER SANDBOX VERSION CALL SCRIPT        holds the checkpoint, then runs the call
"""

import asyncio
import json
import sys
from pathlib import Path

from nightshift.eventlog.errors import NightshiftError
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.settings import ObjectStoreSettings
from nightshift.sandboxes.local.driver import LocalDriver
from nightshift.sandboxes.local.settings import LocalSettings
from nightshift.sandboxes.port import CallSpec
from nightshift.sandboxes.snapshots.capture import capture
from nightshift.sandboxes.snapshots.manifest import ProjectKey
from nightshift.sandboxes.snapshots.store import SnapshotStore


async def snapshotter(folder: str, sandbox_id: str, version: str, settings: str) -> None:
    """Capture until it succeeds, and acknowledge."""
    sandbox = await LocalDriver(LocalSettings(Path(folder))).connect(sandbox_id)
    async with S3ObjectStore(ObjectStoreSettings.load(**json.loads(settings))) as objects:
        store = SnapshotStore(objects, ProjectKey.derive(b"test", "p"))
        while True:
            try:
                saved = await capture(
                    sandbox,
                    store,
                    "b1",
                    at_version=int(version),
                    reason="checkpoint",
                    fresh=int(version) % 3 == 0,
                )
                break
            except NightshiftError as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        fields = {"key": saved.key, "consistency": saved.consistency, "skipped": dict(saved.skipped)}
        print(json.dumps(fields), flush=True)
        if saved.staged:
            await sandbox.stored(int(version))


async def gateway(folder: str, sandbox_id: str, version: str, call: str, script: str) -> None:
    """Hold the checkpoint and run a call once, however often this process is started for it."""
    sandbox = await LocalDriver(LocalSettings(Path(folder))).connect(sandbox_id)
    if (await sandbox.call_status(call)).state == "unknown":
        await sandbox.hold(int(version))
    status = await sandbox.run_call(CallSpec(call, ["bash", "-c", script], timeout_s=None), wait_s=300)
    print(status.exit_code, flush=True)


if __name__ == "__main__":
    asyncio.run({"snapshotter": snapshotter, "gateway": gateway}[sys.argv[1]](*sys.argv[2:]))
