"""Starts the budget service: connects, subscribes to topics, and runs the wake scheduler."""

from typing import NoReturn

from nightshift.budget.adapters.postgres import PostgresLedger
from nightshift.budget.adapters.system_gauges import SystemGauges
from nightshift.budget.handlers import Handlers
from nightshift.budget.settings import BudgetSettings
from nightshift.budget.usecases.account_days import AccountDays
from nightshift.budget.usecases.accounts import Accounts
from nightshift.budget.usecases.grants import Grants
from nightshift.budget.usecases.wake_scheduler import WakeScheduler
from nightshift.budget.usecases.wakes import Wakes
from nightshift.bus.port import Subscription
from nightshift.contracts.model import Owner
from nightshift.eventlog.migrate import role_of
from nightshift.servicekit import service
from nightshift.servicekit.application import application
from nightshift.servicekit.connect import connect

NAME = Owner.BUDGET.value
ROLE = role_of(Owner.BUDGET)

#: Seconds that a fetch of the build topic may wait for more records. Few of its records are requests for money.
_MAX_FETCH_DELAY_S = 0.05


async def start(running: service.Service[BudgetSettings]) -> None:
    """Connect, subscribe to the topics, and run the wake scheduler."""
    settings = running.settings
    services = await connect(running, role=ROLE)
    log, ledger = services.log, PostgresLedger(services.database, services.log)
    days = AccountDays(settings.policy())
    wakes = Wakes(log, ledger, days)
    grants = Grants(log, ledger, days, on_released=wakes.note_money)
    handlers, topics = Handlers(grants, Accounts(log, ledger, days, wakes), wakes), settings.topics
    scheduler = WakeScheduler(
        log,
        grants,
        wakes,
        wake_jitter_s=settings.budget_wake_jitter_s,
        membership=services.membership,
    )
    running.spawn(scheduler.run(), name="wake scheduler")
    running.spawn(SystemGauges(services.database).run(), name="gauges")
    await services.consume(
        [
            Subscription(
                topics.requests,
                topics.group(NAME, topics.requests),
                handlers.on_requests(),
                reports_undecodable=False,  # the orchestrator reads this topic too, and reports them
            ),
            Subscription(
                topics.build,
                topics.group(NAME, topics.build),
                handlers.on_builds(),
                max_fetch_delay_s=_MAX_FETCH_DELAY_S,
            ),
        ]
    )


#: Used by `faststream run nightshift.budget.app:app`.
app = application(NAME, BudgetSettings.load, start)


def main() -> NoReturn:
    """Run the budget service and exit the process with its exit code."""
    service.run(NAME, BudgetSettings.load, start)
