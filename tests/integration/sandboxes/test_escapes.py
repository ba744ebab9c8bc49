"""What hostile code tries in a local sandbox, and what it gets."""

import asyncio
import contextlib
import http.server
import os
import platform
import socket
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import httpx
import pytest
from tests.support.waiting import eventually

from nightshift.sandboxes.agent.process_tree import descendants
from nightshift.sandboxes.errors import FileRefused, NoSandboxHere, PortRefused, SandboxUnavailable
from nightshift.sandboxes.local import seccomp
from nightshift.sandboxes.local.driver import LocalDriver
from nightshift.sandboxes.local.settings import LocalSettings, SandboxLimits, python_home
from nightshift.sandboxes.port import CallSpec, Sandbox


@pytest.fixture
async def sandbox(local: LocalDriver) -> Sandbox:
    return await local.create("hostile", generation=0)


async def said(sandbox: Sandbox, command: str, *, number: int = 0, timeout_s: float = 20) -> str:
    call_id = f"b/1/{number}"
    await sandbox.start_call(CallSpec(call_id, ["bash", "-c", command], timeout_s=timeout_s))
    await sandbox.wait_call(call_id, wait_s=timeout_s + 20)
    out = await sandbox.read_output(call_id, "out")
    return (out + await sandbox.read_output(call_id, "err")).decode()


_HOST_FILES = """
for path in /etc/shadow /root/.ssh /root/.bashrc /home /var/lib /var/run/docker.sock /run /sys /boot /proc/kcore \
    /proc/1/root/etc/shadow /proc/self/root/root/.bashrc /dev/sda /dev/vda /dev/mem /dev/kmsg; do
  if [ -d "$path" ]; then for f in $(ls -A "$path" 2>/dev/null); do echo "SEEN $path/$f"; done
  elif head -c 1 "$path" >/dev/null 2>&1; then echo "READ $path"; fi
done
"""


async def test_host_files_cannot_be_seen(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "host-secret").write_text("canary")
    output = await said(
        sandbox, _HOST_FILES + f"cat {tmp_path}/host-secret; grep -r canary /tmp /home 2>/dev/null"
    )
    lines = [line for line in output.splitlines() if line.startswith(("SEEN", "READ")) or "canary" in line]
    # The way to the interpreter may be seen, with nothing beside it.
    allowed = {"SEEN /home/user", "SEEN /run/nightshift"} | {
        f"SEEN {part}" for part in [python_home(), *python_home().parents]
    }
    assert set(lines) <= allowed


async def test_nothing_but_home_and_tmp_can_be_written(sandbox: Sandbox) -> None:
    output = await said(
        sandbox,
        "for d in / /usr /usr/bin /etc /opt /opt/nightshift/agent /dev /proc/sys/kernel /var /home; do"
        " (echo x > $d/probe) 2>/dev/null && echo WROTE $d; done;"
        " echo '|/tmp/x' > /proc/sys/kernel/core_pattern && echo WROTE core_pattern;"
        " (echo x > ~/ok) && (echo x > /tmp/ok) && echo home and tmp",
    )
    assert [line for line in output.splitlines() if line.startswith("WROTE")] == []
    assert "home and tmp" in output


@pytest.fixture
def host_server() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


_CONNECT = """
import socket, sys
for host, port in (("127.0.0.1", {port}), ("localhost", {port}), ("::1", {port}), ("169.254.169.254", 80),
                   ("1.1.1.1", 53), ("10.0.0.1", 22), ("fe80::1", 80)):
    try:
        socket.create_connection((host, port), timeout=2).close(); print("REACHED", host)
    except OSError as error: pass
for family, kind in ((socket.AF_PACKET, socket.SOCK_RAW), (socket.AF_INET, socket.SOCK_RAW), (40, socket.SOCK_STREAM)):
    try: socket.socket(family, kind).close(); print("REACHED family", family)
    except OSError: pass
try: socket.getaddrinfo("random-label.example.com", 80); print("REACHED dns")
except OSError: pass
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try: udp.sendto(b"x", ("1.1.1.1", 53)); print("REACHED udp")
except OSError: pass
abstract = socket.socket(socket.AF_UNIX)
try: abstract.connect({abstract!r}); print("REACHED abstract")
except OSError: pass
print("tried")
"""


async def test_no_network_reaches_anything(sandbox: Sandbox, host_server: int) -> None:
    name = f"\0nightshift-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(name)
        abstract.listen()
        await sandbox.write_file("try.py", _CONNECT.format(port=host_server, abstract=name).encode())
        output = await said(sandbox, "python3 try.py")
    assert "tried" in output
    assert "REACHED" not in output, output


async def test_host_processes_are_neither_seen_nor_killed(sandbox: Sandbox) -> None:
    output = await said(
        sandbox,
        f"ls /proc | grep -c '^[0-9]*$'; kill -9 {os.getpid()} 2>&1; kill -9 1; sleep 0.1; echo alive;"
        f" ls -l /proc/1/fd 2>&1 | grep -c socket",
    )
    assert int(output.splitlines()[0]) < 20
    assert "alive" in output
    assert await sandbox.alive()


_FORBIDDEN = """
import ctypes, fcntl, os, platform
libc = ctypes.CDLL(None, use_errno=True)
numbers = {numbers}
for name, number in numbers.items():
    result = libc.syscall(number, 0, 0, 0, 0, 0)
    errno = ctypes.get_errno()
    print(name, "ALLOWED" if result >= 0 or errno not in (1, 38) else "refused")
for request in (0x5412, 0x541C):
    try: fcntl.ioctl(0, request, b"x"); print("tty ALLOWED")
    except OSError as error: print("tty", "refused" if error.errno == 1 else "ALLOWED %s" % error)
print("clone", "ALLOWED" if libc.syscall({clone}, 0x10000000, 0, 0, 0, 0) >= 0 else "refused")
"""


async def test_dangerous_system_calls_are_refused(sandbox: Sandbox) -> None:
    column = 0 if platform.machine() == "x86_64" else 1
    numbers = {name: pair[column] for name, pair in seccomp._DENIED.items()}
    program = _FORBIDDEN.format(numbers=numbers, clone=seccomp._CLONE[platform.machine()])
    await sandbox.write_file("try.py", program.encode())
    output = await said(
        sandbox, "python3 try.py; unshare -U true && echo ALLOWED unshare; unshare -r id && echo ALLOWED"
    )
    assert output.count("refused") == len(numbers) + 3, output
    assert "ALLOWED" not in output, output


async def test_no_capability_and_no_way_to_gain_one(sandbox: Sandbox) -> None:
    output = await said(
        sandbox, "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp:' /proc/self/status; ulimit -c; id -u"
    )
    assert all(line.split()[1].strip("0") == "" for line in output.splitlines() if line.startswith("Cap"))
    assert "NoNewPrivs:\t1" in output
    assert "Seccomp:\t2" in output
    assert output.splitlines()[-2:] == ["0", "1000"]


async def test_no_handle_of_the_host_is_inherited(sandbox: Sandbox) -> None:
    output = await said(sandbox, "ls -l /proc/self/fd")
    targets = {line.split(" -> ")[1] for line in output.splitlines() if " -> " in line}
    assert all(target.startswith(("/dev/null", "pipe:", "/proc/")) for target in targets), targets


async def test_a_fork_bomb_is_bounded_and_the_sandbox_lives_on(tmp_path: Path) -> None:
    driver = LocalDriver(LocalSettings(tmp_path / "bombs", limits=SandboxLimits(processes=40)))
    sandbox = await driver.create("bomb", generation=0)
    try:
        await sandbox.start_call(
            CallSpec("b/1/0", ["bash", "-c", "f() { f | f & }; f; sleep 100"], timeout_s=None)
        )
        place = driver._directory(sandbox.id)

        async def stopped() -> bool:
            with contextlib.suppress(SandboxUnavailable):  # there may be no room for the agent's own process
                return (await sandbox.stop_call("b/1/0")).state != "running"
            return False

        first = place.first().pid
        await eventually(lambda: len(descendants(first)) >= 30)
        assert max(len(descendants(first)) for _ in range(50)) <= 42
        await eventually(stopped, timeout=30)
        assert "here" in await said(sandbox, "echo here", number=1)
    finally:
        await sandbox.kill()


_FILLS = """
import os, time
while True:
    try:
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", "600"])
    except OSError:
        time.sleep(0.01)
"""


async def test_processes_that_fill_the_sandbox_do_not_block_it_for_ever(tmp_path: Path) -> None:
    """Its processes fill the sandbox, and the call that began them has ended long ago."""
    driver = LocalDriver(LocalSettings(tmp_path / "crowded", limits=SandboxLimits(processes=40)))
    sandbox = await driver.create("crowded", generation=0)
    try:
        await sandbox.write_file("file", b"kept")
        await sandbox.write_file("fills.py", _FILLS.encode())
        await sandbox.start_call(CallSpec("b/1/0", ["bash", "-c", "setsid python3 fills.py &"], timeout_s=20))
        first = driver._directory(sandbox.id).first().pid
        await eventually(lambda: len(descendants(first)) >= 36)

        async def works() -> bool:
            with contextlib.suppress(SandboxUnavailable, FileRefused):
                return "kept" in await said(sandbox, "cat file", number=1)
            return False

        await eventually(works, timeout=40)
        await said(sandbox, "kill -9 -1", number=2)
        await eventually(lambda: len(descendants(first)) < 10)
        assert "5" in await said(sandbox, "seq 5 | wc -l", number=3)
    finally:
        await sandbox.kill()


async def test_memory_and_files_are_bounded(tmp_path: Path) -> None:
    limits = SandboxLimits(memory_bytes=300 * 1024**2, file_bytes=5 * 1024**2, tmp_bytes=4 * 1024**2)
    driver = LocalDriver(LocalSettings(tmp_path / "small", limits=limits))
    sandbox = await driver.create("small", generation=0)
    try:
        output = await said(
            sandbox,
            "python3 -c 'x = bytearray(600 << 20)' 2>&1 | tail -1; head -c 9000000 /dev/zero > big; stat -c %s big;"
            " head -c 9000000 /dev/zero > /tmp/big; stat -c %s /tmp/big; head -c 9000000 /dev/zero > /dev/shm/big;"
            " stat -c %s /dev/shm/big",
        )
        assert "MemoryError" in output
        sizes = [int(line) for line in output.splitlines() if line.isdigit()]
        assert len(sizes) == 3
        assert all(size <= 5 * 1024**2 for size in sizes)
    finally:
        await sandbox.kill()


async def test_a_swapper_cannot_lead_a_write_out_of_the_workspace(sandbox: Sandbox) -> None:
    """The file tools against a process that flips a directory and a symlink as fast as it can."""
    await said(sandbox, "mkdir real; mkdir /home/user/outside")
    swap = (
        "import os, shutil\n"
        "while True:\n"
        "  os.makedirs('d', exist_ok=True)\n"
        "  try:\n"
        "    os.rename('d', 'x'); os.symlink('/home/user/outside', 'd'); os.unlink('d'); os.rename('x', 'd')\n"
        "  except OSError:  # a write made the directory while there was none\n"
        "    shutil.rmtree('x', ignore_errors=True)\n"
    )
    await sandbox.write_file("swap.py", swap.encode())
    await sandbox.start_call(CallSpec("b/2/0", ["python3", "swap.py"], timeout_s=None))

    refused = []

    async def write(number: int) -> None:
        for turn in count():
            if turn >= 25 and refused:
                return
            try:
                await sandbox.write_file(f"d/f{number}-{turn}", b"x")
            except FileRefused as error:
                refused.append(error)

    await asyncio.gather(*(write(number) for number in range(8)))
    await sandbox.stop_call("b/2/0")
    assert refused, "the swapper was met on its way"
    assert (await said(sandbox, "ls -A /home/user/outside", number=9)).strip() == ""


async def test_a_preview_shows_the_port_inside_and_ends_with_its_sandbox(
    local: LocalDriver, sandbox: Sandbox
) -> None:
    await sandbox.write_file("index.html", b"hello from inside")
    serve = ["python3", "-m", "http.server", "8000", "--bind", "127.0.0.1"]
    with pytest.raises(PortRefused):
        await sandbox.open_port(8000)
    assert not (local._directory(sandbox.id).path / "previews.json").exists(), (
        "a closed port costs no process"
    )
    await sandbox.start_call(CallSpec("b/1/0", serve, timeout_s=None))

    async def opened() -> str:
        with contextlib.suppress(PortRefused):
            return await sandbox.open_port(8000)
        return ""

    url = await eventually(opened)
    again = await LocalDriver(local._settings).connect(sandbox.id)
    assert await again.open_port(8000) == url, "the same address, also for another gateway"
    async with httpx.AsyncClient(trust_env=False) as client:

        async def body() -> str:
            try:
                return (await client.get(url)).text
            except httpx.HTTPError:
                return ""

        await eventually(body)
        assert await body() == "hello from inside"
        await sandbox.kill()
        with pytest.raises(httpx.TransportError):
            await client.get(url)


def refusing_bwrap(folder: Path) -> Path:
    folder.chmod(0o755)
    fake = folder / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    fake.chmod(0o755)
    return fake


async def test_without_user_namespaces_the_error_says_what_to_do(tmp_path: Path) -> None:
    driver = LocalDriver(LocalSettings(tmp_path / "none", bwrap=refusing_bwrap(tmp_path)))
    with pytest.raises(NoSandboxHere) as refused:
        await driver.create("b1", generation=0)
    assert "uid map: Permission denied" in str(refused.value)
    assert refused.value.hint
    assert list((tmp_path / "none").iterdir()) == []
