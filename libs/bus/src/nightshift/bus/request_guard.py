"""Refuses a request whose principal has no right to it, before the handler gets it. All services use this guard.

A build belongs to the account in its `build.accepted`. An account may send requests about its own builds. Only the
operator may send requests about money and policies of accounts. A request without a principal is accepted. An
installation that does not trust its producers demands signatures, and then every request has a principal.
"""

from dataclasses import replace

from nightshift.bus.port import Handler, Subscription
from nightshift.contracts.events.build import BuildAccepted
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.model import Owner
from nightshift.contracts.principals import OPERATOR, of_account
from nightshift.eventlog.errors import NotPermitted
from nightshift.eventlog.port import EventLog, RecordedEvent, build_stream


def guarded(subscription: Subscription, log: EventLog) -> Subscription:
    """Return the subscription with handlers that first check the principal of each request.

    A subscription without requests is returned unchanged.
    """
    if any(event.owner is not Owner.OUTSIDE for event in subscription.handlers):
        return subscription
    handlers = {kind: _guarded(handler, log) for kind, handler in subscription.handlers.items()}
    return replace(subscription, handlers=handlers)


def _guarded(handler: Handler, log: EventLog) -> Handler:
    async def handle(event: RecordedEvent) -> None:
        await check_principal(event, log)
        await handler(event)

    return handle


async def check_principal(event: RecordedEvent, log: EventLog) -> None:
    """Raise NotPermitted when the request's principal is an account that does not own the build or account of the
    request.

    A build that does not exist belongs to nobody; its handler refuses the request.
    """
    principal, asked = event.principal, event.data
    if principal is None or principal == OPERATOR:
        return
    if asked.stream == "account":
        raise NotPermitted(
            f"{principal} asks for {asked.type}: accounts, their money and their policies are the operator's",
            hint="send it with the principal `operator`",
        )
    builds = [event.subject]
    if isinstance(asked, BuildRequested):
        _check(principal, asked.account_id, f"a build for account {asked.account_id}")
        builds += [asked.base_build_id] if asked.base_build_id is not None else []
    for build_id in builds:
        account_id = await account_of(build_id, log)
        if account_id is not None:
            _check(
                principal, account_id, f"{asked.type} of build {build_id}, which belongs to another account"
            )


def _check(principal: str, account_id: str, what: str) -> None:
    if principal != of_account(account_id):
        raise NotPermitted(f"{principal} asks for {what}")


async def account_of(build_id: str, log: EventLog) -> str | None:
    """Return the account of a build, or None when the log has no such build."""
    async for event in log.read_stream(build_stream(build_id), limit=1):
        if isinstance(event.data, BuildAccepted):
            return event.data.account_id
    return None
