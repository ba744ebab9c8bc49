"""The edits that remove guards apply to today's code, and their tests exist."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = runpy.run_path(str(ROOT / "scripts/mutants.py"))
MUTANTS = SCRIPT["mutants"]()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_applies_to_the_code(mutant):
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    assert mutant.applied(text) != text
    assert [test for test in mutant.tests if not (ROOT / test).exists()] == []


def test_an_edit_that_does_not_apply_is_an_error():
    mutant = SCRIPT["Mutant"]("a guard", "file.py", "twice", "once", ["tests"])
    with pytest.raises(ValueError, match="occurs 2 times"):
        mutant.applied("twice twice")
