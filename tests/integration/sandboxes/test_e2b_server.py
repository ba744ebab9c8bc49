"""The stand-in for E2B answers the official Python client as E2B does.

`make test-envd ENVD=PROGRAM` runs the same tests with E2B's own envd inside the sandboxes.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import (
    AsyncSandbox,
    AuthenticationException,
    CommandExitException,
    InvalidArgumentException,
    NotFoundException,
    SandboxException,
    SandboxNotFoundException,
    SandboxQuery,
    SandboxState,
    TimeoutException,
)
from tests.support.e2b_server import E2BServer
from tests.support.waiting import eventually

_REFERENCE = os.environ.get("NIGHTSHIFT_ENVD")


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[E2BServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    reference = Path(_REFERENCE) if _REFERENCE else None
    async with E2BServer(tmp_path / "e2b", reference=reference) as running:
        yield running


def api(server: E2BServer) -> dict[str, Any]:
    return {"api_key": "e2b_" + "0" * 40, "api_url": server.url, "sandbox_url": server.url}


@pytest.fixture
async def box(server: E2BServer) -> AsyncSandbox:
    return await AsyncSandbox.create(
        timeout=300, envs={"GIVEN": "at create"}, metadata={"build": "b1"}, **api(server)
    )


async def test_uploads_as_forms_and_as_bytes_store_the_file(box: AsyncSandbox) -> None:
    await box.files.write("form", b"\x00\xff one", use_octet_stream=False)
    await box.files.write("bytes", b"\x00\xff two", use_octet_stream=True)
    assert await box.files.read("form", format="bytes") == b"\x00\xff one"
    assert await box.files.read("bytes", format="bytes") == b"\x00\xff two"


async def test_several_files_go_in_one_upload(box: AsyncSandbox) -> None:
    written = await box.files.write_files([{"path": "deep/a", "data": "1"}, {"path": "/tmp/z", "data": "2"}])
    assert [one.path for one in written] == ["/home/user/deep/a", "/tmp/z"]
    assert (await box.commands.run("cat deep/a /tmp/z")).stdout == "12"


async def test_the_end_by_a_signal_has_the_exit_code_minus_one(box: AsyncSandbox) -> None:
    with pytest.raises(CommandExitException) as raised:
        await box.commands.run("kill -9 $$")
    assert (raised.value.exit_code, raised.value.error) == (-1, "signal: killed")
    with pytest.raises(CommandExitException) as failed:
        await box.commands.run("echo out; echo err >&2; exit 3")
    assert (failed.value.exit_code, failed.value.stdout, failed.value.stderr) == (3, "out\n", "err\n")


async def test_a_missing_working_directory_is_an_invalid_argument(box: AsyncSandbox) -> None:
    with pytest.raises(InvalidArgumentException, match="cwd '/nowhere' does not exist"):
        await box.commands.run("true", cwd="/nowhere")


async def test_environment_and_metadata_of_create_are_kept(server: E2BServer, box: AsyncSandbox) -> None:
    told = (await box.commands.run("echo $GIVEN $OWN $HOME $USER; pwd", envs={"OWN": "of the call"})).stdout
    assert told == "at create of the call /home/user user\n/home/user\n"
    await box.pause()
    pages = AsyncSandbox.list(
        query=SandboxQuery(metadata={"build": "b1"}, state=[SandboxState.RUNNING]), **api(server)
    )
    assert await pages.next_items() == []
    pages = AsyncSandbox.list(query=SandboxQuery(state=[SandboxState.PAUSED]), **api(server))
    assert [one.sandbox_id for one in await pages.next_items()] == [box.sandbox_id]


async def test_a_sandbox_ends_with_its_timeout_unless_extended(server: E2BServer) -> None:
    short = await AsyncSandbox.create(timeout=1, **api(server))
    longer = await AsyncSandbox.create(timeout=1, **api(server))
    await longer.set_timeout(60)
    await eventually(lambda: short.sandbox_id not in server.boxes)
    assert await longer.is_running()
    assert not await short.is_running()


async def test_a_second_pause_says_already_paused(box: AsyncSandbox) -> None:
    assert await box.pause()
    assert not await box.pause()


async def test_output_comes_while_the_command_runs(box: AsyncSandbox) -> None:
    seen: list[tuple[str, float]] = []
    began = time.monotonic()
    await box.commands.run(
        "echo first; sleep 1; echo last", on_stdout=lambda text: seen.append((text, time.monotonic() - began))
    )
    assert [text for text, _ in seen] == ["first\n", "last\n"]
    assert seen[1][1] - seen[0][1] > 0.5


async def test_a_directory_is_not_read_as_a_file(box: AsyncSandbox) -> None:
    await box.files.make_dir("folder")
    with pytest.raises(InvalidArgumentException, match="is a directory"):
        await box.files.read("folder")
    with pytest.raises(NotFoundException, match="does not exist"):
        await box.files.read("absent")


async def test_files_are_described_listed_made_moved_and_removed(box: AsyncSandbox) -> None:
    assert await box.files.make_dir("one/two")
    assert not await box.files.make_dir("one/two")
    await box.files.write("one/two/f", "four")
    await box.commands.run("ln -s two/f one/link && chmod 640 one/two/f")
    listed = await box.files.list("one", depth=2)
    assert sorted((one.path, one.type.value) for one in listed if one.type) == [
        ("/home/user/one/link", "file"),
        ("/home/user/one/two", "dir"),
        ("/home/user/one/two/f", "file"),
    ]
    info = await box.files.get_info("one/two/f")
    assert (info.size, info.mode, info.owner) == (4, 0o640, "user")
    assert (await box.files.get_info("one/link")).symlink_target == "/home/user/one/two/f"
    await box.files.rename("one/two/f", "one/g")
    assert await box.files.read("one/g") == "four"
    await box.files.remove("one")
    assert not await box.files.exists("one")


async def test_processes_are_listed_fed_and_killed(box: AsyncSandbox) -> None:
    handle = await box.commands.run("cat", background=True, stdin=True)
    [found] = [one for one in await box.commands.list() if one.pid == handle.pid]
    assert found.args == ["-l", "-c", "cat"]
    await box.commands.send_stdin(handle.pid, "typed\n")
    await eventually(lambda: handle.stdout == "typed\n")
    assert await box.commands.kill(handle.pid)
    with pytest.raises(CommandExitException) as raised:
        await handle.wait()
    assert raised.value.error == "signal: killed"
    assert not await box.commands.kill(handle.pid)


async def test_a_second_client_connects_to_a_running_process(server: E2BServer, box: AsyncSandbox) -> None:
    handle = await box.commands.run("sleep 1; echo late", background=True)
    other = await AsyncSandbox.connect(box.sandbox_id, timeout=300, **api(server))
    joined = await other.commands.connect(handle.pid)
    assert (await joined.wait()).stdout == "late\n"


async def test_a_command_ends_at_its_timeout(box: AsyncSandbox) -> None:
    with pytest.raises(TimeoutException):
        await box.commands.run("sleep 60", timeout=1)
    await eventually(lambda: _none_running(box))


async def _none_running(box: AsyncSandbox) -> bool:
    return not await box.commands.list()


async def test_calls_without_the_access_token_are_refused(server: E2BServer, box: AsyncSandbox) -> None:
    headers = {"E2b-Sandbox-Id": box.sandbox_id}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False) as stranger:
        assert (await stranger.get("/health")).status_code == 204
        listed = await stranger.post("/process.Process/List", json={})
        assert listed.status_code == 401
        assert (await stranger.get("/files", params={"path": "/etc/passwd"})).status_code == 401
        signed = box.download_url("/etc/passwd", user="user")
        assert (await stranger.get(signed)).status_code == 200
        assert (await stranger.get(signed.replace("passwd", "group"))).status_code == 401


async def test_an_unknown_key_id_or_template_is_refused(server: E2BServer) -> None:
    with pytest.raises(SandboxException, match="Invalid sandbox ID"):
        await AsyncSandbox.connect("no-such-sandbox", **api(server))
    with pytest.raises(SandboxNotFoundException):
        await AsyncSandbox.connect("i0123456789", **api(server))
    with pytest.raises(SandboxException, match="'no-template' not found"):
        await AsyncSandbox.create(template="no-template", **api(server))
    with pytest.raises(SandboxException, match="greater than 24 hours"):
        await AsyncSandbox.create(timeout=25 * 3600, **api(server))
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as stranger:
        assert (await stranger.get("/v2/sandboxes")).status_code == 401


async def test_a_paused_sandbox_resumes_with_its_processes(server: E2BServer, box: AsyncSandbox) -> None:
    handle = await box.commands.run("sleep 1; echo woke > woke", background=True, timeout=0)
    await box.pause()
    await asyncio.sleep(1.5)
    assert not await box.is_running()
    resumed = await AsyncSandbox.connect(box.sandbox_id, timeout=300, **api(server))
    await eventually(lambda: resumed.files.exists("woke"))
    assert handle.pid > 0


async def test_an_unknown_user_is_refused(box: AsyncSandbox) -> None:
    with pytest.raises(AuthenticationException):
        await box.commands.run("true", user="nobody-here")
