"""The orchestrator's facts about a key that the model provider refuses: one pair of events for each incident."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from nightshift.contracts.events.build_steps import BuildFact
from nightshift.contracts.model import SealedText, Word

KeyId = Annotated[str, Field(min_length=1, max_length=64)]


class ProviderBlocked(BuildFact, type="provider.blocked"):
    """The provider refuses a key since `since`, and every build that needs it waits. `key_id` is a hash of the key.

    With a `model`, it refuses only calls of this model. The event is on the stream of the build that met the refusal
    first; an incident has one such event, whatever the number of builds and replicas.
    """

    key_id: KeyId
    model: Word | None = None
    kind: Literal["auth", "credit", "usage_limit"]
    status: Annotated[int, Field(ge=100, le=599)] | None = None
    detail: SealedText
    since: AwareDatetime


class ProviderRecovered(BuildFact, type="provider.recovered"):
    """The provider accepts the key again, and its builds go on. `since` is that of the `provider.blocked` it ends."""

    key_id: KeyId
    model: Word | None = None
    since: AwareDatetime
