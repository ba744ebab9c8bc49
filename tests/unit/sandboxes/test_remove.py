"""Removing a tree, however deep or closed it is, removes nothing else."""

import os
import resource
from pathlib import Path

import pytest

from nightshift.sandboxes.agent.confined_paths import Root
from nightshift.sandboxes.agent.tree import remove


def test_a_very_deep_tree_is_removed_with_few_handles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(300):
        os.mkdir("d")
        os.chdir("d")
    Path("f").touch()
    monkeypatch.chdir(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (120, hard))
    try:
        remove(Root(str(tmp_path)), "d")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_symlink_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/f").touch()
    (tmp_path / "w/d/e").mkdir(parents=True)
    (tmp_path / "w/d/e/out").symlink_to(tmp_path / "kept")
    (tmp_path / "w/d/e").chmod(0)
    (tmp_path / "w/d").chmod(0o500)
    before = (tmp_path / "w").stat().st_mtime_ns
    remove(Root(str(tmp_path / "w")), "d")
    assert list((tmp_path / "w").iterdir()) == []
    assert (tmp_path / "kept/f").exists()
    assert (tmp_path / "w").stat().st_mtime_ns == before
    remove(Root(str(tmp_path / "w")), "d")
