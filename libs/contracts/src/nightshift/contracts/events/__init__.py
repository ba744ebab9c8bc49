"""All event types. Each module holds one family of events and ends with the union of its types."""

from nightshift.contracts.events.account import AccountEvent, AccountRequest
from nightshift.contracts.events.budget import BudgetEvent
from nightshift.contracts.events.build import BuildEvent
from nightshift.contracts.events.requests import BuildRequest
from nightshift.contracts.events.sandbox import SandboxEvent
from nightshift.contracts.events.snapshot import SnapshotEvent

AnyEvent = (
    BuildRequest | AccountRequest | BuildEvent | SandboxEvent | SnapshotEvent | BudgetEvent | AccountEvent
)

__all__ = [
    "AccountEvent",
    "AccountRequest",
    "AnyEvent",
    "BudgetEvent",
    "BuildEvent",
    "BuildRequest",
    "SandboxEvent",
    "SnapshotEvent",
]
