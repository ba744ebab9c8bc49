"""PostgreSQL gets a folder that it can use, whoever we are and wherever home is."""

import os
import subprocess
from pathlib import Path

import pytest

from nightshift.devstack.errors import BinaryMissing, PartFailed
from nightshift.devstack.parts import EmbeddedPostgres, part_directory

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root must run PostgreSQL as somebody else")


@as_root
async def test_a_home_that_its_user_cannot_reach_gets_a_link(stack_folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(part_directory, "_REACHABLE", stack_folder / "reachable")
    closed = stack_folder / "closed"
    closed.mkdir(mode=0o700)
    wanted = closed / "home" / "postgres"
    server = EmbeddedPostgres(wanted)
    await server.start()
    await server.stop()
    assert wanted.is_symlink()
    assert wanted.resolve().parent == stack_folder / "reachable"
    assert (wanted / "PG_VERSION").exists()
    assert closed.stat().st_mode & 0o777 == 0o700, "nobody's folder was opened"

    again = EmbeddedPostgres(wanted)
    await again.start()
    await again.stop()


@as_root
def test_programs_that_its_user_cannot_reach_are_copied_once(stack_folder: Path, monkeypatch) -> None:
    reachable = stack_folder / "copies"
    monkeypatch.setattr(part_directory, "_REACHABLE", reachable)
    reaches = part_directory._reaches
    monkeypatch.setattr(
        part_directory, "_reaches", lambda path, entry: path.name != "postgres" and reaches(path, entry)
    )
    found = part_directory.find_part_directory(stack_folder / "somewhere")
    assert reachable in found.programs.parents
    told = subprocess.run(
        [found.programs / "postgres", "--version"],
        user=found.user,
        group=found.group,
        cwd="/",
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout.startswith("postgres (PostgreSQL)")
    before = (found.programs / "postgres").stat().st_ino
    assert part_directory.find_part_directory(stack_folder / "somewhere").programs == found.programs
    assert (found.programs / "postgres").stat().st_ino == before


def test_a_missing_wheel_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(part_directory.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BinaryMissing, match="PostgreSQL is not installed"):
        part_directory.find_part_directory(tmp_path / "postgres")


def test_a_folder_without_the_programs_is_named(tmp_path: Path) -> None:
    with pytest.raises(BinaryMissing, match=f"there is no postgres in {tmp_path}"):
        part_directory.find_part_directory(tmp_path / "postgres", tmp_path)


async def test_data_of_another_version_is_named_and_left_as_it_is(stack_folder: Path) -> None:
    data = stack_folder / "older" / "postgres"
    server = EmbeddedPostgres(data)
    await server.start()
    await server.stop()
    version = data / "PG_VERSION"
    version.write_text("11\n")
    with pytest.raises(PartFailed, match=r"was made by PostgreSQL 11, and this is another version") as caught:
        await EmbeddedPostgres(data).start()
    assert "choose another folder with --home" in str(caught.value.hint)
    assert "incompatible with server" in caught.value.tail
    assert version.read_text() == "11\n"


async def test_a_cluster_that_was_cut_off_while_it_was_made_is_made_again(stack_folder: Path) -> None:
    data = stack_folder / "half" / "postgres"
    half = data.with_name("postgres.new")
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    server = EmbeddedPostgres(data)
    await server.start()
    await server.stop()
    assert (data / "global").is_dir()
    assert not half.exists()
