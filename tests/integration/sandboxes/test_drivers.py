"""The conformance suite of the sandbox port: every driver passes all of it."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable

import pytest
from tests.support.waiting import eventually

from nightshift.sandboxes.errors import FileRefused, SandboxGone
from nightshift.sandboxes.port import CallSpec, Entry, ExportedFile, GrepQuery, Sandbox, SandboxDriver


@pytest.fixture
async def sandbox(driver: SandboxDriver) -> Sandbox:
    return await driver.create("b1", generation=0)


async def size(sandbox: Sandbox, path: str) -> int:
    entry = await sandbox.stat(path)
    return entry.size if entry is not None else 0


def sh(call_id: str, command: str, **more: object) -> CallSpec:
    return CallSpec(call_id, ["bash", "-c", command], **more)


async def test_a_call_is_run_and_both_outputs_are_kept(sandbox: Sandbox) -> None:
    assert (await sandbox.call_status("b1/1/0")).state == "unknown"
    await sandbox.start_call(sh("b1/1/0", "pwd; echo $WORD; echo oops >&2; exit 5", env={"WORD": "hey"}))
    done = await sandbox.wait_call("b1/1/0", wait_s=20)
    assert (done.state, done.exit_code, done.timed_out) == ("finished", 5, False)
    assert await sandbox.read_output("b1/1/0", "out") == b"/home/user/workspace\nhey\n"
    assert await sandbox.read_output("b1/1/0", "err") == b"oops\n"


async def test_the_same_call_started_again_is_not_run_again(sandbox: Sandbox) -> None:
    spec = sh("b1/1/0", "echo line >> log; sleep 0.3")
    await asyncio.gather(*(sandbox.start_call(spec) for _ in range(5)))
    assert (await sandbox.wait_call("b1/1/0", wait_s=20)).state == "finished"
    assert (await sandbox.start_call(spec)).state == "finished"
    assert await sandbox.read_file("log") == b"line\n"


async def test_another_process_finds_the_sandbox_and_its_running_call(
    sandbox: Sandbox, again: Callable[[], SandboxDriver]
) -> None:
    await sandbox.start_call(sh("b1/1/0", "echo begun; while [ ! -e go ]; do sleep 0.02; done; echo done"))
    found = await again().connect(sandbox.id)
    assert (await found.call_status("b1/1/0")).state == "running"
    await found.write_file("go", b"")
    assert (await found.wait_call("b1/1/0", wait_s=20)).exit_code == 0
    assert await found.read_output("b1/1/0", "out") == b"begun\ndone\n"


async def test_a_timeout_and_a_stop_end_the_whole_group(sandbox: Sandbox) -> None:
    command = "sleep 77 & (setsid sleep 77 &) ; sleep 77 & wait"
    await sandbox.start_call(sh("b1/1/0", f"trap '' TERM; {command}", timeout_s=0.3))
    late = await sandbox.wait_call("b1/1/0", wait_s=20)
    assert (late.state, late.timed_out, late.stopped) == ("finished", True, False)
    await sandbox.start_call(sh("b1/1/1", command, timeout_s=None))
    assert (await sandbox.stop_call("b1/1/1")).stopped
    await sandbox.start_call(sh("b1/1/2", "cat /proc/[0-9]*/comm | grep -cx sleep"))
    await sandbox.wait_call("b1/1/2", wait_s=20)
    assert await sandbox.read_output("b1/1/2", "out") == b"0\n"


async def test_background_processes_run_on_after_the_call_ends(sandbox: Sandbox) -> None:
    await sandbox.start_call(
        sh("b1/1/0", "(while true; do echo x; sleep 0.05; echo x >> ticks; done) & echo back")
    )
    done = await sandbox.wait_call("b1/1/0", wait_s=10)
    assert done.exit_code == 0
    before = await size(sandbox, "ticks")

    async def goes_on() -> bool:
        return await size(sandbox, "ticks") > before + 4

    await eventually(goes_on)


async def test_output_is_bounded_and_keeps_its_end(sandbox: Sandbox) -> None:
    await sandbox.start_call(sh("b1/1/0", "yes | head -c 5000000; echo THE END", output_limit=100_000))
    await sandbox.wait_call("b1/1/0", wait_s=30)
    out = await sandbox.read_output("b1/1/0", "out", limit=1 << 22)
    assert len(out) < 500_000
    assert out.startswith(b"y\ny\n")
    assert out.endswith(b"THE END\n")
    note = re.search(rb"\n\[\.\.\. (\d+) bytes were not kept \.\.\.\]\n", out)
    assert note
    assert len(out) - len(note[0]) + int(note[1]) == 5_000_008, "no byte is neither kept nor counted"


async def test_binary_output_and_files_come_back_as_they_were(sandbox: Sandbox) -> None:
    blob = os.urandom(700_000)
    await sandbox.write_file("deep/er/blob", blob)
    assert await sandbox.read_file("deep/er/blob") == blob
    assert await sandbox.read_file("deep/er/blob", offset=600_000, limit=50_000) == blob[600_000:650_000]
    await sandbox.start_call(sh("b1/1/0", "cat deep/er/blob"))
    await sandbox.wait_call("b1/1/0", wait_s=20)
    assert await sandbox.read_output("b1/1/0", "out") == blob


async def test_file_operations_are_refused_with_their_reason(sandbox: Sandbox) -> None:
    await sandbox.write_file("a/run.sh", b"#!/bin/sh\n", mode=0o755)
    assert await sandbox.stat("nothing") is None
    assert (await sandbox.stat("a/run.sh")).mode == 0o755  # type: ignore[union-attr]
    await sandbox.write_file("a/run.sh", b"#!/bin/sh\necho\n")
    assert (await sandbox.stat("a/run.sh")).mode == 0o755, "an edit keeps the mode"  # type: ignore[union-attr]
    for path, kind in (
        ("none", "not_found"),
        ("a", "is_directory"),
        ("../x", "outside"),
        ("/etc/hosts", "outside"),
    ):
        with pytest.raises(FileRefused) as refused:
            await sandbox.read_file(path)
        assert refused.value.kind == kind, path
    await sandbox.remove("a")
    await sandbox.remove("a")
    assert [entry.path for entry in await sandbox.list_tree()] == ["."]


async def test_a_refused_write_has_a_reason_whatever_its_size(sandbox: Sandbox) -> None:
    for size in (1, 3_000_000):
        with pytest.raises(FileRefused) as refused:
            await sandbox.write_file("../x", b"x" * size)
        assert refused.value.kind == "outside", size


async def test_a_tree_is_listed_exported_and_imported(sandbox: Sandbox, driver: SandboxDriver) -> None:
    await sandbox.start_call(
        sh(
            "b1/1/0",
            "mkdir -p d/e skip; echo 1 > d/one; echo 2 > skip/two; ln -s ../d/one d/link; mkfifo pipe",
        )
    )
    await sandbox.wait_call("b1/1/0", wait_s=20)
    listed = {entry.path: entry for entry in await sandbox.list_tree(exclude=["skip/"])}
    assert sorted(listed) == [".", "d", "d/e", "d/link", "d/one", "pipe"]
    assert listed["d/link"].target == "../d/one"
    assert listed["pipe"].kind == "other"
    assert listed["d/one"].digest is not None

    [block] = [block async for block in sandbox.export_files(1, ["d/one", "gone", "pipe", "d"])]
    assert ([(part.path, part.problem is None) for part in block.parts], block.data) == (
        [("d/one", True), ("gone", False), ("pipe", False), ("d", False)],
        b"1\n",
    )

    other = await driver.create("b2", generation=0)

    async def files() -> AsyncIterator[ExportedFile]:
        yield ExportedFile(Entry("d", "directory", mode=0o555))
        yield ExportedFile(Entry("d/one", "file", mode=0o640, size=600_000), b"1\n" * 300_000)
        yield ExportedFile(Entry("d/link", "symlink", target="/nowhere"))

    assert (await other.import_files(files())).count == 3
    assert {
        (e.path, e.kind, e.mode & 0o777 if e.kind != "symlink" else 0) for e in await other.list_tree()
    } == {
        (".", "directory", 0o755),
        ("d", "directory", 0o555),
        ("d/one", "file", 0o640),
        ("d/link", "symlink", 0),
    }


async def test_a_file_without_read_permission_is_exported_too(
    sandbox: Sandbox, driver: SandboxDriver
) -> None:
    await sandbox.write_file("locked", b"secret")
    await sandbox.start_call(sh("b1/1/0", "chmod 000 locked"))
    await sandbox.wait_call("b1/1/0", wait_s=20)
    [_, listed] = await sandbox.list_tree()
    assert (listed.mode, listed.size, listed.digest is None) == (0, 6, False)
    [block] = [block async for block in sandbox.export_files(1, ["locked"])]
    assert block.data == b"secret"
    other = await driver.create("b2", generation=0)

    async def files() -> AsyncIterator[ExportedFile]:
        yield ExportedFile(listed, block.data)

    await other.import_files(files())
    [_, back] = await other.list_tree()
    assert (back.mode, back.digest) == (0, listed.digest)


async def test_an_import_never_goes_through_a_symlink(sandbox: Sandbox) -> None:
    async def through() -> AsyncIterator[ExportedFile]:
        yield ExportedFile(Entry("out", "symlink", target="/home/user"))
        yield ExportedFile(Entry("out/escaped", "file", mode=0o644, size=1), b"1")

    assert list((await sandbox.import_files(through())).refused) == ["out/escaped"]
    await sandbox.start_call(sh("b1/1/0", "ls /home/user"))
    await sandbox.wait_call("b1/1/0", wait_s=20)
    assert b"escaped" not in await sandbox.read_output("b1/1/0", "out")


async def test_notes_and_writes_of_a_call_happen_once(sandbox: Sandbox) -> None:
    assert await sandbox.note("b1/1/0") is None
    assert await sandbox.note("b1/1/0", "first") == "first"
    assert await sandbox.note("b1/1/0", "second") == "first"
    await sandbox.write_file("f", b"old", once="b1/1/1")
    await sandbox.write_file("f", b"newer", once="b1/1/2")
    await sandbox.write_file("f", b"old", once="b1/1/1")
    assert await sandbox.read_file("f") == b"newer"


async def test_create_finds_what_was_made_before(
    driver: SandboxDriver, again: Callable[[], SandboxDriver]
) -> None:
    first = await driver.create("b1", generation=3, metadata={"project": "p"})
    assert (await again().create("b1", generation=3, metadata={"project": "p"})).id == first.id
    second = await again().create("b1", generation=4, metadata={"project": "p"})
    assert second.id != first.id
    listed = {info.sandbox_id: info for info in await again().list()}
    assert set(listed) == {first.id, second.id}
    assert listed[first.id].metadata["build"] == "b1"
    assert listed[first.id].metadata["generation"] == "3"


async def test_pause_keeps_what_runs_and_connect_resumes(driver: SandboxDriver, sandbox: Sandbox) -> None:
    await sandbox.start_call(sh("b1/1/0", "while true; do echo x >> ticks; sleep 0.02; done", timeout_s=None))
    await eventually(lambda: size(sandbox, "ticks"))
    await sandbox.pause()
    assert [info.state for info in await driver.list()] == ["paused"]
    back = await driver.connect(sandbox.id)
    assert [info.state for info in await driver.list()] == ["running"]
    before = await size(back, "ticks")

    async def goes_on() -> bool:
        return await size(back, "ticks") > before

    await eventually(goes_on)


async def test_a_killed_sandbox_is_gone_for_every_process(driver: SandboxDriver, sandbox: Sandbox) -> None:
    assert await sandbox.alive()
    await driver.kill(sandbox.id)
    await driver.kill(sandbox.id)
    assert not await sandbox.alive()
    assert await driver.list() == []
    with pytest.raises(SandboxGone):
        await driver.connect(sandbox.id)
    with pytest.raises(SandboxGone):
        await sandbox.read_file("x")
    with pytest.raises(SandboxGone):
        await driver.connect("no-such-sandbox")


async def test_searches_give_files_lines_and_notes(sandbox: Sandbox) -> None:
    await sandbox.write_file("app/[id]/page.tsx", b"import a\nimport b\n")
    await sandbox.write_file("node_modules/m.tsx", b"import c\n")
    files = await sandbox.glob("app/[id]/*.tsx", limit=5)
    assert ([one.path for one in files.entries], files.total) == (["app/[id]/page.tsx"], 1)
    lines = await sandbox.grep(GrepQuery("import a", 1, globs=["*.tsx"], after=1))
    assert [(one.line, one.text, one.context) for one in lines.rows] == [
        (1, "import a", False),
        (2, "import b", True),
    ]
    assert not lines.more
    assert lines.notes == ["ignored, not searched: node_modules/"]
    assert (await sandbox.grep(GrepQuery("import", 1))).more
    with pytest.raises(FileRefused, match="not a regular expression"):
        await sandbox.grep(GrepQuery("(", 1))


async def test_files_outside_the_workspace_are_read_when_asked(sandbox: Sandbox) -> None:
    await sandbox.write_file("inside", b"1")
    assert await sandbox.read_file("inside", anywhere=True) == b"1"
    assert b"root" in await sandbox.read_file("/etc/passwd", anywhere=True)
    for path in ("/proc/self/environ", "/proc/thread-self/mem", "/dev/zero", "/etc", "/none"):
        with pytest.raises(FileRefused):
            await sandbox.read_file(path, anywhere=True)


async def test_a_long_command_runs_and_git_has_an_identity(sandbox: Sandbox) -> None:
    long = f"#{'x' * 150_000}\necho ran; git init -q; git commit -q --allow-empty -m 1; git log --format='%an %D'"
    await sandbox.start_call(sh("b1/1/0", long))
    await sandbox.wait_call("b1/1/0", wait_s=20)
    assert await sandbox.read_output("b1/1/0", "out") == b"ran\nNightshift HEAD -> main\n"


async def test_long_output_is_in_a_file_that_commands_can_read(sandbox: Sandbox) -> None:
    status = await sandbox.run_call(sh("b1/1/0", "seq 20000"), wait_s=20)
    status = await sandbox.run_call(
        sh("b1/1/1", f"tail -1 {status.folder}/out; wc -l < {status.folder}/out"), wait_s=20
    )
    assert status.output == (b"20000\n20000\n", b"")


async def test_a_look_gives_what_came_since_the_look_before(sandbox: Sandbox) -> None:
    """A look that is repeated, as after a crash before its result was written, starts where it started before."""
    script = "echo one; echo bad >&2; while [ ! -e go ]; do sleep 0.02; done; echo two; sleep 60"
    await sandbox.start_call(CallSpec("b/1/0", ["bash", "-c", script], timeout_s=None))

    async def look(reader: str) -> tuple[bytes, bytes]:
        status = await sandbox.new_output("b/1/0", reader=reader)
        assert (status.state, status.output is not None) == ("running", True)
        return status.output or (b"", b"")

    async def begun() -> bool:
        return await sandbox.read_output("b/1/0", "err") == b"bad\n"

    await eventually(begun)
    assert await look("b/2/0") == (b"one\n", b"bad\n")
    assert await look("b/2/0") == (b"one\n", b"bad\n")
    assert await look("b/2/1") == (b"", b"")
    await sandbox.write_file("go", b"")

    async def second() -> bool:
        return await look("b/3/0") == (b"two\n", b"")

    await eventually(second)
    await sandbox.stop_call("b/1/0", grace_s=0)
    ended = await sandbox.new_output("b/1/0", reader="b/4/0")
    assert (ended.state, ended.stopped, ended.output) == ("finished", True, (b"", b""))
    assert (await sandbox.new_output("b/9/9", reader="b/4/1")).state == "unknown"
    used = await sandbox.usage()
    assert 0 < used.free_bytes <= used.bytes
    assert 0 < used.free_files <= used.files
