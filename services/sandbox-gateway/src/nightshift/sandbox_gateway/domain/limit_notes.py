"""Tells the model which limits of its sandbox a failed command has reached, and advises it."""

from nightshift.sandboxes.usage import GroupUsage, Usage

KILLED = 137
_MIB, _GIB = 1024**2, 1024**3
#: A disk counts as full with fewer free bytes than this, and the processes count as too many from this part of their
#: limit on.
_LEAST_FREE, _MOST_TASKS = _MIB, 0.9
#: After this many seconds of waiting for a CPU a note is worthwhile.
_THROTTLED_S = 1.0


def limit_notes(usage: Usage, *, exit_code: int | None) -> list[str]:
    """Return a sentence about each limit (memory, disk, processes, CPU) that the sandbox has reached.

    The agent reads the sentences below the output of a failed command.
    """
    notes = []
    if usage.free_bytes < _LEAST_FREE:
        notes.append(
            f"the disk is full: none of {_size(usage.bytes)} is free. Delete what is not needed; that still works"
        )
    elif usage.files > 0 and usage.free_files == 0:
        notes.append(f"all {usage.files:,} files that the disk can hold are used. Delete what is not needed")
    group = usage.group
    if exit_code == KILLED and (group is None or group.memory_kills is None):
        notes.append("killed: when nothing else sent SIGKILL, the memory limit of the sandbox was reached")
    return notes if group is None else [*notes, *_group_notes(group, usage.tasks)]


def _group_notes(group: GroupUsage, tasks: int) -> list[str]:
    notes = []
    if group.memory_kills:
        notes.append(
            f"the memory limit was reached: all processes together may use {_size(group.memory_bytes)}, and the kernel"
            f" killed {group.memory_kills} of them"
        )
    if tasks >= group.processes * _MOST_TASKS:
        notes.append(
            f"{tasks} processes and threads run in the sandbox, and {group.processes} may. Stop some of them"
        )
    if group.throttled_s >= _THROTTLED_S:
        notes.append(
            f"the CPU limit of {group.cpus:g} was reached: processes waited {group.throttled_s:.0f} s for it"
        )
    return notes


def _size(number: int) -> str:
    return f"{number / _GIB:.1f} GiB" if number >= _GIB else f"{number / _MIB:.0f} MiB"
