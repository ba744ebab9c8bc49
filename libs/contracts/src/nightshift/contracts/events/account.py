"""Events about an account: requests from outside, and facts that the budget service appends to `account-<id>`."""

from datetime import date
from typing import Annotated, ClassVar, Literal

from pydantic import AwareDatetime, Field

from nightshift.contracts.events.approvals import ApprovalPolicy
from nightshift.contracts.hosts import HostName
from nightshift.contracts.model import EXACT, Count, Event, Id, Microdollars, Owner, Request, Word
from nightshift.contracts.models import Role

#: Hosts that a sandbox may reach.
EgressHosts = Annotated[tuple[HostName, ...], Field(max_length=100)]
#: An IANA time zone, such as `Europe/Berlin`.
TimeZone = Annotated[str, Field(min_length=1, max_length=64)]


class AccountOpened(Request, type="account.opened"):
    """Opens an account that has a budget for each period. Its days end at midnight in `time_zone`."""

    stream: ClassVar[Literal["build", "account"]] = "account"

    account_id: Id
    time_zone: TimeZone = "UTC"
    period_budget_microusd: Annotated[Microdollars, EXACT]
    period_days: Annotated[int, Field(ge=1, le=366), EXACT] = 30


class AccountBudgetSet(Request, type="account.budget_set"):
    """Sets the budget that the account has for each period from now on."""

    stream: ClassVar[Literal["build", "account"]] = "account"

    account_id: Id
    period_budget_microusd: Annotated[Microdollars, EXACT]
    period_days: Annotated[int, Field(ge=1, le=366), EXACT] = 30


class AccountToppedUp(Request, type="account.topped_up"):
    """Adds money to the account for today. Builds that sleep because money was missing wake."""

    stream: ClassVar[Literal["build", "account"]] = "account"

    account_id: Id
    amount_microusd: Annotated[int, Field(gt=0, le=2**53 - 1), EXACT]


class AccountPolicySet(Request, type="account.policy_set"):
    """Sets the policy of the account's later builds. It replaces the earlier policy as a whole.

    `models` names the model of each role, and `approvals` says which tool calls wait for a person. A build's own
    request overrides both. `egress_hosts` are hosts that builds may reach in addition to those of their request.
    `build_cost_limit_microusd` limits the cost of a build whose request names no limit. `max_active_builds` limits how
    many builds may be active at the same time.
    """

    stream: ClassVar[Literal["build", "account"]] = "account"

    account_id: Id
    models: dict[Role, Word] | None = None
    approvals: ApprovalPolicy | None = None
    egress_hosts: EgressHosts | None = None
    build_cost_limit_microusd: Annotated[int, EXACT, Field(ge=1, le=2**53 - 1)] | None = None
    max_active_builds: Annotated[int, EXACT, Field(ge=1, le=10_000)] | None = None


AccountRequest = AccountOpened | AccountBudgetSet | AccountToppedUp | AccountPolicySet


class _AccountFact(Event):
    owner: ClassVar[Owner] = Owner.BUDGET
    stream: ClassVar[Literal["build", "account"]] = "account"


class BudgetPeriodSet(_AccountFact, type="budget.period_set"):
    """The account has this budget for each period. Follows `account.opened` and `account.budget_set`."""

    account_id: Id
    time_zone: TimeZone
    period_budget_microusd: Microdollars
    period_days: int
    period_start: date


class BudgetCredited(_AccountFact, type="budget.credited"):
    """Money was added to the account's day. Follows `account.topped_up`."""

    account_id: Id
    amount_microusd: Microdollars
    day: Word


class BudgetRefreshed(_AccountFact, type="budget.refreshed"):
    """A new day of the account begins: its builds may spend `limit_microusd` until `refresh_at`.

    Appended at most once for each day, when money first moves on that day.
    """

    account_id: Id
    day: Word
    limit_microusd: Microdollars
    spent_in_period_microusd: Microdollars
    days_left: int
    refresh_at: AwareDatetime


class AccountPolicyChanged(_AccountFact, type="account.policy_changed"):
    """The account's later builds have this policy. Follows `account.policy_set`.

    When the orchestrator accepts a build, it reads the newest policy. The build keeps that policy.
    """

    account_id: Id
    models: dict[Role, Word] | None = None
    approvals: ApprovalPolicy | None = None
    egress_hosts: EgressHosts | None = None
    build_cost_limit_microusd: Microdollars | None = None
    max_active_builds: Count | None = None


AccountEvent = BudgetPeriodSet | BudgetCredited | BudgetRefreshed | AccountPolicyChanged
