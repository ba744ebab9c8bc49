"""The system call filter of local sandboxes, as classic BPF. It refuses the listed calls and allows all others.

The numbers are the kernel's ABI (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h).
"""

import struct

_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_ERRNO = 0x00050000
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97

_LD_ABS, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
#: Offsets in struct seccomp_data. Those of the arguments point to their low halves (little-endian).
_NR, _ARCH, _ARG0, _ARG1 = 0, 4, 16, 24

_ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
_IOCTL = {"x86_64": 16, "aarch64": 29}
_SOCKET = {"x86_64": 41, "aarch64": 198}
_PRLIMIT, _MEMFD = (302, 261), (319, 279)
_SOCKET_FAMILIES = (1, 2, 10, 16)  # unix, inet, inet6 and netlink, which ordinary programs use
_TTY_INPUT = (0x5412, 0x541C)  # TIOCSTI and TIOCLINUX, which type into a terminal of another process
_CLONE_NEW = 0x7E020080  # every CLONE_NEW* flag

#: The refused calls: each name with its number on x86_64 and on aarch64.
_DENIED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "vhangup": (153, 58),
    "personality": (135, 92),
}


def supported(machine: str) -> bool:
    return machine in _ARCHES


def program(machine: str, *, memfd: bool = True) -> bytes:
    """Return the filter for `platform.machine()`, as an array of struct sock_filter. Raises KeyError for another
    machine.

    Unless `memfd`, the filter refuses files in memory: for machines where no cgroup limits their memory.
    """
    column = 0 if machine == "x86_64" else 1
    allowed = len(_SOCKET_FAMILIES)
    code = [
        (_LD_ABS, 0, 0, _ARCH),
        (_JEQ, 1, 0, _ARCHES[machine]),
        (_RET, 0, 0, _KILL),  # another ABI of the same machine has other numbers
        (_LD_ABS, 0, 0, _NR),
    ]
    if machine == "x86_64":  # refuse the calls of the x32 ABI
        code += [(_JGE, 0, 1, 0x40000000), (_RET, 0, 0, _ERRNO | _ENOSYS)]
    for numbers in _DENIED.values():
        code += [(_JEQ, 0, 1, numbers[column]), (_RET, 0, 0, _ERRNO | _EPERM)]
    if not memfd:
        code += [(_JEQ, 0, 1, _MEMFD[column]), (_RET, 0, 0, _ERRNO | _ENOSYS)]
    code += [
        # A process may set its own limits, but not those of another process, such as the agent.
        (_JEQ, 0, 4, _PRLIMIT[column]),
        (_LD_ABS, 0, 0, _ARG0),
        (_JEQ, 1, 0, 0),
        (_RET, 0, 0, _ERRNO | _EPERM),
        (_RET, 0, 0, _ALLOW),
        # Refused so that glibc uses clone instead, whose flags the filter can read.
        (_JEQ, 0, 1, _CLONE3),
        (_RET, 0, 0, _ERRNO | _ENOSYS),
        (_JEQ, 0, 4, _CLONE[machine]),
        (_LD_ABS, 0, 0, _ARG0),
        (_JSET, 0, 1, _CLONE_NEW),
        (_RET, 0, 0, _ERRNO | _EPERM),
        (_RET, 0, 0, _ALLOW),
        (_JEQ, 0, 5, _IOCTL[machine]),
        (_LD_ABS, 0, 0, _ARG1),
        (_JEQ, 1, 0, _TTY_INPUT[0]),
        (_JEQ, 0, 1, _TTY_INPUT[1]),
        (_RET, 0, 0, _ERRNO | _EPERM),
        (_RET, 0, 0, _ALLOW),
        (_JEQ, 0, allowed + 2, _SOCKET[machine]),
        (_LD_ABS, 0, 0, _ARG0),
        *((_JEQ, allowed - index, 0, family) for index, family in enumerate(_SOCKET_FAMILIES)),
        (_RET, 0, 0, _ERRNO | _EAFNOSUPPORT),
        (_RET, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)
