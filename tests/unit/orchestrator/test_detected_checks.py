"""The script that finds and runs a project's tests, run in a real folder."""

import subprocess

import pytest

from nightshift.orchestrator.domain.checks import DETECT


def detected(folder) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-c", DETECT], cwd=folder, capture_output=True, text=True, timeout=50, check=False
    )


def test_no_tests_is_said_and_is_no_failure(tmp_path):
    ran = detected(tmp_path)
    assert (ran.returncode, ran.stdout) == (0, "no tests found\n")


@pytest.mark.parametrize(("body", "code"), [("pass", 0), ("assert 1 == 2", 1)])
def test_python_tests_are_run(tmp_path, body, code):
    (tmp_path / "test_it.py").write_text(
        f"import unittest\n\nclass It(unittest.TestCase):\n    def test_it(self):\n        {body}\n"
    )
    ran = detected(tmp_path)
    assert ran.returncode == code, ran.stdout + ran.stderr
    assert "python3" in ran.stdout


@pytest.mark.parametrize(("command", "code"), [("true", 0), ("false", 1)])
def test_a_makefile_goes_before_other_tests(tmp_path, command, code):
    (tmp_path / "Makefile").write_text(f"test:\n\t@{command}\n")
    (tmp_path / "test_it.py").write_text("raise SystemExit(3)\n")
    ran = detected(tmp_path)
    assert ran.returncode == code
    assert "== make test" in ran.stdout
