"""Which requests are refused, with the field in the error."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from tests.unit.orchestrator.build_scenario import NOW, REQUEST, BuildScenario

from nightshift.contracts.events.approvals import ApprovalPolicy
from nightshift.contracts.events.build import BuildAccepted
from nightshift.contracts.events.requests import Attachment, Check, CustomTool, ForkPoint, Source
from nightshift.eventlog.errors import BadMessage
from nightshift.orchestrator.domain.admission import admit, same_request
from nightshift.orchestrator.domain.policy import Policy


def file(name: str = "a", bytes: int = 1, media_type: str = "text/plain") -> Attachment:
    return Attachment.model_construct(
        name=name, digest="sha256:" + "0" * 64, bytes=bytes, media_type=media_type
    )


BAD = {
    "model": {"model": "gpt-imaginary"},
    "attachments.0.media_type": {"attachments": (file(media_type="application/zip"),)},
    "attachments.0.bytes": {"attachments": (file(bytes=5_000_000, media_type="image/png"),)},
    "attachments.0.name": {"attachments": (file(name="half \ud800"),)},
    "attachments": {"attachments": (file(bytes=14_000_000, media_type="application/pdf"),) * 2},
    "source.repository": {"source": Source(repository="https://10.0.0.1/x.git")},
    "source.ref": {"source": Source(repository="https://example.org/x.git", ref="--upload-pack=x")},
    "source.secret": {"source": Source(repository="https://example.org/x.git", secret="TOKEN")},
    "environment": {"environment": {"A": "1"}, "secrets": ("A",)},
    "at": {"base_build_id": "b0"},
    "base_build_id": {"base_build_id": "b1", "at": ForkPoint(turn=1)},
    "message": {"message": "Go on."},
    "tools.0.input_schema": {"tools": (CustomTool(name="pay", description="Pays.", input_schema={}),)},
    "approvals.ask.0": {"approvals": ApprovalPolicy(ask=("pay",))},
    "deadline": {"deadline": NOW - timedelta(seconds=1)},
    "idea_brief": {"idea_brief": "  \n "},
    "criteria.0": {"criteria": ("half \ud800 of a character",)},
    "checks.0.command": {"checks": (Check.model_construct(name="x", command="rm \x1b[2J", timeout_s=1),)},
}


def test_a_deadline_beyond_the_calendar_is_refused():
    far = datetime(9999, 12, 31, 23, 59, tzinfo=timezone(-timedelta(hours=23)))
    with pytest.raises(BadMessage) as refused:
        admit(REQUEST.model_copy(update={"deadline": far}), NOW, Policy())
    assert refused.value.field == "deadline"


@pytest.mark.parametrize("field", BAD)
def test_a_request_that_cannot_be_built_is_refused_by_field(field):
    with pytest.raises(BadMessage) as refused:
        admit(REQUEST.model_copy(update=BAD[field]), NOW, Policy())
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("claude-opus-4-1", "was retired on 2026-08-05"),
        ("claude-sonnet-4-0", "was retired on 2026-06-15"),
        ("claude-opus-9", "no model 'claude-opus-9'"),
    ],
)
def test_a_retired_or_unknown_model_is_refused_by_name(model, said):
    with pytest.raises(BadMessage, match=said):
        admit(REQUEST.model_copy(update={"model": model}), NOW, Policy())


def test_a_model_is_refused_from_the_day_of_its_retirement():
    request = REQUEST.model_copy(update={"model": "claude-sonnet-4-5"})
    admit(request, datetime(2026, 11, 29, tzinfo=UTC), Policy())
    with pytest.raises(BadMessage, match="was retired on 2026-11-30"):
        admit(request, datetime(2026, 11, 30, tzinfo=UTC), Policy())


@pytest.mark.parametrize("idea", [{}, {"name": "half \ud800"}, {"name": "x" * 300_000}])
def test_an_idea_that_no_agent_can_read_is_refused(idea):
    with pytest.raises(BadMessage) as refused:
        admit(REQUEST.model_copy(update={"idea_brief": idea}), NOW, Policy())
    assert refused.value.field == "idea_brief"


def test_a_good_request_is_taken():
    admit(
        REQUEST.model_copy(update={"model": "claude-sonnet-5", "deadline": NOW + timedelta(hours=8)}),
        NOW,
        Policy(),
    )


def test_the_same_request_is_known_after_settings_changed():
    accepted = BuildScenario(policy=Policy(default_model="claude-opus-5", turn_limit=3)).last(BuildAccepted)
    assert same_request(accepted, REQUEST)
    assert not same_request(accepted, REQUEST.model_copy(update={"idea_brief": "Something else."}))
    assert not same_request(accepted, REQUEST.model_copy(update={"model": "claude-sonnet-5"}))
