"""Counts the tests that a command executed, by the summaries that test programs print. Skipped tests do not count.

Knows pytest, unittest, `node --test`, Jest, Vitest, Mocha, `go test` and `cargo test`.
"""

import re

_NUMBER_AND_WORD = re.compile(r"(\d+) ([a-z]+)")
_COUNTED = frozenset({"passed", "failed", "xfailed", "xpassed"})
_SKIPPED = re.compile(r"skipped=(\d+)")

#: `3 passed, 1 skipped in 0.12s`, with or without a frame of `=`.
_PYTEST = re.compile(r"^(?:=+ )?((?:\d+ [a-z]+(?: [a-z]+)?(?:, )?)+) in \d+\.\d+s\b.*$", re.MULTILINE)
#: `Ran 3 tests in 0.001s`, an empty line, `OK (skipped=1)`.
_UNITTEST = re.compile(r"^Ran (\d+) tests? in \d+(?:\.\d+)?s\n+(?:OK|FAILED|NO TESTS RAN)(.*)$", re.MULTILINE)
#: `ℹ pass 3` or `# pass 3`, and the same with `fail`.
_NODE = re.compile(r"^[#\u2139] (?:pass|fail) (\d+)$", re.MULTILINE)
#: `Tests:       1 failed, 2 passed, 3 total` (Jest) and `Tests  1 failed | 2 passed (3)` (Vitest).
_JEST_OR_VITEST = re.compile(r"^ *Tests(?::  *|  +)(\d+ [a-z]+.*)$", re.MULTILINE)
_MOCHA = re.compile(r"^ *(\d+) (?:passing \(|failing$)", re.MULTILINE)
#: `--- PASS: TestIt (0.00s)`, which `go test -v` prints for each test.
_GO_VERBOSE = re.compile(r"^=== RUN ", re.MULTILINE)
_GO_TEST = re.compile(r"^--- (?:PASS|FAIL): ", re.MULTILINE)
#: `ok  	example.org/app	0.003s`, which `go test` prints for each package.
_GO_PACKAGE = re.compile(
    r"^(?:ok|FAIL)[ \t]+\S+[ \t]+(?:\d+\.\d+s|\(cached\))(?!.*\[no tests to run\])", re.MULTILINE
)
_CARGO = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed;", re.MULTILINE)


def executed_tests(output: str) -> int:
    """Return how many tests ran, whether they passed or not.

    A Go package without a line for each test counts as one test.
    """
    return (
        sum(_counted(line) for line in _PYTEST.findall(output))
        + sum(_unittest(int(ran), result) for ran, result in _UNITTEST.findall(output))
        + sum(map(int, _NODE.findall(output)))
        + sum(_counted(line) for line in _JEST_OR_VITEST.findall(output))
        + sum(map(int, _MOCHA.findall(output)))
        + len((_GO_TEST if _GO_VERBOSE.search(output) else _GO_PACKAGE).findall(output))
        + sum(int(passed) + int(failed) for passed, failed in _CARGO.findall(output))
    )


def _counted(summary: str) -> int:
    return sum(int(number) for number, word in _NUMBER_AND_WORD.findall(summary) if word in _COUNTED)


def _unittest(ran: int, result: str) -> int:
    skipped = _SKIPPED.search(result)
    return ran - (int(skipped[1]) if skipped else 0)
