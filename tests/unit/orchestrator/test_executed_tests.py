"""The number of tests that a command executed, read from what real test runners print."""

import subprocess
import sys

import pytest

from nightshift.orchestrator.domain.executed_tests import executed_tests

OUTPUTS = {
    "pytest -q": (".s  [100%]\n1 passed, 1 skipped in 2.76s\n", 1),
    "pytest with a frame": ("===== 2 failed, 3 passed, 1 xfailed, 4 warnings in 65.00s (0:01:05) =====\n", 6),
    "pytest with errors only": ("===== 2 errors in 0.12s =====\n", 0),
    "pytest without tests": ("no tests ran in 0.01s\n", 0),
    "pytest with all skipped": ("sss\n3 skipped in 0.01s\n", 0),
    "unittest": ("....\n------\nRan 4 tests in 0.001s\n\nOK\n", 4),
    "unittest with one skipped": (".s\nRan 2 tests in 0.013s\n\nOK (skipped=1)\n", 1),
    "unittest that fails": ("Ran 1 test in 0.013s\n\nFAILED (failures=1)\n", 1),
    "unittest without tests": ("Ran 0 tests in 0.000s\n\nOK\n", 0),
    "unittest 3.12 without tests": ("Ran 0 tests in 0.000s\n\nNO TESTS RAN\n", 0),
    "node --test, tap": ("1..3\n# tests 3\n# suites 0\n# pass 2\n# fail 0\n# skipped 1\n", 2),
    "node --test, spec": ("\u2139 tests 3\n\u2139 pass 2\n\u2139 fail 1\n\u2139 skipped 0\n", 3),
    "jest": ("Tests:       1 failed, 2 skipped, 3 passed, 6 total\n", 4),
    "vitest": ("      Tests  1 failed | 3 passed | 1 skipped (5)\n", 4),
    "mocha": ("  7 passing (12ms)\n  1 pending\n  2 failing\n", 9),
    "go test -v": (
        "=== RUN   TestA\n--- PASS: TestA (0.00s)\n    --- PASS: TestA/s (0.00s)\nok  \ta\t0.01s\n",
        1,
    ),
    "go test -v with all skipped": ("=== RUN   TestB\n--- SKIP: TestB (0.00s)\nok  \ta\t0.01s\n", 0),
    "go test": ("ok  \tex.org/a\t0.015s\nok  \tex.org/b\t(cached)\nFAIL\tex.org/c\t0.1s\n", 3),
    "go test without tests": ("ok  \tex.org/a\t0.1s [no tests to run]\n?   \tex.org/b\t[no test files]\n", 0),
    "cargo test": ("test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n" * 2, 4),
    "no runner": ("no tests found\n", 0),
    "prose": ("All 5 tests passed. Ran 3 tests. 4 passed in total\n", 0),
}


@pytest.mark.parametrize(("output", "count"), OUTPUTS.values(), ids=OUTPUTS)
def test_a_runner_reports_what_it_executed(output, count):
    assert executed_tests(f"== make test\n{output}== exit code 0\n") == count


def test_the_counts_of_several_runners_are_added():
    assert executed_tests("3 passed in 0.10s\nTests:       2 passed, 2 total\n") == 5


@pytest.mark.parametrize("runner", ["unittest", "pytest"])
def test_a_real_run_is_counted(tmp_path, runner):
    (tmp_path / "test_it.py").write_text(
        "import unittest\n\n\nclass It(unittest.TestCase):\n"
        + "".join(f"    def test_{n}(self):\n        pass\n\n" for n in range(3))
        + '    @unittest.skip("not now")\n    def test_skipped(self):\n        pass\n'
    )
    more = ["-q", "-p", "no:cacheprovider"] if runner == "pytest" else []
    command = [sys.executable, "-m", runner, *more]
    ran = subprocess.run(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=50,
        check=True,
    )
    assert executed_tests(ran.stdout) == 3, ran.stdout


def test_a_long_output_is_read_in_linear_time():
    assert executed_tests("1 a " * 50_000 + "\n" + "1 passed, " * 50_000) == 0
