"""`files` and `diff` of a build: which snapshot a moment means, what is written, and what is shown."""

import contextlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.events import ACCEPTED, recorded

from nightshift.cli.commands import diff as diff_command
from nightshift.cli.commands import files as files_command
from nightshift.cli.commands.diff import diff
from nightshift.cli.commands.files import files
from nightshift.cli.commands.open import _running, _server
from nightshift.cli.errors import WrongUsage
from nightshift.cli.snapshot_access import BuildSnapshots
from nightshift.contracts.events.build import CheckpointSaved, ToolCallRequested
from nightshift.contracts.events.sandbox import PreviewOpened, SandboxClosed
from nightshift.contracts.events.snapshot import SnapshotSaved
from nightshift.eventlog.errors import NotFound
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.sandboxes.port import Entry, ExportedBlock, ExportedPart
from nightshift.sandboxes.snapshots.at import snapshot_at
from nightshift.sandboxes.snapshots.manifest import Manifest, ProjectKey
from nightshift.sandboxes.snapshots.retention import RetentionRules, keep, keys_of
from nightshift.sandboxes.snapshots.store import SnapshotStore

KEY = ProjectKey.derive(b"test", "p")


def asked(tool: str, command: str = "ls") -> ToolCallRequested:
    return ToolCallRequested(
        call_id="b/1/0",
        tool_use_id="t",
        turn=1,
        index=0,
        tool=tool,
        input={"command": command},
        timeout_s=10,
        purpose="agent",
    )


def saved(at: int, key: str, reason: str = "checkpoint", **more: Any) -> SnapshotSaved:
    return SnapshotSaved(
        **{
            **{
                "reason": reason,
                "at_version": at,
                "tree_digest": "sha256:" + "0" * 64,
                "files": 1,
                "bytes": 1,
            },
            **{"uploaded_bytes": 1, "key": key, **more},
        }
    )


def test_a_moment_means_the_snapshot_with_its_files() -> None:
    """Before it when nothing wrote in between, else after it, else the newest one before, which is said."""
    events = recorded(
        [
            ACCEPTED,
            asked("bash"),  # 2
            CheckpointSaved(turn=1),  # 3
            saved(3, "one"),
            asked("read_file"),  # 5
            CheckpointSaved(turn=2),  # 6
            asked("bash"),  # 7
            CheckpointSaved(turn=3),  # 8
            asked("bash"),  # 9
            CheckpointSaved(turn=4),  # 10
            saved(10, "four", consistency="late"),
            CheckpointSaved(turn=5),  # 12
            saved(12, "five"),
        ]
    )
    chosen = {version: snapshot_at(events, version) for version in (1, 3, 6, 7, 8, 10, 12)}
    assert chosen.pop(1) is None
    assert {version: (one.key, one.exact) for version, one in chosen.items() if one} == {
        3: ("one", True),
        6: ("one", True),
        7: ("one", False),
        8: ("one", False),
        10: ("five", True),
        12: ("five", True),
    }


@pytest.fixture
async def build(monkeypatch: pytest.MonkeyPatch) -> BuildSnapshots:
    """Two snapshots: of turn 1 and of turn 2."""
    store = SnapshotStore(MemoryObjectStore(), KEY)
    trees = [
        {"app.py": b"print(1)\n", "gone": b"x", "bin": b"\0\1", "same": b"same"},
        {"app.py": b"print(2)\n", "d/new": b"new\n", "bin": b"\0\2", "same": b"same"},
    ]
    keys = []
    for version, tree in enumerate(trees, start=2):
        upload = store.begin_upload()
        await upload.add(
            ExportedBlock(
                [ExportedPart(path, len(body)) for path, body in tree.items()], b"".join(tree.values())
            )
        )
        await upload.finish()
        entries = [
            Entry(path, "file", mode=0o640, size=len(body), mtime_ns=10**18, digest=KEY.of(body))
            for path, body in tree.items()
        ]
        entries += [Entry("d", "directory", mode=0o755), Entry("link", "symlink", target="/etc/passwd")]
        entries.sort(key=lambda entry: entry.path)
        blobs, pieces = store.located(entries)
        skipped = {"pipe": "a named pipe"}
        manifest = Manifest("b", version, tuple(entries), blobs, pieces, skipped)
        keys.append((await store.put_manifest(manifest, reason="checkpoint"))[0])
    facts = [ACCEPTED, asked("bash"), CheckpointSaved(turn=1), saved(3, keys[0]), asked("bash")]
    events = recorded([*facts, CheckpointSaved(turn=2), saved(6, keys[1])])
    found = BuildSnapshots("b", events, store, None)  # type: ignore[arg-type]

    @contextlib.asynccontextmanager
    async def opened(*_: Any) -> Any:
        yield found

    for module in (files_command, diff_command):
        monkeypatch.setattr(module, "open_snapshots", opened)
    return found


async def test_files_are_written_as_a_zip_with_modes_and_links(build: BuildSnapshots, tmp_path: Path) -> None:
    await files("b", zip=tmp_path / "build.zip")
    with zipfile.ZipFile(tmp_path / "build.zip") as archive:
        kinds = {one.filename: (one.external_attr >> 16, archive.read(one)) for one in archive.infolist()}
    assert kinds.pop("d/") == (0o040755, b"")
    assert kinds.pop("link")[1] == b"/etc/passwd"
    assert kinds["app.py"] == (0o100640, b"print(2)\n")
    assert kinds.keys() == {"app.py", "bin", "d/new", "same"}
    with pytest.raises(WrongUsage, match="exists"):
        await files("b", zip=tmp_path / "build.zip")


async def test_files_are_written_as_they_were(
    build: BuildSnapshots, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await files("b", at="turn:1", to=tmp_path / "out")
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["app.py", "bin", "d", "gone", "link", "same"]
    assert (out / "app.py").read_bytes() == b"print(1)\n"
    assert ((out / "app.py").stat().st_mode & 0o777, (out / "app.py").stat().st_mtime) == (0o640, 10**9)
    assert os.readlink(out / "link") == "/etc/passwd"
    assert "pipe: a named pipe" in capsys.readouterr().err
    with pytest.raises(WrongUsage, match="not an empty folder"):
        await files("b", to=out)


async def test_a_file_that_is_lost_is_named(
    build: BuildSnapshots, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bodies = build.store.objects.bodies  # type: ignore[attr-defined]
    for key in [key for key in bodies if key.endswith(".pack")]:
        bodies[key] = b"broken"
    with pytest.raises(SystemExit):
        await files("b", to=tmp_path / "out")
    assert "app.py: its content is missing or corrupt" in capsys.readouterr().err


async def test_files_are_listed_as_json(build: BuildSnapshots, capsys: pytest.CaptureFixture[str]) -> None:
    await files("b", json=True)
    listed = json.loads(capsys.readouterr().out)
    assert (listed["version"], listed["not_saved"]) == (6, {"pipe": "a named pipe"})
    assert [row["path"] for row in listed["files"]] == ["app.py", "bin", "d", "d/new", "link", "same"]


async def test_a_moment_before_the_first_snapshot_has_none(build: BuildSnapshots) -> None:
    with pytest.raises(NotFound, match="no snapshot by then"):
        await files("b", at="1")


async def test_a_diff_shows_files_and_text(build: BuildSnapshots, capsys: pytest.CaptureFixture[str]) -> None:
    await diff("b", "turn:1", "turn:2")
    out = capsys.readouterr().out
    assert out.splitlines() == [
        "changed app.py",
        *("--- app.py", "+++ app.py", "@@ -1 +1 @@", "-print(1)", "+print(2)"),
        *("changed bin", "  binary: 2 and 2 bytes"),
        *("added d/new", "--- d/new", "+++ d/new", "@@ -0,0 +1 @@", "+new"),
        *("removed gone", "--- gone", "+++ gone", "@@ -1 +0,0 @@", "-x"),
    ]


def test_the_server_is_started_as_the_agent_did() -> None:
    opened = PreviewOpened(sandbox_id="s", port=8000, url="http://x")
    facts = [
        ACCEPTED,
        asked("bash", "make && ls 2>&1"),
        asked("bash", "python3 app.py &"),
        asked("bash"),
        opened,
    ]
    assert _server(recorded(facts)) == ("python3 app.py &", 8000)
    assert _running(recorded(facts)) == "http://x"
    assert _running(recorded([*facts, SandboxClosed(sandbox_id="s", reason="ended")])) is None
    assert _server(recorded([ACCEPTED])) == (None, None)


def test_retention_keeps_what_its_rules_say() -> None:
    facts = [ACCEPTED, *(saved(n, f"projects/p/builds/b/{n}") for n in range(2, 9))]
    end = saved(9, "projects/p/builds/b/9", "completion")
    running = keys_of(recorded(facts))
    assert keep({"b": running}, RetentionRules(0))("projects/p/builds/b/2")
    done = keys_of(recorded([*facts, end]))
    done.ended = True
    kept = keep({"b": done}, RetentionRules(2, {"bob": 5}))
    assert [n for n in range(2, 10) if kept(f"projects/p/builds/b/{n}")] == [8, 9]
    done.account_id = "bob"
    kept = keep({"b": done}, RetentionRules(2, {"bob": 5}))
    assert [n for n in range(2, 10) if kept(f"projects/p/builds/b/{n}")] == [5, 6, 7, 8, 9]
    fork = keys_of(recorded([ACCEPTED]))
    fork.borrowed.add("projects/p/builds/b/3")
    assert keep({"b": done, "f": fork}, RetentionRules(0))("projects/p/builds/b/3")
    assert keep({"b": done}, RetentionRules(0))("projects/p/builds/unknown/1")
