"""What a snapshot holds is restored as it was, and what it cannot hold is named. On both drivers."""

import hashlib
import os
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from tests.integration.sandboxes.test_drivers import sh

from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.sandboxes.port import Entry, Sandbox, SandboxDriver, Stage
from nightshift.sandboxes.snapshots.capture import Captured, capture
from nightshift.sandboxes.snapshots.manifest import ProjectKey
from nightshift.sandboxes.snapshots.restore import Restored, restore
from nightshift.sandboxes.snapshots.store import SnapshotStore

STATES = "find . -printf '%P|%y|%m|%T@|%l\\n' | sort"


class Workspaces:
    """One build's sandboxes, one after the other, over a store in memory."""

    def __init__(self, driver: SandboxDriver) -> None:
        self.driver = driver
        self.store = SnapshotStore(MemoryObjectStore(), ProjectKey.derive(b"test", "p"))
        self.sandbox: Sandbox
        self.opened = self.calls = 0

    async def open(self) -> Sandbox:
        self.opened += 1
        self.sandbox = await self.driver.create("b1", generation=self.opened)
        return self.sandbox

    async def run(self, script: str) -> str:
        self.calls += 1
        call = f"b1/{self.calls}/0"
        await self.sandbox.start_call(sh(call, script))
        status = await self.sandbox.wait_call(call, wait_s=100)
        out = await self.sandbox.read_output(call, "out")
        err = await self.sandbox.read_output(call, "err")
        assert status.exit_code == 0, err
        return os.fsdecode(out)

    async def save(self, **more: Any) -> Captured:
        return await capture(
            self.sandbox, self.store, "b1", **{"at_version": 1, "reason": "pre_sleep", "exact": True, **more}
        )

    async def sleep(self, **more: Any) -> tuple[Captured, Restored]:
        """Save, close, and restore into a fresh sandbox, as another process would."""
        saved = await self.save(**more)
        await self.sandbox.kill()
        await self.open()
        fresh = SnapshotStore(self.store.objects, self.store.key)
        return saved, await restore(self.sandbox, fresh, saved.key)


@pytest.fixture
async def work(driver: SandboxDriver) -> AsyncIterator[Workspaces]:
    workspaces = Workspaces(driver)
    await workspaces.open()
    yield workspaces
    await workspaces.sandbox.kill()


async def test_a_name_as_long_as_a_name_can_be_is_restored(work: Workspaces) -> None:
    await work.run("python3 -c \"open('日'*80+'.md','w').write('x'); open('a'*255,'w').write('y')\"")
    _, restored = await work.sleep()
    assert (restored.lost, restored.differs) == ((), {})
    assert await work.run("cat aaa* 日*.md") == "yx"


async def test_a_name_that_the_target_refuses_is_named_as_lost(work: Workspaces) -> None:
    await work.run("echo 1 > first; mkdir d; echo 2 > d/two; echo 3 > third; ln first d/linked")
    saved = await work.save()
    manifest = await work.store.load(saved.key)

    async def load(key: str) -> Any:
        """The manifest of a file system whose names may be longer than here."""
        long = [replace(e, path=e.path.replace("two", "2" * 300)) for e in manifest.entries]
        gone = [replace(e, link="f" * 300) if e.link else e for e in long]
        return replace(
            manifest, entries=tuple(replace(e, path="f" * 300) if e.path == "first" else e for e in gone)
        )

    work.store.load = load  # type: ignore[method-assign]
    await work.sandbox.kill()
    await work.open()
    restored = await restore(work.sandbox, work.store, saved.key)
    assert set(restored.lost) == {"f" * 300, "d/" + "2" * 300}
    assert restored.differs["f" * 300] == "file name too long"
    assert await work.run("cat third d/linked") == "3\n1\n"


@pytest.mark.parametrize("mode", ["000", "111", "444", "222", "555"])
async def test_files_below_a_closed_directory_are_kept(work: Workspaces, mode: str) -> None:
    await work.run(f"mkdir -p d/e f; echo 1 > d/e/one; echo 2 > d/two; chmod {mode} d/two d/e d f")
    before = await work.run("stat -c '%n %a %.9Y' d f")
    saved, restored = await work.sleep()
    assert (saved.skipped, restored.lost, restored.differs) == ({}, (), {})
    assert await work.run("stat -c '%n %a %.9Y' d f") == before
    await work.run("chmod 700 d; chmod 700 d/e; chmod 600 d/two")
    assert await work.run("cat d/e/one d/two") == "1\n2\n"


async def test_a_closed_workspace_is_saved(work: Workspaces) -> None:
    await work.run("echo 1 > one; chmod 000 .")
    saved = await work.save()
    assert (saved.files, saved.skipped) == (1, {})


async def test_the_home_and_the_workspace_itself_are_restored(work: Workspaces) -> None:
    """Such as what `pip install` and `npm install -g` put into ~/.local."""
    await work.run(
        "mkdir -p ~/.local/bin ~/.cache; echo 'echo it runs' > ~/.local/bin/tool; chmod 755 ~/.local/bin/*"
    )
    await work.run(
        "echo one > ~/.gitconfig; echo 2 > ~/.cache/left; chmod 750 .; touch -d @1000000000 . ~/.local"
    )
    saved, restored = await work.sleep()
    assert (saved.skipped, restored.lost, restored.differs) == ({}, (), {})
    assert restored.tree_digest == saved.tree_digest
    assert await work.run(
        "~/.local/bin/tool; stat -c '%a %Y' . ~/.local; cat ~/.gitconfig; ls -d ~/.cache 2>&- || echo none"
    ) == ("it runs\n750 1000000000\n755 1000000000\none\nnone\n")


async def test_an_older_snapshot_leaves_the_home_alone(work: Workspaces) -> None:
    """It has no entry of the home, nor of the workspace itself."""
    await work.run("echo 1 > one; echo 1 > ~/kept")
    saved = await work.save()
    manifest = await work.store.load(saved.key)

    async def load(key: str) -> Any:
        return replace(manifest, entries=tuple(entry for entry in manifest.entries if entry.path == "one"))

    work.store.load = load  # type: ignore[method-assign]
    await work.run("rm one; echo 2 > ~/kept; chmod 700 .")
    restored = await restore(work.sandbox, work.store, saved.key)
    assert (restored.lost, restored.differs) == ((), {})
    assert await work.run("cat one ~/kept; stat -c %a .") == "1\n2\n700\n"


async def test_a_file_with_the_name_of_the_home_is_named(work: Workspaces) -> None:
    await work.run("echo 1 > .nightshift-home; echo 2 > two")
    saved = await work.save()
    assert saved.skipped == {".nightshift-home": "its name is reserved for the files of the home"}


async def test_files_with_the_names_of_caches_are_kept(work: Workspaces) -> None:
    await work.run("echo 1 > .cache; echo 2 > node_modules; echo 3 > m.pyc; ln -s .cache .venv")
    await work.run("mkdir -p d/.cache d/__pycache__; echo 4 > d/.cache/left; echo 5 > d/kept")
    _, restored = await work.sleep()
    assert restored.lost == ()
    assert await work.run("cat .cache node_modules m.pyc .venv d/kept; ls -A d") == "1\n2\n3\n1\n5\nkept\n"


async def test_links_empty_directories_and_unusual_names_are_kept(work: Workspaces) -> None:
    script = r"""
import os
os.makedirs('empty/also'); os.makedirs('d')
for name in (b'new\nline', b'back\\slash', b'caf\xe9', b'-rf', b' ', b'x' * 255, b'\x01', '日'.encode()):
    open(name, 'w').write('x')
os.symlink('/nowhere', 'dangling'); os.symlink('loop', 'loop'); os.symlink('d', 'to-d'); os.symlink('/etc', 'etc')
os.symlink(b'caf\xe9', 'to-cafe')
open('d/first', 'w').write('shared'); os.link('d/first', 'd/second'); os.link('d/first', 'a-third')
for link in ('dangling', 'loop', 'to-d'):
    os.utime(link, ns=(1, 123456789), follow_symlinks=False)
with open('sparse', 'wb') as file: file.seek(50_000_000); file.write(b'end')
"""
    await work.run(f"python3 - <<'END'\n{script}\nEND")
    before = await work.run(STATES)
    saved, restored = await work.sleep()
    assert (saved.skipped, restored.lost, restored.differs) == ({}, (), {})
    assert _states(await work.run(STATES)) == _states(before)
    assert (
        await work.run("echo more >> d/second; cat a-third; echo; stat -c %h d/first") == "sharedmore\n\n3\n"
    )
    assert int(await work.run("du -k sparse | cut -f1")) < 1000


def _states(listing: str) -> list[str]:
    return [line for line in listing.split("\n") if not line.startswith("|d|")]


async def test_what_is_no_file_is_named_and_the_rest_saved(work: Workspaces) -> None:
    await work.run("mkfifo pipe; mkdir d; echo 1 > d/one")
    await work.run("python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('d/sock')\"")
    saved, restored = await work.sleep()
    assert saved.skipped == {"pipe": "a named pipe", "d/sock": "a socket"}
    assert set(restored.lost) == {"pipe", "d/sock"}, "the agent is told after the restore"
    assert await work.run("ls; cat d/one") == "d\n1\n"


async def test_a_deep_tree_is_saved_as_far_as_it_can_be(work: Workspaces) -> None:
    await work.run(
        "python3 -c \"import os\nfor n in range(300): os.mkdir('d'); os.chdir('d'); open('f', 'w').close()\""
    )
    saved, restored = await work.sleep()
    [(path, _)] = saved.skipped.items()
    assert path.count("d") == 200
    assert set(restored.lost) == {path}
    assert saved.files == 199


@pytest.mark.long
async def test_a_large_file_is_streamed_and_kept(work: Workspaces) -> None:
    """300 MB, in memory of a few pieces; at E2B, where the test server is slow, more than one answer holds."""
    size = 300_000_001 if work.driver.name == "local" else 80_000_001
    await work.run(
        f"head -c {size} /dev/urandom > large; touch -d @1000000000.5 large; sha256sum large > sum"
    )
    tracemalloc.start()
    try:
        saved, restored = await work.sleep()
        held = sum(map(len, work.store.objects.bodies.values()))  # type: ignore[attr-defined]
        peak = tracemalloc.get_traced_memory()[1] - held
    finally:
        tracemalloc.stop()
    assert (saved.skipped, restored.lost, restored.differs) == ({}, (), {})
    assert "OK" in await work.run("sha256sum -c sum; stat -c %.1Y large")
    # At E2B, the test server is in this process, and holds whole files.
    assert work.driver.name == "e2b" or peak < 150_000_000, f"{peak:,}"


async def test_a_piece_that_is_corrupt_loses_its_file_alone(work: Workspaces) -> None:
    await work.run("head -c 20000000 /dev/urandom > large; echo 1 > small")
    saved = await work.save()
    manifest = await work.store.load(saved.key)
    [pieces] = manifest.pieces.values()
    at = manifest.blobs[pieces[1]]
    objects: Any = work.store.objects
    body = bytearray(objects.bodies[at.pack])
    body[at.offset + 1000] ^= 1
    objects.bodies[at.pack] = bytes(body)
    await work.sandbox.kill()
    await work.open()
    restored = await restore(work.sandbox, work.store, saved.key)
    assert restored.lost == ("large",)
    assert await work.run("ls -A") == "small\n", "half a file is not shown"


async def test_make_after_a_sleep_builds_what_changed(work: Workspaces) -> None:
    """As make does it: a target is rebuilt when its source is newer."""
    await work.run("echo old > source; cp source target; touch -d '2 seconds ago' source; echo new > source")
    await work.run("touch -r target -d '1 second ago' target")
    assert await work.run("[ source -nt target ] && echo stale") == "stale\n"
    await work.sleep()
    assert await work.run("[ source -nt target ] && echo stale") == "stale\n"


async def test_a_restore_repairs_times_and_modes_without_the_contents(work: Workspaces) -> None:
    await work.run("mkdir d; echo 1 > d/one; touch -d @1000000000 d/one d")
    before = await work.run("stat -c '%n %a %.9Y' d d/one")
    saved = await work.save()
    await work.run("touch d/one; chmod 600 d/one; touch d/extra")
    restored = await restore(work.sandbox, work.store, saved.key)
    assert (restored.healed, restored.lost) == (0, ())
    assert await work.run("stat -c '%n %a %.9Y' d d/one; ls d") == before + "one\n"


async def test_an_unreadable_file_is_named_while_the_rest_is_saved(work: Workspaces) -> None:
    """As for a file of another owner: the listing has the problem, and no content."""
    await work.run("echo 1 > one; echo 2 > two; ln two three")
    staged = await work.sandbox.stage(1)
    problem = Entry("two", "other", problem="permission denied")

    async def stage(*_: Any, **__: Any) -> Stage:
        link = [replace(e, link="two", path="x") for e in staged.entries if e.path == "one"]
        entries = [*(e for e in staged.entries if e.path == "one"), problem, *link]
        return replace(staged, entries=entries)

    work.sandbox.stage = stage  # type: ignore[method-assign]
    saved = await work.save()
    assert (saved.files, saved.skipped) == (1, {"two": "permission denied", "x": "permission denied"})


class CountedObjects(MemoryObjectStore):
    """Counts what is asked of the store."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def put(self, key: str, body: bytes) -> None:
        self.asked.append(f"put {key}")
        await super().put(key, body)

    async def put_if_absent(self, key: str, body: bytes) -> bool:
        self.asked.append(f"put {key}")
        return await super().put_if_absent(key, body)

    async def get(self, key: str) -> bytes:
        self.asked.append(f"get {key}")
        return await super().get(key)

    def list(self, prefix: str) -> Any:
        self.asked.append("list")
        return super().list(prefix)


async def test_an_unchanged_tree_sends_nothing_and_lists_nothing(work: Workspaces) -> None:
    objects = CountedObjects()
    work.store = SnapshotStore(objects, work.store.key)
    await work.run("mkdir d; echo 1 > d/one; head -c 9000000 /dev/urandom > large")
    first = await work.save()
    for acknowledged in (False, True):  # also when the sandbox was not told of the first one
        objects.asked.clear()
        again = await work.save(at_version=2 + acknowledged)
        assert (again.key, again.tree_digest, again.uploaded_bytes) == (first.key, first.tree_digest, 0)
        assert objects.asked == []
        await work.sandbox.stored(2)
    await work.run("touch -d @5 d/one")
    assert (await work.save(at_version=4)).key != first.key, "another time is another tree"
    assert len(objects.asked) == 1


async def test_a_remembered_digest_never_hides_a_change(work: Workspaces) -> None:
    """Content, and time and size put back as they were: the time of the change tells, and a fresh listing reads all."""
    await work.run("echo one > file; touch -d @1000000000 file; sleep 0.3")
    before = await work.sandbox.list_tree()
    assert await work.sandbox.list_tree() == before
    await work.run("echo two > file; touch -d @1000000000 file")
    for fresh in (False, True):
        [_, after] = await work.sandbox.list_tree(fresh=fresh)
        assert after.digest == hashlib.sha256(b"two\n").hexdigest()
        assert (after.size, after.mtime_ns) == (before[1].size, before[1].mtime_ns)


def test_the_digest_of_pieces_is_the_digest_of_the_file() -> None:
    key = ProjectKey.derive(b"m", "p")
    assert key.of(b"ab") == key.digest(hashlib.sha256(b"ab").hexdigest())
