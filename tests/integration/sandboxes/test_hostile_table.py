"""Attacks of commands on the agent, on other calls, on limits and on the host. Each prints GOT where it succeeds."""

import asyncio
import os
from pathlib import Path

import pytest

from nightshift.sandboxes.local.driver import LocalDriver
from nightshift.sandboxes.local.settings import LocalSettings, SandboxLimits
from nightshift.sandboxes.port import CallSpec, Sandbox

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give the agent a user id of its own")

AGENT = {
    "write_its_memory": "echo x > /proc/1/mem && echo GOT",
    "read_its_memory": "head -c 1 /proc/1/mem && echo GOT",
    "read_its_environment": "cat /proc/1/environ && echo GOT",
    "list_its_files": "ls /proc/1/fd && echo GOT",
    "its_root": "ls /proc/1/root/ && echo GOT",
    "its_working_directory": "ls /proc/1/cwd/ && echo GOT",
    "its_map": "cat /proc/1/maps && echo GOT",
    "its_stack": "cat /proc/1/syscall && echo GOT",
    "its_oom_score": "echo 1000 > /proc/1/oom_score_adj && echo GOT",
    "its_name": "echo x > /proc/1/comm && echo GOT",
    "its_clear_refs": "echo 1 > /proc/1/clear_refs && echo GOT",
    "its_cgroup": "echo 1 > /proc/1/cgroup && echo GOT",
    "its_id_map": "echo '0 0 1' > /proc/1/uid_map && echo GOT",
    "kill_it": "kill -9 1 && echo GOT",
    "stop_it": "kill -STOP 1 && echo GOT",
    "kill_the_parent": "kill -9 $PPID && echo GOT",
    "limit_its_files": "prlimit --pid 1 --nofile=0 && echo GOT",
    "limit_its_time": "prlimit --pid 1 --cpu=1 && echo GOT",
    "limit_its_processes": "prlimit --pid 1 --nproc=0 && echo GOT",
    "renice_it": "renice -n 19 -p 1 && echo GOT",
    "schedule_it": "chrt --idle -p 0 1 && echo GOT",
    "pin_it": "taskset -p 1 1 && echo GOT",
    "ionice_it": "ionice -c 3 -p 1 && echo GOT",
    "trace_it": "python3 -c 'import ctypes;print(\"GOT\" if ctypes.CDLL(None).ptrace(16,1,0,0)==0 else 1)'",
    "take_its_descriptor": 'python3 -c \'import os;os.open("/proc/1/fd/3",0);print("GOT")\'',
    "write_its_directory": "echo x > /run/nightshift/x && echo GOT",
    "make_a_call_directory": "mkdir -p /run/nightshift/calls/b~9~9 && echo GOT",
    "fifo_for_an_output": "mkdir -p /run/nightshift/calls/b~9~8 && mkfifo /run/nightshift/calls/b~9~8/out && echo GOT",
    "move_its_directory": "mv /run/nightshift /run/x && echo GOT",
    "mount_over_it": "mount -t tmpfs none /run/nightshift && echo GOT",
    "change_its_code": "echo x >> /opt/nightshift/agent/server.py && echo GOT",
    "plant_a_module": "echo x > /opt/nightshift/json.py && echo GOT",
    "plant_bytecode": "touch /opt/nightshift/agent/__pycache__/x.pyc && echo GOT",
    "become_it": "python3 -c 'import os;os.setuid(0);print(\"GOT\")'",
    "become_its_group": "python3 -c 'import os;os.setgid(0);print(\"GOT\")'",
    "give_it_a_file": "touch f && chown 0 f && echo GOT",
    "a_setuid_shell": "cp /bin/bash s && chmod u+s s && ./s -p -c 'id -u' | grep -qx 0 && echo GOT",
    "sudo": "sudo -n id && echo GOT",
    "su": "su -c id </dev/null && echo GOT",
    "its_socket": "find / -xdev -name agent.sock 2>/dev/null | grep -q . && echo GOT",
    "an_abstract_socket": "grep -q agent /proc/net/unix && echo GOT",
}
HOST = {
    "the_kernel_log": "dmesg && echo GOT",
    "kernel_settings": "echo x > /proc/sys/kernel/hostname && echo GOT",
    "core_pattern": "echo '|/x' > /proc/sys/kernel/core_pattern && echo GOT",
    "sysrq": "echo b > /proc/sysrq-trigger && echo GOT",
    "modprobe": "modprobe dummy && echo GOT",
    "a_block_device": "mknod d b 7 0 && echo GOT",
    "a_character_device": "mknod d c 1 1 && echo GOT",
    "the_disk": "ls /dev/vda /dev/sda 2>/dev/null && echo GOT",
    "kvm": "ls /dev/kvm && echo GOT",
    "a_loop_device": "ls /dev/loop-control && echo GOT",
    "cgroups": "ls /sys/fs/cgroup && echo GOT",
    "a_user_namespace": "unshare -U true && echo GOT",
    "a_mount_namespace": "unshare -m true && echo GOT",
    "a_pid_namespace": "unshare -p true && echo GOT",
    "anothers_namespace": "nsenter -t 1 -m true && echo GOT",
    "pivot": "pivot_root / /tmp && echo GOT",
    "chroot": "chroot / true && echo GOT",
    "the_clock": "date -s 2000-01-01 && echo GOT",
    "the_host_name": "hostname evil && echo GOT",
    "swap": "swapon /tmp/x && echo GOT",
    "reboot": "reboot -f && echo GOT",
    "the_docker_socket": "ls /var/run/docker.sock && echo GOT",
    "the_shadow_file": "cat /etc/shadow && echo GOT",
    "the_home_of_root": "ls /root/.ssh && echo GOT",
    "write_below_usr": "touch /usr/bin/x && echo GOT",
    "write_in_etc": "echo x >> /etc/passwd && echo GOT",
    "a_hard_link_to_the_system": "ln /usr/bin/env e && echo GOT",
    "leave_by_dots": "ls ../../../../../../root/.bashrc && echo GOT",
    "other_processes": "[ $(ls -d /proc/[0-9]* | wc -l) -gt 60 ] && echo GOT",
    "raw_sockets": "python3 -c 'import socket;socket.socket(socket.AF_PACKET,socket.SOCK_RAW);print(\"GOT\")'",
    "a_link_of_the_network": "ip link add dummy0 type dummy && echo GOT",
    "vsock": "python3 -c 'import socket;socket.socket(40,socket.SOCK_STREAM);print(\"GOT\")'",
    "keys": "keyctl show && echo GOT",
    "bpf": "python3 -c 'import ctypes;print(\"GOT\" if ctypes.CDLL(None).syscall(321,0,0,0)>=0 else 1)'",
    "io_uring": "python3 -c 'import ctypes;print(\"GOT\" if ctypes.CDLL(None).syscall(425,1,0)>=0 else 1)'",
}
OTHER_CALLS = {
    "stop_all": "kill -STOP -1; true",
    "hang_up_all": "kill -HUP -1; true",
    "forged_mark": "NIGHTSHIFT_CALL_ID=victim/1/0 setsid sleep 60 & true",
    "many_orphans": "for i in $(seq 50); do (setsid sleep 60 &); done; true",
    "a_closed_output": "exec 1>&- 2>&-; true",
    "a_flood_in_the_background": "(yes &) ; true",
    "a_full_pipe": "(sleep 60; echo x) & true",
    "a_fifo_as_a_file": "mkfifo hostile-fifo; true",
    "a_deep_tree": 'python3 -c \'import os\nfor i in range(3000): os.mkdir("d"); os.chdir("d")\'; true',
    "a_forbidden_tree": "mkdir -p forbidden/x; chmod 000 forbidden; true",
    "a_removed_workspace": "cd /; rm -rf ~/workspace; true",
    "ignored_signals": "trap '' TERM INT HUP; (sleep 60 &); true",
}


async def run(sandbox: Sandbox, number: int, command: str, timeout_s: float = 20) -> tuple[str, int | None]:
    spec = CallSpec(f"b/1/{number}", ["bash", "-c", f"{{ {command}\n}} 2>/dev/null"], timeout_s=timeout_s)
    status = await sandbox.run_call(spec, wait_s=timeout_s + 10)
    assert status.state == "finished", command
    out = status.output[0] if status.output is not None else await sandbox.read_output(spec.call_id, "out")
    return out.decode("utf-8", "replace"), status.exit_code


async def test_no_attack_on_the_agent_or_the_host_succeeds(local: LocalDriver) -> None:
    sandbox = await local.create("hostile", generation=0)
    table = list((AGENT | HOST).items())
    succeeded = []
    for start in range(0, len(table), 8):
        part = table[start : start + 8]
        said = await asyncio.gather(
            *(run(sandbox, start + n, command) for n, (_, command) in enumerate(part))
        )
        succeeded += [name for (name, _), (out, _) in zip(part, said, strict=True) if "GOT" in out]
    assert succeeded == []
    assert await run(sandbox, 900, "echo well") == ("well\n", 0)


async def test_no_command_keeps_later_calls_from_their_result(local: LocalDriver) -> None:
    sandbox = await local.create("hostile", generation=0)
    for number, (name, command) in enumerate(OTHER_CALLS.items()):
        await run(sandbox, 100 + number, command)
        assert await run(sandbox, 200 + number, "echo well; exit 3") == ("well\n", 3), name
        await run(sandbox, 300 + number, "kill -CONT -1; true")
    await sandbox.kill()
    assert not local._directory(sandbox.id).path.exists(), "a deep and forbidden tree is removed too"


async def test_all_processes_together_stay_below_the_memory_limit(tmp_path: Path) -> None:
    limits = SandboxLimits(memory_bytes=256 * 1024**2, tmp_bytes=1024**3)
    driver = LocalDriver(LocalSettings(tmp_path / "memory", limits=limits))
    sandbox = await driver.create("memory", generation=0)
    group = driver._cgroups.group(sandbox.id)
    if "memory" not in driver._cgroups.parents:
        pytest.skip("no cgroup for memory here")
    try:
        bombs = (
            "head -c 400M /dev/zero > /dev/shm/x",
            "python3 -c 'import os;f=os.memfd_create(\"x\");[os.write(f,bytes(1<<20)) for _ in range(400)]'",
            "for i in 1 2 3 4; do python3 -c 'x=bytearray(100<<20)' & done; wait",
        )
        for number, bomb in enumerate(bombs):
            await run(sandbox, number, f"{bomb}; rm -f /dev/shm/x")
        assert group.memory_kills() >= 1
        assert await run(sandbox, 50, "echo well") == ("well\n", 0)
    finally:
        await sandbox.kill()


async def test_processes_that_wake_each_other_stay_paused(local: LocalDriver) -> None:
    sandbox = await local.create("pingpong", generation=0)
    ping = "for i in 1 2 3 4; do (while :; do kill -CONT -1; done) & done; sleep 60"
    await sandbox.start_call(CallSpec("b/1/0", ["bash", "-c", ping], timeout_s=None))
    await sandbox.pause()
    first = local._directory(sandbox.id).first()
    assert first is not None

    def used() -> int:
        ticks = 0
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if os.stat(path / "ns/pid").st_ino == first.namespace:
                    fields = (path / "stat").read_text(encoding="latin-1").rpartition(")")[2].split()
                    ticks += int(fields[11]) + int(fields[12])
            except OSError:
                continue
        return ticks

    before = used()
    await asyncio.sleep(0.3)  # the time that is measured
    assert used() - before <= 1
    await (await local.connect(sandbox.id)).kill()
