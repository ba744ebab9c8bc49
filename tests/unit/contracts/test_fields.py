"""Every field and every event of the contracts is used: none is accepted and ignored, none is promised and not sent."""

import ast
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest

from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.model import Owner
from nightshift.contracts.registry import CATALOGUE
from nightshift.eventlog.errors import BadMessage
from nightshift.orchestrator.domain.admission import admit
from nightshift.orchestrator.domain.policy import Policy

ROOT = Path(__file__).parents[3]
REQUEST = BuildRequested(build_id="b", project_id="p", account_id="a", idea_brief="A page")
REQUESTS = [model for model in CATALOGUE.newest.values() if model.owner is Owner.OUTSIDE]
FACTS = [model for model in CATALOGUE.newest.values() if model.owner is not Owner.OUTSIDE]

EVENTS = {model.__name__ for model in CATALOGUE.newest.values()}

#: Fields of facts that no code of ours reads: why a consumer or an auditor wants them.
FOR_CONSUMERS = {
    (
        "model_call.responded",
        "repaired",
    ): "what was changed in an answer that the provider would not take back",
    ("build.accepted", "max_active_builds"): "the SQL function note_build_accounts reads it for the queue",
    ("model_call.responded", "price_version"): "which price table the cost was calculated with",
    ("model_call.failed", "price_version"): "which price table the cost was calculated with",
    ("budget.settled", "reserved_microusd"): "the reservation beside what was posted of it",
    ("budget.settled", "estimated_microusd"): "the part of the charge that a provider's bill may correct",
    ("budget.period_set", "period_start"): "the account's period, for an audit of its days",
    ("budget.refreshed", "limit_microusd"): "what a day may spend, for dashboards",
    ("budget.refreshed", "spent_in_period_microusd"): "how the limit of a day was calculated",
}


class Module:
    """Which names a module uses, which attributes it reads and what it calls."""

    def __init__(self, path: Path) -> None:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        self.reads = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        self.reads |= {name for node in nodes if isinstance(node, ast.MatchClass) for name in node.kwd_attrs}
        self.names = {node.id for node in nodes if isinstance(node, ast.Name)}
        # Some modules import the module of a family and name its events as `build.BuildReady`.
        self.names |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and node.attr in EVENTS}
        self.makes = set(map(made, nodes))


def made(node: ast.AST) -> str | None:
    """The name of the class that this node makes an instance of, if it does."""
    match node:
        case ast.Call(func=ast.Name(id=name)):
            return name
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="model_validate" | "model_construct")):
            return name
        case _:
            return None


@cache
def modules(*folders: str) -> list[Module]:
    return [Module(path) for folder in folders for path in sorted((ROOT / folder).rglob("src/**/*.py"))]


def unread(model) -> set[str]:
    """The fields that no module reads which also names the event."""
    near = [one for one in modules("libs", "services", "cli") if model.__name__ in one.names]
    return set(model.model_fields) - {name for one in near for name in one.reads}


@pytest.mark.parametrize("model", REQUESTS, ids=lambda model: model.type)
def test_every_field_of_a_request_is_read_or_refused(model):
    if model.supported:
        assert unread(model) == model.unsupported_fields
    else:
        assert unread(model) != set()


def test_admission_refuses_exactly_the_unsupported_fields():
    admit(REQUEST, datetime.now(UTC), Policy())
    for field in BuildRequested.unsupported_fields:
        with pytest.raises(BadMessage) as refused:
            admit(REQUEST.model_copy(update={field: "x"}), datetime.now(UTC), Policy())
        assert refused.value.field == field


@pytest.mark.parametrize("model", FACTS, ids=lambda model: model.type)
def test_every_field_of_a_fact_has_a_reader_or_a_purpose(model):
    copied = set(BuildRequested.model_fields) if model.type == "build.accepted" else set()
    listed = {field for type_, field in FOR_CONSUMERS if type_ == model.type}
    if not model.planned:
        assert unread(model) - copied == listed


@pytest.mark.parametrize("model", FACTS, ids=lambda model: model.type)
def test_every_fact_is_appended_by_its_owner_unless_planned(model):
    appended = any(model.__name__ in one.makes for one in modules(f"services/{model.owner}"))
    assert appended is not model.planned
