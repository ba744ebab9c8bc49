"""What a look at a background command shows: what came since, and of much only the end."""

from pathlib import Path

import pytest

from nightshift.sandbox_gateway.domain.limit_notes import limit_notes
from nightshift.sandboxes.agent import identity
from nightshift.sandboxes.agent.kept_output import SHOWN, KeptOutput
from nightshift.sandboxes.usage import GroupUsage, Usage

FREE = Usage(free_bytes=10**9, bytes=10**10, free_files=10**6, files=10**6, tasks=1)
GROUP = GroupUsage(memory_bytes=2**32, memory_kills=0, processes=512, cpus=2.0, throttled_s=0.0)


@pytest.fixture(autouse=True)
def one_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process does not turn into an agent, which touches files as another user."""
    monkeypatch.setattr(identity, "apart", lambda: False)


@pytest.mark.parametrize("limit", [10, 300, 5_000, 10**6])
def test_each_look_begins_where_the_last_one_ended(tmp_path: Path, limit: int) -> None:
    """Whatever of the stream is kept in memory, in the file, or only as its end."""
    kept, whole, at = KeptOutput(str(tmp_path / "out"), limit), b"", 0
    for number in range(60):
        part = (b"%04d\n" % number) * (number * 7 % 23)
        kept.take(part)
        whole += part
        if number % 3 == 0:
            shown = kept.since(at)
            assert whole.endswith(shown.partition(b"not shown ...]\n")[2] or shown)
            assert len(shown) == kept.total - at, "nothing is missing that is still there"
            at = kept.total
    kept.finish()
    assert kept.since(at) == whole[at:]
    assert kept.since(kept.total) == b""


def test_a_look_after_much_output_shows_its_end(tmp_path: Path) -> None:
    kept = KeptOutput(str(tmp_path / "out"), 1000)
    kept.take(b"x" * 1000 + b"y" * (3 * SHOWN) + b"end")
    note, _, shown = kept.since(500).partition(b"\n")
    assert note == b"[... %d bytes before this are not shown ...]" % (500 + 3 * SHOWN + 3 - SHOWN)
    assert (len(shown), shown[-4:]) == (SHOWN, b"yend")
    kept.finish()
    assert kept.since(500).endswith(b"yend")


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"free_bytes": 1000}, "the disk is full: none of 9.3 GiB"),
        ({"free_files": 0}, "all 1,000,000 files"),
        ({"free_files": 0, "files": 0}, None),  # a file system without a fixed number
        ({"tasks": 470}, "470 processes and threads run in the sandbox, and 512 may"),
        ({"tasks": 400}, None),
    ],
)
def test_a_limit_is_told_only_when_it_is_met(change: dict[str, int], note: str | None) -> None:
    notes = limit_notes(Usage(**{**_fields(FREE), **change, "group": GROUP}), exit_code=1)
    assert (len(notes) == 0) if note is None else notes[0].startswith(note)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"memory_kills": 2}, "the memory limit was reached: all processes together may use 4.0 GiB"),
        ({"memory_kills": None}, "killed: when nothing else sent SIGKILL"),
        ({"throttled_s": 7.4}, "the CPU limit of 2 was reached: processes waited 7 s"),
        ({}, None),
    ],
)
def test_the_limits_of_the_group_are_told(change: dict[str, int], note: str | None) -> None:
    group = GroupUsage(**{**{name: getattr(GROUP, name) for name in GROUP.__slots__}, **change})
    notes = limit_notes(Usage(**{**_fields(FREE), "group": group}), exit_code=137)
    assert (len(notes) == 0) if note is None else notes[0].startswith(note)


def _fields(usage: Usage) -> dict[str, int]:
    return {name: getattr(usage, name) for name in usage.__slots__}
