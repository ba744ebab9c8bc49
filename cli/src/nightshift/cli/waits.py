"""The reasons for which a build makes no progress, each with what a person can do about it. Pure."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nightshift.cli.text import short, text_of
from nightshift.contracts.events.build import BuildWaiting, ModelCallFailed, SleepRequested
from nightshift.contracts.model import Owner

#: What a person can do when the provider refuses a key.
NEW_KEY = "give the key credit, or set another ANTHROPIC_API_KEY and restart the orchestrators"
#: After so many seconds without the next step of a service, `watch` and `builds` report that the build waits.
PROMPT_S = 8.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a build makes no progress since `since`, and what a person can do about it.

    The next event of the service `owner` ends the wait. `until` is when the build continues by itself, or None when no
    time is set.
    """

    reason: str
    action: str
    since: datetime
    owner: Owner
    until: datetime | None = None

    def __str__(self) -> str:
        separator = " " if self.reason.startswith("for ") else ": "
        return f"waits{separator}{self.reason}"

    def as_json(self) -> dict[str, Any]:
        """Returns the wait in the form of `--json`."""
        return {"reason": self.reason, "action": self.action, "since": self.since, "until": self.until}


@dataclass(frozen=True, slots=True)
class Owed:
    """A step that a service must take next for a build, such as the answer to a request for money.

    `since` is when the service was asked for it.
    """

    what: str
    service: str
    since: datetime

    def late(self, now: datetime) -> Wait | None:
        """Returns what to show about a build that waits for this service: for what, since when, and what to do.

        Returns None during the first PROMPT_S seconds of the wait, when nobody needs to know yet.
        """
        seconds = (now - self.since).total_seconds()
        if seconds < PROMPT_S:
            return None
        return Wait(
            f"{self.what} for {seconds:.0f} s"
            if seconds < 120
            else f"{self.what} for {seconds / 60:.0f} min",
            f"see that the {self.service} runs: `nightshift ps`, `nightshift doctor`",
            self.since,
            Owner.ORCHESTRATOR,
        )


def model_wait(fact: ModelCallFailed, build_id: str, at: datetime) -> Wait:
    """Returns the wait that follows a failed model call."""
    status = "" if fact.status is None else f" (HTTP {fact.status})"
    reason = f"the model provider answered {fact.kind}{status}: {short(text_of(fact.detail), 100)}"
    again = "" if fact.retry_at is None else f" at {fact.retry_at.astimezone():%H:%M:%S}"
    action = f"nothing: it is asked again{again}; `nightshift cancel {build_id}` ends the build"
    return Wait(reason, action, at, fact.owner, fact.retry_at)


def key_wait(fact: BuildWaiting, at: datetime) -> Wait:
    """Returns why a build waits whose key the provider refuses, since when, and what to do, as a record for display."""
    why = "" if fact.detail is None else f": {short(text_of(fact.detail), 200)}"
    return Wait(
        f"the model provider refuses the key{why}",
        f"{NEW_KEY}; the build then goes on by itself",
        at,
        fact.owner,
        fact.until,
    )


def sleep_wait(fact: SleepRequested, build_id: str, at: datetime, before: Wait | None) -> Wait:
    """Returns the wait of a sleeping build.

    `before` is the wait during which the build fell asleep, or None when it was at work.
    """
    until = "" if fact.wake_at is None else f" until {fact.wake_at.astimezone():%H:%M:%S}"
    if fact.reason == "budget":
        reason = f"asleep{until}: account {fact.account_id} has too little left today for its next call"
        action = f"`nightshift account top-up {fact.account_id} AMOUNT` wakes it now"
    elif before is not None:
        reason, action = f"asleep{until}: {before.reason}", before.action
    else:
        reason, action = f"asleep{until} ({fact.reason})", f"`nightshift wake {build_id}` wakes it now"
    return Wait(reason, action, at, fact.owner, fact.wake_at)


def overslept(account_id: str, wake_at: datetime, now: datetime) -> Wait | None:
    """Returns the wait of a build that still sleeps after its `wake_at`, or None until PROMPT_S seconds after it.

    The reason is money: the budget service wakes a build only when its account can pay the next call.
    """
    if (now - wake_at).total_seconds() < PROMPT_S:
        return None
    return Wait(
        f"account {account_id} has not enough left for its next call",
        f"`nightshift account top-up {account_id} AMOUNT` wakes it; if money is left, see that the budget service"
        " runs: `nightshift ps`",
        wake_at,
        Owner.ORCHESTRATOR,
    )
