"""The models of an account's policy, as the command line reads and shows them."""

import pytest

from nightshift.cli.errors import WrongUsage
from nightshift.cli.policies import shown, with_approvals, with_models

BEFORE = {"judge": "claude-opus-5-5"}


def test_each_role_is_changed_alone():
    changed = with_models(BEFORE, ["builder=claude-haiku-5-5"])
    assert changed == {"judge": "claude-opus-5-5", "builder": "claude-haiku-5-5"}
    assert BEFORE == {"judge": "claude-opus-5-5"}
    assert shown({"models": changed})["model of the builder"] == "claude-haiku-5-5"


def test_a_role_without_a_model_is_left_to_the_tier():
    assert with_models(BEFORE, ["judge="]) is None
    assert shown({}) == {}
    assert shown({"egress_hosts": ("a.example.org", "b.example.org")}) == {
        "may reach": "a.example.org, b.example.org"
    }


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


def approvals(before=None, **given):
    rules = {"mode": None, "ask": (), "hosts": (), "allow": (), "deadline_s": None}
    return with_approvals(before, **{**rules, **given})


def test_options_about_approvals_take_the_place_of_those_before():
    before = approvals(ask=("bash(git push *)",), deadline_s=60)
    assert before == {
        "mode": "rules",
        "ask": ["bash(git push *)"],
        "hosts": [],
        "allow": [],
        "deadline_s": 60,
    }
    assert approvals(before) == before
    assert approvals(before, mode="never") == {"mode": "never", "ask": [], "hosts": [], "allow": []}
    assert shown({"approvals": before}) == {
        "approvals": "rules",
        "ask about": "bash(git push *)",
        "denied after seconds": 60,
    }


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"ask": ("git push",)}, "is no rule"),
        ({"mode": "never", "ask": ("bash",)}, "belong to the mode"),
        ({"hosts": ("a b",)}, "approvals"),
    ],
)
def test_approvals_that_can_mean_nothing_are_wrong_usage(given, why):
    with pytest.raises(WrongUsage, match=why):
        approvals(**given)
