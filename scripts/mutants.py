"""Removes each guard of tests/mutants/guards.toml in a copy of the repository, and expects the named tests to fail.

    python scripts/mutants.py             every mutant
    python scripts/mutants.py fence lease the mutants whose names contain one of the words
    python scripts/mutants.py --list      their names

Exits with 1 when a mutant survives, and with 2 when the tests fail without any mutant or cannot run.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GUARDS = ROOT / "tests/mutants/guards.toml"
#: Exit codes of pytest: all tests passed, and some failed.
PASSED, FAILED = 0, 1


@dataclass(frozen=True, slots=True)
class Mutant:
    """An edit that removes one guard, and the tests that must notice it."""

    name: str
    file: str
    old: str
    new: str
    tests: Sequence[str]

    def applied(self, text: str) -> str:
        """Returns the file's text without the guard. Raises ValueError unless `old` occurs exactly once."""
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.name}: {self.old!r} occurs {count} times in {self.file}")
        return text.replace(self.old, self.new)


def mutants() -> list[Mutant]:
    """Returns the mutants in the order of the file."""
    return [Mutant(**entry) for entry in tomllib.loads(GUARDS.read_text(encoding="utf-8"))["mutant"]]


def copy_repository(target: Path) -> None:
    """Copies every tracked or new file, as it is in the working tree."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def run_tests(copy: Path, tests: Sequence[str]) -> int:
    """Runs pytest on the copy's own packages. Returns its exit code."""
    sources = [str(path) for path in (*copy.glob("*/*/src"), copy / "cli/src")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(copy), *sources]),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, cwd=copy, env=environment, check=False, capture_output=True).returncode


def check(copy: Path, mutant: Mutant) -> int:
    """Applies the mutant to the copy, runs its tests and restores the file. Returns pytest's exit code."""
    path = copy / mutant.file
    text = path.read_text(encoding="utf-8")
    path.write_text(mutant.applied(text), encoding="utf-8")
    try:
        return run_tests(copy, mutant.tests)
    finally:
        path.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("words", nargs="*", help="only the mutants whose names contain one of these")
    parser.add_argument("--list", action="store_true", help="print the names and run nothing")
    options = parser.parse_args()
    chosen = [
        one for one in mutants() if not options.words or any(word in one.name for word in options.words)
    ]
    if options.list:
        sys.stdout.writelines(f"{mutant.name}\n" for mutant in chosen)
        return 0
    codes = []
    with tempfile.TemporaryDirectory(prefix="nightshift-mutants-") as folder:
        copy = Path(folder)
        copy_repository(copy)
        if run_tests(copy, sorted({test for mutant in chosen for test in mutant.tests})) != PASSED:
            sys.stderr.write("error: the tests fail without any mutant\nhint: make them pass first\n")
            return 2
        for mutant in chosen:
            code = check(copy, mutant)
            verdict = {PASSED: "SURVIVED", FAILED: "killed"}.get(
                code, f"could not run (pytest exit code {code})"
            )
            sys.stdout.write(f"{mutant.name}: {verdict}\n")
            sys.stdout.flush()
            codes.append(code)
    if any(code not in (PASSED, FAILED) for code in codes):
        return 2
    return int(PASSED in codes)


if __name__ == "__main__":
    sys.exit(main())
