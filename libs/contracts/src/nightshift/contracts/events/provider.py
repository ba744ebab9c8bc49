"""The orchestrator's facts about a key that the model provider refuses. Each incident has a pair of events."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from nightshift.contracts.events.build_steps import BuildFact
from nightshift.contracts.model import SealedText, Word

KeyId = Annotated[str, Field(min_length=1, max_length=64)]


class ProviderBlocked(BuildFact, type="provider.blocked"):
    """The provider has refused a key since `since`, and every build that needs the key waits.

    `key_id` is a hash of the key. If `model` is set, the provider refuses only calls of that model. The event is in the
    stream of the build that was refused first. An incident has one such event, however many builds and replicas there
    are.
    """

    key_id: KeyId
    model: Word | None = None
    kind: Literal["auth", "credit", "usage_limit"]
    status: Annotated[int, Field(ge=100, le=599)] | None = None
    detail: SealedText
    since: AwareDatetime


class ProviderRecovered(BuildFact, type="provider.recovered"):
    """The provider accepts the key again, and the waiting builds continue.

    `since` is the same as in the event `provider.blocked` of this incident.
    """

    key_id: KeyId
    model: Word | None = None
    since: AwareDatetime
