"""The tier chooses the models of a build, and the model the parameters of its requests."""

import json
from uuid import UUID

import pytest
from tests.unit.orchestrator.build_scenario import NOW, REQUEST, begun, with_

from nightshift.contracts import models, prices
from nightshift.contracts.events.account import AccountPolicyChanged
from nightshift.contracts.events.build import BuildAccepted
from nightshift.eventlog.errors import BadMessage
from nightshift.eventlog.memory import MemoryEventLog
from nightshift.eventlog.port import NewEvent, account_stream
from nightshift.orchestrator.adapters.event_log_policies import EventLogAccountPolicies
from nightshift.orchestrator.domain import prompt
from nightshift.orchestrator.domain.admission import admit, same_request
from nightshift.orchestrator.domain.commands import AcceptBuild
from nightshift.orchestrator.domain.decide import decide
from nightshift.orchestrator.domain.model_choice import output_limit
from nightshift.orchestrator.domain.next_step import worst_case
from nightshift.orchestrator.domain.state import INITIAL

BY_TIER = with_(model_by_tier=True, default_model="claude-sonnet-5-5")


def accepted(**fields) -> BuildAccepted:
    return begun(policy=BY_TIER, request=REQUEST.model_copy(update=fields)).last(BuildAccepted)


def request(scenario) -> dict:
    return json.loads(prompt.request_bytes(scenario.state, scenario.policy))


@pytest.mark.parametrize(
    ("tier", "builder", "effort"),
    [
        ("economy", "claude-haiku-5-5", "medium"),
        ("standard", "claude-sonnet-5-5", "high"),
        ("priority", "claude-opus-5-5", "high"),
    ],
)
def test_the_tier_chooses_model_and_effort(tier, builder, effort):
    fact = accepted(tier=tier)
    assert (fact.model, fact.models["builder"], fact.effort) == (builder, builder, effort)
    assert set(fact.models) == {"builder", "judge", "condenser"}


def test_the_model_of_a_request_builds_and_nothing_else():
    fact = accepted(model="claude-haiku-4-5")
    assert (fact.model, fact.effort) == ("claude-haiku-4-5", None)
    assert fact.models["judge"] == "claude-sonnet-5-5"


def test_a_model_that_thinks_is_told_to_and_has_room_for_it():
    scenario = begun(policy=BY_TIER)
    body = request(scenario)
    assert body["thinking"] == {"type": "adaptive"}
    assert body["output_config"] == {"effort": "high"}
    assert body["max_tokens"] == 32_000
    assert worst_case(scenario.state, scenario.policy) > 32_000 * 10


@pytest.mark.parametrize("model", ["claude-haiku-4-5", "scripted-1"])
def test_a_model_that_takes_no_adaptive_thinking_gets_none(model):
    body = request(begun(policy=BY_TIER, request=REQUEST.model_copy(update={"model": model})))
    assert not {"thinking", "output_config"} & set(body)
    assert body["max_tokens"] == 16_000


def test_a_build_of_an_earlier_version_keeps_its_parameters():
    scenario = begun(policy=BY_TIER)
    old = scenario.state.request.model_copy(update={"models": None, "effort": None})
    assert output_limit(old, BY_TIER) == 16_000


def test_the_output_limit_never_exceeds_that_of_the_model():
    fact = accepted(model="claude-sonnet-4-6")
    assert output_limit(fact, with_(max_output_tokens=60_000)) == 64_000


def test_the_stable_prefix_is_kept_for_an_hour():
    body = request(begun())
    assert body["system"][-1]["cache_control"] == {"ttl": "1h", "type": "ephemeral"}


def test_an_idea_may_be_an_object():
    scenario = begun(request=REQUEST.model_copy(update={"idea_brief": {"name": "Tidy", "pages": ["home"]}}))
    assert '"pages": [\n    "home"\n  ]' in request(scenario)["messages"][0]["content"][0]["text"]


def test_every_model_has_a_card_and_a_price():
    assert set(models.CARDS) == set(prices.TABLES[prices.NEWEST])
    for tier in models.TIERS.values():
        for model in tier.models.values():
            assert models.card_of(model).retires is None
        assert tier.effort in models.card_of(tier.models["builder"]).efforts


def chosen(account: dict | None = None, policy=BY_TIER, **fields) -> dict:
    """The models of a build whose account has this policy."""
    changed = None if account is None else AccountPolicyChanged(account_id="a1", models=account)
    request = REQUEST.model_copy(update=fields)
    command = AcceptBuild(request, changed)
    admit(request, NOW, policy, changed)
    return decide(INITIAL, command, NOW, policy)[0].models


def test_a_request_goes_before_its_account_and_that_before_the_tier():
    assert chosen({"judge": "claude-opus-5-5"})["judge"] == "claude-opus-5-5"
    assert chosen({"judge": "claude-opus-5-5"})["builder"] == "claude-sonnet-5-5"
    assert chosen({"builder": "claude-opus-5-5"}, model="claude-haiku-5-5")["builder"] == "claude-haiku-5-5"
    named = chosen({"judge": "claude-opus-5-5"}, models={"judge": "claude-fable-5-2"})
    assert named["judge"] == "claude-fable-5-2"


def test_an_account_goes_before_a_setting_and_that_before_the_tier():
    policy = with_(BY_TIER, role_models={"judge": "claude-haiku-5-5"})
    assert chosen(policy=policy)["judge"] == "claude-haiku-5-5"
    assert chosen({"judge": "claude-opus-5-5"}, policy=policy)["judge"] == "claude-opus-5-5"


@pytest.mark.parametrize(
    ("account", "fields", "field", "says"),
    [
        (None, {"models": {"judge": "gpt"}}, "models.judge", "no model"),
        (None, {"model": "claude-3-opus-20240229"}, "model", "was retired"),
        ({"judge": "claude-3-opus-20240229"}, {}, "models", "the account's policy chose the judge"),
        (
            None,
            {"model": "claude-opus-5-5", "models": {"builder": "claude-haiku-5-5"}},
            "models.builder",
            "two models",
        ),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_by_who_named_it(account, fields, field, says):
    with pytest.raises(BadMessage, match=says) as refused:
        chosen(account, **fields)
    assert refused.value.field == field


def test_a_build_may_reach_the_hosts_of_request_and_account():
    changed = AccountPolicyChanged(account_id="a1", egress_hosts=("a.example.org", "b.example.org"))
    request = REQUEST.model_copy(update={"egress_hosts": ("b.example.org", "c.example.org")})
    fact = decide(INITIAL, AcceptBuild(request, changed), NOW, BY_TIER)[0]
    assert fact.egress_hosts == ("b.example.org", "c.example.org", "a.example.org")
    assert same_request(fact, request)
    assert not same_request(fact, request.model_copy(update={"egress_hosts": ("d.example.org",)}))


def test_a_repeated_request_is_known_whatever_the_account_says_now():
    request = REQUEST.model_copy(update={"models": {"judge": "claude-opus-5-5"}})
    fact = accepted(models={"judge": "claude-opus-5-5"})
    assert same_request(fact, request)
    assert same_request(fact, REQUEST)
    assert not same_request(fact, request.model_copy(update={"models": {"judge": "claude-haiku-5-5"}}))


async def test_the_newest_policy_of_an_account_is_read():
    log = MemoryEventLog()
    policies = EventLogAccountPolicies(log)
    assert await policies.newest("a1") is None
    for number, model in enumerate(("claude-haiku-5-5", "claude-opus-5-5")):
        changed = AccountPolicyChanged(account_id="a1", models={"judge": model})
        await log.append(account_stream("a1"), [NewEvent(changed, UUID(int=number))])
        assert (await policies.newest("a1")).models == {"judge": model}
    assert await policies.newest("a2") is None
