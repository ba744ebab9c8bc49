"""Writes a folder as a zip file that keeps modes and symlinks."""

import os
import stat
import zipfile
from datetime import UTC, datetime
from pathlib import Path

from nightshift.eventlog.errors import Refused

#: The earliest and the latest time that a zip file can state.
_FIRST, _LAST = (1980, 1, 1, 0, 0, 0), (2107, 12, 31, 23, 59, 58)


def write_zip(folder: Path, file: Path) -> None:
    """Write everything below `folder` to a new zip file. Raises Refused when the file exists or cannot be written."""
    try:
        with file.open("xb") as target, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob("*")):
                _add(archive, path, str(path.relative_to(folder)))
    except FileExistsError:
        raise Refused(f"{file} exists", hint="name a file that does not exist yet") from None
    except OSError as error:
        raise Refused(f"{file} cannot be written: {error.strerror}") from error


def _add(archive: zipfile.ZipFile, path: Path, name: str) -> None:
    info = path.lstat()
    if not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode) or stat.S_ISLNK(info.st_mode)):
        return
    entry = zipfile.ZipInfo(name + ("/" if stat.S_ISDIR(info.st_mode) else ""), _date(info.st_mtime))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (info.st_mode & 0xFFFF) << 16
    if stat.S_ISREG(info.st_mode):
        with path.open("rb") as source, archive.open(entry, "w", force_zip64=info.st_size >= 2**31) as target:
            while part := source.read(1 << 20):
                target.write(part)
    else:
        archive.writestr(entry, os.readlink(path) if stat.S_ISLNK(info.st_mode) else "")


def _date(seconds: float) -> tuple[int, int, int, int, int, int]:
    """Return the UTC date of a time since 1970, moved into the range that a zip file can state."""
    given = datetime.fromtimestamp(seconds, UTC)
    return min(
        max((given.year, given.month, given.day, given.hour, given.minute, given.second), _FIRST), _LAST
    )
