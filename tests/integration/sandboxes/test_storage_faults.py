"""Snapshots while the object store fails, and while it, the snapshotter and the gateway are killed at any moment.

Whatever happens, each snapshot that was reported is restored as the tree was, every manifest in the store can be
restored, and the agent's calls run though no object store answers.
"""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.sandboxes.test_random_trees import _CHANGE, state
from tests.integration.sandboxes.test_snapshots import Workspaces
from tests.support.faulty_door import faulty_door
from tests.support.storage_actor import __file__ as actor
from tests.support.waiting import eventually

from nightshift.devstack.parts.s3 import EmbeddedS3
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.settings import ObjectStoreSettings
from nightshift.sandboxes.local.driver import LocalDriver
from nightshift.sandboxes.snapshots.restore import restore
from nightshift.sandboxes.snapshots.store import SnapshotStore

#: `make test-storage-faults` sets this to 40.
ROUNDS = int(os.environ.get("NIGHTSHIFT_STORAGE_ROUNDS", "2"))
#: The longest time, in seconds, that an actor lives before it is killed. It lives for ever when it is not killed.
_LONGEST_LIFE_S = 1.5


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedS3]:
    embedded = EmbeddedS3(tmp_path / "s3")
    await embedded.start()
    yield embedded
    await embedded.stop()


class Actors:
    """Runs actors to their end, and kills some of them on the way. `killed` counts these."""

    def __init__(self, folder: Path, sandbox: str, draw: random.Random) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.draw = draw
        self.killed = 0

    async def run(self, role: str, *arguments: str) -> str:
        """Start the actor again until it ended by itself. Returns what it printed last."""
        for attempt in range(4):
            life = None if attempt == 3 or self.draw.random() < 0.4 else self.draw.random() * _LONGEST_LIFE_S
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *[actor, role, str(self.folder), self.sandbox, *arguments],
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                async with asyncio.timeout(life):
                    out, _ = await process.communicate()
            except TimeoutError:
                process.kill()
                out, _ = await process.communicate()
                self.killed += 1
                if not out:  # else it was done, and killed after its report
                    continue
            assert out, f"the {role} failed"
            return out.decode()
        raise AssertionError


async def restart(server: EmbeddedS3) -> None:
    """Kill the object store at any moment, and start it again on its folder and port."""
    os.kill(server.pid, signal.SIGKILL)
    await server.stop()
    await server.start()


@pytest.mark.timeout(1800)
async def test_no_kill_and_no_fault_makes_a_wrong_snapshot(
    local: LocalDriver, server: EmbeddedS3, tmp_path: Path
) -> None:
    draw = random.Random(5)
    work = Workspaces(local)
    await work.open()
    actors = Actors(tmp_path / "sandboxes", work.sandbox.id, draw)
    await work.run(f"cat > ~/change.py <<'END'\n{_CHANGE}\nEND")
    await work.run("python3 ~/change.py 0 3000000")
    saved: list[tuple[dict[str, Any], str]] = []
    with faulty_door(f"http://127.0.0.1:{server.port}", seed=5) as door:
        settings = json.dumps(
            {
                "s3_bucket": "nightshift",
                "s3_endpoint": door.endpoint,
                "s3_access_key": "a",
                "s3_secret_key": "b",
            }
        )
        door.rate = 0.3
        for number in range(1, ROUNDS + 1):
            version, before = str(number * 10), await state(work)
            change = f"python3 ~/change.py {number} 3000000"
            capturing = asyncio.create_task(actors.run("snapshotter", version, settings))
            calling = asyncio.create_task(actors.run("gateway", version, f"b1/{1000 + number}/0", change))
            if draw.random() < 0.6:
                await restart(server)
            assert (await calling).strip() == "0"
            saved.append((json.loads((await capturing).splitlines()[-1]), before))
        assert sum(door.met.values()) > 0
    exact = 0
    options = json.loads(settings) | {"s3_endpoint": f"http://127.0.0.1:{server.port}"}
    async with S3ObjectStore(ObjectStoreSettings.load(**options)) as objects:
        store = SnapshotStore(objects, work.store.key)
        manifests = [one.key async for one in objects.list("projects/") if one.key.endswith(".manifest")]
        assert len(manifests) >= ROUNDS
        for key in manifests:  # also those whose snapshotter was killed before its report
            manifest = await store.load(key)
            files = [
                one for one in manifest.entries if one.kind == "file" and one.digest not in manifest.pieces
            ]
            assert None not in [content async for _, content in store.read(manifest, files)]
        for fields, before in saved:
            assert fields["skipped"] == {}
            exact += fields["consistency"] == "exact"
            other = await local.create("b2", generation=work.calls)
            work.sandbox, ours = other, work.sandbox
            done = await restore(other, store, fields["key"])
            assert (done.lost, done.differs) == ((), {})
            if fields["consistency"] == "exact":
                assert await state(work) == before
            await other.kill()
            work.sandbox = ours
    await work.sandbox.kill()
    # A hold ends after its time, on a busy machine too: the call goes on, and its snapshot says that it is late.
    print(f"{exact} of {len(saved)} snapshots are exact")


async def test_a_call_runs_while_no_object_store_answers(local: LocalDriver, server: EmbeddedS3) -> None:
    """The server is frozen until the agent's next call has ended."""
    work = Workspaces(local)
    await work.open()
    await work.run("head -c 3000000 /dev/urandom > large; echo 1 > one")
    before = await state(work)
    options = {"s3_bucket": "nightshift", "s3_endpoint": f"http://127.0.0.1:{server.port}"}
    async with S3ObjectStore(
        ObjectStoreSettings.load(**options, s3_access_key="a", s3_secret_key="b")
    ) as objects:
        work.store = SnapshotStore(objects, work.store.key)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            saving = asyncio.create_task(work.save(at_version=10, reason="checkpoint", exact=False))
            await eventually(work.sandbox.held, what="the snapshotter has begun")
            await work.sandbox.hold(10)
            await work.run("echo 2 >> large; echo 2 > one; rm -f two")
            assert not saving.done()
        finally:
            os.kill(server.pid, signal.SIGCONT)
        saved = await saving
        assert (saved.consistency, saved.skipped) == ("exact", {})
        await work.sandbox.kill()
        await work.open()
        assert (await restore(work.sandbox, work.store, saved.key)).differs == {}
        assert await state(work) == before
    await work.sandbox.kill()
