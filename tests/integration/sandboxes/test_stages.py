"""The snapshot of a checkpoint holds the tree of that checkpoint, whatever is written afterwards."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.integration.sandboxes.test_snapshots import STATES, Workspaces

from nightshift.sandboxes.agent.digest_cache import DigestCache
from nightshift.sandboxes.port import SandboxDriver
from nightshift.sandboxes.snapshots.capture import Captured
from nightshift.sandboxes.snapshots.restore import restore


@pytest.fixture
async def work(local: SandboxDriver) -> AsyncIterator[Workspaces]:
    workspaces = Workspaces(local)
    await workspaces.open()
    yield workspaces
    await workspaces.sandbox.kill()


@pytest.fixture
async def work_anywhere(driver: SandboxDriver) -> AsyncIterator[Workspaces]:
    workspaces = Workspaces(driver)
    await workspaces.open()
    yield workspaces
    await workspaces.sandbox.kill()


async def checkpoint(work: Workspaces, version: int, **more: Any) -> Captured:
    """What the snapshotter does: capture, put it on record, acknowledge it."""
    saved = await work.save(at_version=version, reason="checkpoint", exact=False, **more)
    await work.sandbox.stored(version)
    return saved


async def held(work: Workspaces, version: int, script: str) -> None:
    """What the gateway does before the first writing call of the next turn, and that call."""
    await work.sandbox.hold(version)
    await work.run(script)


async def restored(work: Workspaces, saved: Captured, command: str) -> str:
    other = await work.driver.create("b2", generation=work.calls)
    work.sandbox, ours = other, work.sandbox
    try:
        done = await restore(other, work.store, saved.key)
        assert (done.lost, done.differs, done.tree_digest) == ((), {}, saved.tree_digest)
        return await work.run(command)
    finally:
        work.sandbox = ours
        await other.kill()


_CHANGE = (
    "echo later >> one; echo new > two.new; mv two.new two; rm gone; rm -r d; echo 1 > d; chmod 700 kept"
)
_CHANGE += "; ln -sf x l"
_SHOW = f"{STATES} | grep -v '^|'; cat one two gone d/deep kept; readlink l"


async def test_a_late_capture_holds_the_tree_of_its_checkpoint(work_anywhere: Workspaces) -> None:
    work = work_anywhere
    await work.run("mkdir d; for n in one two gone d/deep kept; do echo $n > $n; done; ln -s one l")
    await checkpoint(work, 5)
    await work.run("for n in one two gone d/deep; do echo again >> $n; done")
    before = await work.run(_SHOW)
    await held(work, 10, _CHANGE)
    saved = await checkpoint(work, 10)
    assert (saved.consistency, saved.torn, saved.skipped) == ("exact", (), {})
    assert await restored(work, saved, _SHOW) == before
    now = await work.run("cat one two d; readlink l")
    assert await restored(work, await checkpoint(work, 20), "cat one two d; readlink l") == now


async def test_the_first_snapshot_is_exact_too(work: Workspaces) -> None:
    await work.run("mkdir d; for n in one two gone d/deep kept; do echo $n > $n; done; ln -s one l")
    before = await work.run(_SHOW)
    await held(work, 10, _CHANGE)
    saved = await checkpoint(work, 10)
    assert saved.consistency == "exact"
    assert await restored(work, saved, _SHOW) == before


async def test_stages_wait_for_a_snapshotter_that_is_behind(work: Workspaces) -> None:
    trees = {}
    for version in range(10, 40, 10):
        await held(work, version, f"echo {version} >> log; echo {version} > f{version}")
        trees[version + 10] = await work.run("cat log f*")
    assert list(await work.sandbox.held()) == [10, 20, 30]
    for version in (20, 30):
        saved = await checkpoint(work, version)
        assert saved.consistency == "exact"
        assert await restored(work, saved, "cat log f*") == trees[version]
    assert list(await work.sandbox.held()) == []


async def test_a_capture_without_a_stage_says_that_it_is_late(work: Workspaces) -> None:
    """As when the copies were removed, or another request held the stages for too long."""
    await work.run("echo 1 > one")
    await held(work, 10, "echo 2 > one")
    await work.run("rm -r ~/.night*/stage/held.json ~/.night*/stage/copies")
    saved = await checkpoint(work, 10)
    assert saved.consistency == "late"
    assert await restored(work, saved, "cat one") == "2\n"


async def test_a_file_that_could_not_be_held_is_named(work: Workspaces) -> None:
    await work.run("echo 1 > one; echo 2 > two")
    await held(work, 10, "echo 3 >> one")
    await work.run("rm ~/.night*/stage/copies/*")
    saved = await checkpoint(work, 10)
    assert (saved.consistency, saved.torn) == ("torn", ("one",))
    assert await restored(work, saved, "cat one two") == "1\n3\n2\n"


async def test_a_write_during_the_export_is_not_in_the_snapshot(work: Workspaces) -> None:
    """The snapshotter has listed the stage, and reads it while the agent goes on."""
    await work.run("for n in $(seq 40); do echo $n > f$n; done; echo 1 > zz")
    real = work.sandbox.export_files

    async def export(mark: int, paths: Any) -> AsyncIterator[Any]:
        await held(work, 10, "echo later >> zz; rm f7; echo other > f8")
        async for block in real(mark, paths):
            yield block

    work.sandbox.export_files = export  # type: ignore[method-assign]
    saved = await checkpoint(work, 10)
    assert saved.consistency == "exact"
    assert await restored(work, saved, "cat zz f7 f8; ls | wc -l") == "1\n7\n8\n41\n"


async def test_a_hold_copies_only_what_no_snapshot_has(work: Workspaces) -> None:
    await work.run("head -c 5000000 /dev/urandom > large; echo 1 > one; sleep 0.2")
    await checkpoint(work, 5)
    await work.run("echo 2 >> one")
    await work.sandbox.hold(10)
    assert (
        await work.run("ls ~/.night*/stage/copies | wc -l; du -sk ~/.night*/stage/copies | cut -f1") < "1\n9"
    )


async def hold_without_time(work: Workspaces) -> None:
    request = {"op": "hold", "mark": 10, "exclude": [], "seconds": 0, "limit": 1000}
    async with work.sandbox._ask(request):  # type: ignore[attr-defined]
        pass


async def test_a_hold_beyond_its_time_guards_what_is_not_copied(work_anywhere: Workspaces) -> None:
    """A program that writes into such a file waits until this file is copied."""
    work = work_anywhere
    await work.run(
        "for n in replaced written removed cut; do echo 1 > $n; done; head -c 30000000 /dev/zero > large"
    )
    await hold_without_time(work)
    await work.run("echo 2 > new; mv new replaced; rm removed; echo 2 >> written; : > cut; echo 2 1<> large")
    saved = await checkpoint(work, 10)
    assert (saved.consistency, saved.torn, saved.skipped) == ("exact", (), {})
    show = "cat replaced removed written cut; head -c 2 large | od -An -tx1; stat -c %s large"
    assert await restored(work, saved, show) == "1\n1\n1\n1\n 00 00\n30000000\n"


async def test_a_file_that_cannot_be_guarded_is_linked(work: Workspaces) -> None:
    """A link keeps a file that is removed, but not from a program that has it open for writing. This one is named."""
    await work.run("echo 1 > removed; echo 1 > written")
    await work.run(
        "mkfifo /tmp/go; nohup sh -c 'exec 3>>removed 4>>written; echo > ready; read _ < /tmp/go; echo 2 >&4"
        "; echo > done' > /tmp/out 2>&1 & until [ -e ready ]; do sleep 0.01; done; rm ready"
    )
    await hold_without_time(work)
    await work.run("rm removed; echo > /tmp/go; until [ -e done ]; do sleep 0.01; done")
    saved = await checkpoint(work, 10)
    assert (saved.consistency, saved.torn) == ("torn", ("written",))
    assert await restored(work, saved, "cat removed written") == "1\n1\n2\n"


async def test_of_two_requests_one_makes_the_stage(work: Workspaces) -> None:
    await work.run("for n in $(seq 100); do echo $n > f$n; done")
    one, other, _ = await asyncio.gather(
        work.sandbox.stage(10), work.sandbox.stage(10), work.sandbox.hold(10)
    )
    assert one == other
    assert not one.late


def test_an_imported_digest_is_used_only_for_the_same_stat(tmp_path: Any) -> None:
    path = tmp_path / "f"
    path.write_text("one")
    cache = DigestCache(str(tmp_path / "digests"))
    cache.trust("f", path.stat(), "the digest")
    cache.save()
    assert DigestCache(str(tmp_path / "digests")).find("f", path.stat()) == "the digest"
    path.chmod(0o600)
    assert DigestCache(str(tmp_path / "digests")).find("f", path.stat()) is None
