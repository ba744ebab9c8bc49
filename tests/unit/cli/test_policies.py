"""The models of an account's policy, as the command line reads and shows them."""

import pytest

from nightshift.cli.errors import WrongUsage
from nightshift.cli.policies import shown, with_models

BEFORE = {"judge": "claude-opus-5-5"}


def test_each_role_is_changed_alone():
    changed = with_models(BEFORE, ["builder=claude-haiku-5-5"])
    assert changed == {"judge": "claude-opus-5-5", "builder": "claude-haiku-5-5"}
    assert BEFORE == {"judge": "claude-opus-5-5"}
    assert shown({"models": changed})["model of the builder"] == "claude-haiku-5-5"


def test_a_role_without_a_model_is_left_to_the_tier():
    assert with_models(BEFORE, ["judge="]) is None
    assert shown({}) == {}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("judge", "is not ROLE=MODEL"),
        ("cook=claude-opus-5-5", "is not ROLE=MODEL"),
        ("judge=gpt", "no model"),
    ],
)
def test_what_names_no_role_or_model_is_refused(given: str, says: str):
    with pytest.raises(WrongUsage, match=says):
        with_models({}, [given])
