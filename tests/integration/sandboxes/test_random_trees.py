"""Random trees over many snapshots, each captured while the next turn writes: every one is restored as it was.

Also dependencies, rebuilds, and an object store that fails, on real sandboxes.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.integration.sandboxes.test_snapshots import Workspaces

from nightshift.eventlog.errors import NightshiftError, Unavailable
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.sandboxes.port import SandboxDriver
from nightshift.sandboxes.snapshots.capture import Captured, capture
from nightshift.sandboxes.snapshots.restore import restore
from nightshift.sandboxes.snapshots.store import SnapshotStore

#: `make test-trees` sets these to 30, and to 300 MB.
SNAPSHOTS = int(os.environ.get("NIGHTSHIFT_TREE_SNAPSHOTS", "4"))
LARGEST = int(os.environ.get("NIGHTSHIFT_TREE_LARGEST", "9000000"))

_CHANGE = r"""
import os, random, shutil, stat, sys
draw, largest = random.Random(int(sys.argv[1])), int(sys.argv[2])
NAMES = ['a', 'b', 'caf\udce9', 'new\nline', ' ', '-rf', 'x' * 255, '日', '.hidden', 'node_modules', 'b\\s']
def open_up(path):
    if os.path.isdir(path) and not os.path.islink(path): os.chmod(path, 0o700)
LOCAL = os.path.expanduser('~/.local')
def dirs():
    os.makedirs(LOCAL, exist_ok=True)
    found = ['.', LOCAL]
    for folder in found:
        open_up(folder)
        found += [e.path for e in os.scandir(folder) if e.is_dir(follow_symlinks=False)]
    return found
def files():
    return [e.path for d in dirs() for e in os.scandir(d) if e.is_file(follow_symlinks=False)]
def fresh(): return os.path.join(draw.choice([d for d in dirs() if d.count('/') < 6]), draw.choice(NAMES))
def remove(path):
    if os.path.isdir(path) and not os.path.islink(path): shutil.rmtree(path)
    elif os.path.lexists(path): os.unlink(path)
def size(): return draw.choice([0, 1, 100, 5000, 300000, largest if draw.random() < 0.2 else 7])
def write(path, mode):
    if os.path.isfile(path): os.chmod(path, 0o600)
    count = size()
    part = draw.randbytes(min(count, 1_000_000))
    with open(path, mode) as file: file.write((part * (count // 1_000_000 + 1))[:count])
for _ in range(12):
    try:
        kind = draw.choice('wwwwaaimmlhrdtks')
        some = draw.choice(files() or ['none'])
        if kind == 'w': path = fresh(); remove(path); write(path, 'wb')
        elif kind == 'a': write(some, 'ab')
        elif kind == 'i': write(some, 'r+b')
        elif kind == 'm': os.mkdir(fresh())
        elif kind == 'l': path = fresh(); remove(path); os.symlink(draw.choice(['a', '/nowhere', '..']), path)
        elif kind == 'h': path = fresh(); remove(path); os.link(some, path)
        elif kind == 'r': path = fresh(); remove(path); os.rename(some, path)
        elif kind == 'd': remove(draw.choice(dirs()[1:] or files()))
        elif kind == 't': os.utime(some, ns=(1, draw.randrange(2**60)))
        elif kind == 'k': os.chmod(draw.choice(files()), draw.choice([0, 0o400, 0o755, 0o600]))
        elif kind == 's': path = fresh(); remove(path); os.mkdir(path, 0o755); write(path + '/in', 'wb')
    except (OSError, IndexError):
        pass
for path in reversed(dirs()[1:]):
    if draw.random() < 0.2: os.chmod(path, draw.choice([0, 0o500, 0o755]))
"""
_STATE = r"""
import hashlib, os, stat
links, rows, todo, closed = {}, [], ['.', os.path.expanduser('~/.local')], []
for folder in todo:
    if os.path.exists(folder): rows.append([folder, oct(os.lstat(folder).st_mode), os.lstat(folder).st_mtime_ns])
while todo:
    folder = todo.pop()
    if not os.path.exists(folder): continue
    mode = stat.S_IMODE(os.lstat(folder).st_mode)
    if mode & 0o500 != 0o500: os.chmod(folder, 0o700); closed.append((folder, mode))
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name); s = os.lstat(path)
        row = [path, stat.S_IFMT(s.st_mode), s.st_mtime_ns]
        if stat.S_ISLNK(s.st_mode): row.append(os.readlink(path))
        else:
            row.append(stat.S_IMODE(s.st_mode))
            if stat.S_ISDIR(s.st_mode): todo.append(path)
            else:
                if not s.st_mode & 0o400: os.chmod(path, 0o600)
                row += [hashlib.sha256(open(path, 'rb').read()).hexdigest(), links.setdefault(s.st_ino, path)]
                if not s.st_mode & 0o400: os.chmod(path, stat.S_IMODE(s.st_mode))
        rows.append(row)
for folder, mode in reversed(closed): os.chmod(folder, mode)
print(hashlib.sha256(ascii(sorted(rows, key=ascii)).encode()).hexdigest(), len(rows))
"""


@pytest.fixture
async def work(local: SandboxDriver) -> AsyncIterator[Workspaces]:
    workspaces = Workspaces(local)
    await workspaces.open()
    yield workspaces
    await workspaces.sandbox.kill()


async def state(work: Workspaces) -> str:
    await work.run(f"cat > ~/state.py <<'END'\n{_STATE}\nEND")
    return await work.run("python3 ~/state.py")


@pytest.mark.timeout(900)
async def test_each_snapshot_of_a_random_tree_is_restored_as_it_was(work: Workspaces) -> None:
    await work.run(f"cat > ~/change.py <<'END'\n{_CHANGE}\nEND")
    await work.run(f"python3 ~/change.py 0 {LARGEST}")
    saved, draw = [], random.Random(7)
    for number in range(1, SNAPSHOTS + 1):
        before, version = await state(work), number * 10

        async def save(after: asyncio.Event, version: int = version) -> Captured:
            await after.wait()
            return await work.save(at_version=version, reason="checkpoint", exact=False)

        turn = draw.choice(
            ["before", "beside", "after"]
        )  # when the snapshot is taken, seen from the next turn
        begin = asyncio.Event()
        captured = asyncio.create_task(save(begin))
        if turn == "before":
            begin.set()
            await captured
        elif turn == "beside":
            begin.set()
            await asyncio.sleep(draw.random() / 20)
        await work.sandbox.hold(version)
        await work.run(f"python3 ~/change.py {number} {LARGEST}")
        begin.set()
        snapshot = await captured
        await work.sandbox.stored(version)
        saved.append((snapshot, before))
    ours = work.sandbox
    for snapshot, before in saved:
        assert (snapshot.consistency, snapshot.skipped) == ("exact", {}), snapshot
        work.sandbox = await work.driver.create("b2", generation=work.calls)
        done = await restore(work.sandbox, SnapshotStore(work.store.objects, work.store.key), snapshot.key)
        assert (done.lost, done.differs, done.tree_digest) == ((), {}, snapshot.tree_digest)
        assert await state(work) == before
        await work.sandbox.kill()
    work.sandbox = ours


async def test_a_virtual_environment_runs_after_a_restore(work: Workspaces) -> None:
    """As `pytest` of a project: installed with pip from a local package, and used without any action."""
    await work.run(
        "python3 -m venv --without-pip .venv && mkdir -p pkg/.bin && mkdir node_modules"
        " && site=$(.venv/bin/python -c 'import site; print(site.getsitepackages()[0])')"
        " && echo 'VALUE = 42' > $site/local_package.py"
        " && printf '#!/bin/sh\\nexec .venv/bin/python -c \"import local_package as p; print(p.VALUE)\"\\n' > test.sh"
        " && chmod 755 test.sh && ln -s ../test.sh node_modules/tool"
    )
    assert await work.run("./node_modules/tool") == "42\n"
    _, restored = await work.sleep()
    assert restored.differs == {}
    assert await work.run("./node_modules/tool && .venv/bin/python -c 'import sys; print(sys.prefix)'") == (
        "42\n/home/user/workspace/.venv\n"
    )


async def test_a_project_s_rules_choose_what_is_kept_and_rebuilt(work: Workspaces) -> None:
    await work.run(
        "mkdir -p .nightshift .cache data/raw deps; echo 1 > .cache/kept; echo 2 > data/raw/big; echo 3 > a.sqlite"
        "; echo 4 > deps/made"
    )
    rules = 'exclude: ["data/raw", "*.sqlite", "deps/"]\ninclude: [".cache"]'
    rules += '\nrebuild: ["mkdir deps; echo 5 > deps/made"]'
    await work.run(f"cat > .nightshift/snapshot.yaml <<'END'\n{rules}\nEND")
    _, restored = await work.sleep()
    assert (restored.lost, restored.differs) == ((), {})
    assert await work.run("cat .cache/kept deps/made; ls -A data; ls") == "1\n5\ndata\ndeps\n"


async def test_a_rebuild_that_fails_is_told(work: Workspaces) -> None:
    await work.run(
        "mkdir .nightshift; echo 'rebuild: [\"echo no such lock >&2; exit 3\"]' > .nightshift/snapshot.yaml"
    )
    _, restored = await work.sleep()
    assert restored.lost == ()
    assert restored.differs == {
        ".nightshift/snapshot.yaml": "rebuild: `echo no such lock >&2; exit 3` ended with 3: no such lock"
    }


@pytest.mark.parametrize("text", ["exclude: all", "- a", "{", "exclude: [5]", "unknown: []"])
async def test_rules_that_cannot_be_used_are_named(work: Workspaces, text: str) -> None:
    await work.run(f"mkdir .nightshift; echo '{text}' > .nightshift/snapshot.yaml; echo 1 > one")
    saved = await work.save()
    assert list(saved.skipped) == [".nightshift/snapshot.yaml"]
    assert saved.files == 2


class FailingStore(MemoryObjectStore):
    """Fails so many of its calls, before or after their effect."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.draw, self.rate = random.Random(seed), 0.3

    def _maybe(self) -> None:
        if self.draw.random() < self.rate / 2:
            raise Unavailable("S3: 503 Slow Down")

    async def put(self, key: str, body: bytes) -> None:
        self._maybe()
        await super().put(key, body)
        self._maybe()

    async def put_if_absent(self, key: str, body: bytes) -> bool:
        self._maybe()
        done = await super().put_if_absent(key, body)
        self._maybe()
        return done

    async def get(self, key: str) -> bytes:
        self._maybe()
        return await super().get(key)


async def test_a_failing_store_leaves_only_whole_manifests(work: Workspaces) -> None:
    objects = FailingStore(seed=3)
    work.store = SnapshotStore(objects, work.store.key)
    saved = {}
    for version in range(1, 9):
        await work.run(f"echo {version} > f{version}; echo {version} >> all; rm -f f{version - 2}")
        try:
            done = await capture(work.sandbox, work.store, "b1", at_version=version, reason="checkpoint")
        except NightshiftError:
            continue
        saved[version] = done
        await work.sandbox.stored(version)
    assert 1 < len(saved) < 8
    objects.rate = 0
    manifests = [key for key in objects.bodies if key.endswith(".manifest")]
    assert len(manifests) >= len(saved)
    fresh: Any = SnapshotStore(objects, work.store.key)
    for key in manifests:  # also those whose write failed after its effect
        manifest = await fresh.load(key)
        assert None not in [content async for _, content in fresh.read(manifest, _files(manifest))]
    for version, done in saved.items():
        manifest = await fresh.load(done.key)
        assert [entry.path for entry in manifest.entries][-1] == f"f{version}"


def _files(manifest: Any) -> list[Any]:
    return [entry for entry in manifest.entries if entry.kind == "file"]
