"""The disk of a local sandbox: an ext4 image of fixed size. So the bytes and the number of files of a home are
limited.

The image is attached to a loop device, which is mounted only in the sandbox's mount namespace. When the sandbox ends,
the kernel unmounts and detaches the image, even when no sandbox gateway runs.
"""

import errno
import fcntl
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Self

#: From linux/loop.h: get the next free number, and set up a device in one call (Linux 5.8).
_GET_FREE, _CONFIGURE = 0x4C82, 0x4C0A
_AUTOCLEAR, _DIRECT_IO = 4, 16
_BLOCK: Final = 4096
_ATTEMPTS: Final = 50
#: There is no journal, because an image never outlives its sandbox.
_FEATURES: Final = "^has_journal,^resize_inode,sparse_super2"
#: Percent of the blocks that only the agent program may use, so that the files on a full disk can still be saved.
_RESERVED: Final = "1"
_EXTENDED: Final = "lazy_itable_init=1,nodiscard"
#: Removes the directory that mkfs leaves in the root of the image.
_EMPTY: Final = 'mount "$1" /mnt && rmdir /mnt/lost+found && chmod 755 /mnt'
#: With `discard`, deleted files give their blocks back to the host at once.
MOUNT_OPTIONS: Final = "noinit_itable,discard,noatime,nosuid,nodev"


class NoDisks(Exception):
    """This process cannot limit the disk of a sandbox. The message says why."""


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """The size of a sandbox's home in bytes, and the most files and directories in it."""

    total_bytes: int
    files: int

    @property
    def inodes(self) -> int:
        """The number of inodes of the disk: `files`, or fewer when a disk of this size cannot have so many."""
        return min(self.files, self.total_bytes // _BLOCK)


@dataclass(frozen=True, slots=True)
class Disks:
    """Creates disk images by copying an empty one, which takes 1 ms. Running mkfs for each would take 20 ms."""

    blank: int  # the descriptor of the empty image

    @classmethod
    def prepare(cls, limits: DiskLimits) -> Self:
        """Create the empty image, and mount it once as a test. Raises NoDisks when that fails.

        Later calls in this process with the same limits return the same image.
        """
        return cls(_blank(limits))

    def make(self, path: Path) -> "LoopDevice":
        """Create an image at `path` and attach it to a loop device. Returns the device.

        Raises OSError when either fails.
        """
        image = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _copy(self.blank, image)
            return LoopDevice.attach(image)
        finally:
            os.close(image)


@dataclass(frozen=True, slots=True)
class LoopDevice:
    """A block device over a file. The kernel removes the device once no process has it open and it is not mounted."""

    path: str
    handle: int

    @classmethod
    def attach(cls, file: int) -> Self:
        """Attach a file to a free loop device. Raises OSError when this process can use no loop devices."""
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            for _ in range(_ATTEMPTS):
                path = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
                handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.ioctl(handle, _CONFIGURE, _configuration(file))
                except OSError as error:
                    os.close(handle)
                    if error.errno != errno.EBUSY:  # another process took this number
                        raise
                else:
                    return cls(path, handle)
        finally:
            os.close(control)
        raise OSError(errno.EBUSY, "other processes took every loop device")

    def close(self) -> None:
        os.close(self.handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@cache
def _blank(limits: DiskLimits) -> int:
    """Create an empty image in memory, and mount it as a test. Returns its descriptor.

    Raises NoDisks when this process may not do that.
    """
    if os.geteuid() != 0:
        raise NoDisks("only root can mount a disk")
    mkfs = shutil.which("mkfs.ext4") or shutil.which("mkfs.ext4", path="/usr/sbin:/sbin")
    if mkfs is None:
        raise NoDisks("mkfs.ext4 is not installed")
    blank = os.memfd_create("disk", os.MFD_CLOEXEC)
    try:
        os.ftruncate(blank, limits.total_bytes)
        shape = [
            "-b",
            str(_BLOCK),
            "-N",
            str(limits.inodes),
            "-m",
            _RESERVED,
            "-O",
            _FEATURES,
            "-E",
            _EXTENDED,
        ]
        _run([mkfs, "-q", "-F", *shape, f"/proc/self/fd/{blank}"], blank)
        with LoopDevice.attach(blank) as device:
            _run(["unshare", "--mount", "--propagation", "private", "sh", "-c", _EMPTY, "sh", device.path])
    except OSError as error:
        os.close(blank)
        raise NoDisks(f"no loop device can be made: {error}") from error
    except NoDisks:
        os.close(blank)
        raise
    return blank


def _configuration(file: int) -> bytes:
    """Return the kernel's `struct loop_config` for attaching this file.

    It asks for direct I/O, so that the host does not cache the content a second time.
    """
    info = struct.pack("=5Q4I64s64s32s2Q", *[0] * 8, _AUTOCLEAR | _DIRECT_IO, b"nightshift", b"", b"", 0, 0)
    return struct.pack("=2I", file, _BLOCK) + info + bytes(64)


def _copy(source: int, target: int) -> None:
    """Copy a file without its holes: parts without data stay unallocated in the copy."""
    at = 0
    os.ftruncate(target, os.fstat(source).st_size)
    while True:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError:  # there is only a hole after `at`
            return
        end = os.lseek(source, at, os.SEEK_HOLE)
        while at < end:
            at += os.pwrite(target, os.pread(source, min(end - at, 1 << 20), at), at)


def _run(command: list[str], *fds: int) -> None:
    """Run a command. Raises NoDisks with what the command wrote to its standard error."""
    done = subprocess.run(command, pass_fds=fds, capture_output=True, check=False, cwd="/")
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise NoDisks(f"{Path(command[0]).name} failed: {said or done.returncode}")
